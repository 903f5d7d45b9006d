"""`muxctl switch NAME`: make a model ready now, ahead of the queue, and watch it happen."""

import json
import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterable
from typing import Any

from muxctl.connection import DeadlinePassed, ask, model_target, stream
from muxctl.exits import Exit, Failure, refusal
from muxctl.places import find_socket
from muxctl.tables import duration

# Phases of those that give way; every other phase is of the model itself.
_LEAVING = ("draining", "falling_asleep", "stopping", "unresponsive")


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="a model's name, or what clients call it")
    parser.add_argument("--no-wait", action="store_true", help="return as soon as muxd has accepted it")
    parser.add_argument("--timeout", metavar="TIME", help='stop watching after "90s", "5min" or seconds; it goes on')
    parser.epilog = "Exit codes: 0 ready, 1 failed, 4 no such model, 8 timed out, 9 superseded by a newer switch."


def run(options: Namespace) -> int:
    limit = _seconds(options.timeout) if options.timeout else None
    path = find_socket(options.socket)
    target = model_target(options.name, "/switch")
    if options.no_wait:
        answer = ask(path, "POST", target, {"wait": False})
        print(json.dumps(answer) if options.json else f"muxd switches to {options.name}; watch it with muxctl status")
        return Exit.OK
    lines = stream(path, "POST", target, {}, None if limit is None else time.monotonic() + limit)
    try:
        return _watch(lines, _reporter(options))
    except DeadlinePassed:
        message = f"{options.name} was not ready within {options.timeout}; {_goes_on(options.name)}"
        raise Failure(message, Exit.TIMED_OUT) from None
    except KeyboardInterrupt:
        raise Failure(f"not watching any more; {_goes_on(options.name)}", Exit.INTERRUPTED) from None


def _goes_on(name: str) -> str:
    return f"the switch goes on: see muxctl status {name}"


def _seconds(text: str) -> float:
    from muxd.config.units import parse_duration

    try:
        return parse_duration(float(text) if text.replace(".", "", 1).isdigit() else text)
    except ValueError as error:
        raise Failure(f"--timeout: {error}", Exit.USAGE) from None


def _reporter(options: Namespace) -> "Reporter":
    if options.json:
        return JsonLines()
    if sys.stdout.isatty():
        from muxctl.live import LiveLine

        return LiveLine()
    return PhaseLines()


def _watch(lines: Iterable[dict[str, Any]], reporter: "Reporter") -> int:
    """Report every line until the switch has ended."""
    with reporter:
        for line in lines:
            reporter.take(line)
            if line["type"] == "ready":
                return Exit.OK
            if line["type"] == "failed":
                raise refusal(line)
    raise Failure("muxd ended before the switch did; see its log", Exit.UNREACHABLE)


class Reporter:
    """Tells the progress of one switch.  A context manager, for those that must clean up."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, *exc: object) -> None:
        pass

    def take(self, line: dict[str, Any]) -> None:
        raise NotImplementedError


class JsonLines(Reporter):
    """Every line as it came."""

    def take(self, line: dict[str, Any]) -> None:
        print(json.dumps(line), flush=True)


class PhaseLines(Reporter):
    """One line for each phase: what a pipe or a log file wants."""

    def __init__(self, show: Callable[[str], None] = lambda text: print(text, flush=True)) -> None:
        self._show = show
        self._phase = ""

    def take(self, line: dict[str, Any]) -> None:
        if line["type"] == "ready":
            self._show(ready_text(line))
        elif line["type"] == "switching" and (phase := phase_text(line)) != self._phase:
            self._phase = phase
            self._show(phase + eta_text(line))


def phase_text(line: dict[str, Any]) -> str:
    """Who does what: "mistral is draining", "qwen is waking"."""
    leaving = line["phase"] in _LEAVING and line["from"]
    who = " and ".join(line["from"]) if leaving else line["model"]
    return f"{who} {'are' if leaving and len(line['from']) > 1 else 'is'} {phase_name(line['phase'])}"


def phase_name(phase: str) -> str:
    return {"backoff": "waiting before its next start"}.get(phase, phase.replace("_", " "))


def eta_text(line: dict[str, Any]) -> str:
    """Empty when nobody knows, or it is a matter of a moment."""
    eta = line["eta_s"]
    return f", ready in about {duration(eta)}" if eta is not None and eta >= 1 else ""


def ready_text(line: dict[str, Any]) -> str:
    return f"{line['model']} is ready after {line['elapsed_s']:.1f}s"
