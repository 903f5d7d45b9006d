"""`muxctl status --watch`: ask for the status repeatedly, also while muxd is restarted."""

import json
import re
import time
from argparse import Namespace
from collections.abc import Callable
from typing import Any

from muxctl.display.tables import duration, on_terminal
from muxctl.display.view import Compose, View, trouble_text
from muxctl.exit_codes import CommandFailed, ExitCode
from muxctl.times import stamp

_SHORTEST, _LONGEST = 0.1, 86400.0  # seconds between two requests

Asked = Callable[[], dict[str, Any]]
Composer = Callable[[dict[str, Any]], Compose]

# Parts of a line that change with the clock alone: durations, and the blanks that align them.
_CLOCKS = re.compile(r"\d+(?:d|h|min|s)\b(?: \d+(?:h|min|s)\b)?|\s+")

# Failures that may be over at the next request: muxd is down, or ends, or had a fault.
_MAY_PASS = (ExitCode.UNREACHABLE, ExitCode.FAILED)


def watch(options: Namespace, ask: Asked, composer: Composer) -> int:
    """Show the status every --watch seconds until ^C, which is the way to end it; return 0.

    `ask` raises CommandFailed where there is none; `composer` is given each.
    """
    interval = _interval(options)
    try:
        with _view(options, interval) as view:
            while True:
                _update(view, ask, composer)
                view.wait(interval)
    except KeyboardInterrupt:
        return ExitCode.OK


class JsonObjects(View):
    """Prints every status as JSON, one object a line."""

    def show(self, value: dict[str, Any], compose: Compose) -> None:
        print(json.dumps(value, separators=(",", ":")), flush=True)

    def trouble(self, failure: CommandFailed) -> None:
        code = "muxd_unreachable" if failure.code == ExitCode.UNREACHABLE else "failed"
        self.show({"error": {"code": code, "message": failure.message}}, lambda width, height: [])


class Blocks(View):
    """Prints a block, headed by the time, whenever more than the clock has changed; for a pipe or a log file."""

    def __init__(self) -> None:
        self._last = ""

    def show(self, value: dict[str, Any], compose: Compose) -> None:
        self._print(compose(None, None))

    def trouble(self, failure: CommandFailed) -> None:
        self._print([f"{trouble_text(failure)}; waiting for it"])

    def _print(self, lines: list[str]) -> None:
        block = "\n".join(lines)
        if (seen := _CLOCKS.sub(" ", block)) != self._last:
            self._last = seen
            print(f"--- {stamp(time.time())}\n{block}", flush=True)


def _update(view: View, ask: Asked, composer: Composer) -> None:
    try:
        value = ask()
    except CommandFailed as failure:
        if failure.code not in _MAY_PASS:
            raise
        view.trouble(failure)
    else:
        view.show(value, composer(value))


def _view(options: Namespace, interval: float) -> View:
    if options.json:
        return JsonObjects()
    if on_terminal():
        from muxctl.display.screen import Screen

        return Screen(f"every {duration(interval)}" if interval >= 1 else f"every {interval:g}s")
    return Blocks()


def _interval(options: Namespace) -> float:
    """Return the seconds of --watch.  Raises CommandFailed.

    In `status --watch qwen` the word is the model's name, and the seconds are the default.
    """
    text = options.watch
    if options.name is None and not text[:1].isdecimal():
        options.name, text = text, "1"
    try:
        seconds = float(text.removesuffix("s"))
    except ValueError:
        raise CommandFailed(f"--watch takes seconds, not {text}", ExitCode.USAGE) from None
    if not _SHORTEST <= seconds <= _LONGEST:
        raise CommandFailed(f"--watch takes {_SHORTEST:g} to {_LONGEST:.0f} seconds, not {text}", ExitCode.USAGE)
    return seconds
