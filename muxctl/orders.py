"""An order for one model, watched until it is carried out: shared by switch, start, stop, restart, sleep and scale."""

import json
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Iterable
from typing import Any

from muxctl.control_connection import AnswerCutOff, DeadlinePassed, ask, model_target, stream
from muxctl.display.progress import JsonLines, PhaseLines, Reporter, goal, is_success
from muxctl.display.tables import on_terminal
from muxctl.exit_codes import EVERYWHERE, MEANINGS, CommandFailed, ExitCode, refusal
from muxctl.socket_path import find_socket
from muxctl.times import seconds_of

EXITS = (
    EVERYWHERE
    | {code: MEANINGS[code] for code in (ExitCode.NO_MODEL, ExitCode.TIMED_OUT, ExitCode.SUPERSEDED)}
    | {ExitCode.INTERRUPTED: "interrupted; what was ordered goes on"}
)

_ACCEPTED = {
    "switch": "muxd switches to {}",
    "hold": "muxd switches to {} and holds it",
    "start": "muxd starts {} if its GPUs have room",
    "stop": "muxd stops {}",
    "restart": "muxd restarts {}",
    "sleep": "muxd puts {} to sleep",
    "scale": "muxd scales {}",
}

_LONGEST_WAIT = 20 * 86400.0  # poll(2) counts milliseconds in 31 bits


def arguments(parser: ArgumentParser, *, now: bool = False) -> None:
    parser.add_argument("name", metavar="NAME", help="a model's name, or what clients call it")
    if now:
        parser.add_argument("--now", action="store_true", help="do not wait for requests in flight: they are cut off")
    parser.add_argument("--no-wait", action="store_true", help="return as soon as muxd has accepted it")
    parser.add_argument("--timeout", metavar="TIME", help='stop watching after "90s", "5min" or seconds; it goes on')


def give(verb: str, options: Namespace, **body: Any) -> int:
    """Give muxd an order and report its progress; return once it is carried out, or accepted with --no-wait.

    Raises CommandFailed if the order fails, is superseded, or is not watched to its end.
    """
    limit = duration_of("--timeout", options.timeout) if options.timeout is not None else None
    path = find_socket(options.socket)
    target = model_target(options.name, f"/{verb}")
    if options.no_wait:
        answer = ask(path, "POST", target, {"wait": False, **body})
        accepted = f"{_ACCEPTED[verb].format(options.name)}; watch it with muxctl status"
        print(json.dumps(answer) if options.json else accepted)
        return ExitCode.OK
    deadline = None if limit is None else time.monotonic() + limit
    try:
        lines = stream(path, "POST", target, {"wait": True, **body}, deadline)
        reporter = _reporter(verb, options, body.get("replicas"))
        reporter.held_for = body.get("for_s")
        return _watch(verb, options.name, lines, reporter)
    except AnswerCutOff:
        end = f"muxd ended, or was upgraded, before {options.name} was {goal(verb)}"
        again = f"give the {verb} again; after an upgrade that waits for the one that goes on"
        raise CommandFailed(f"{end}: {again}", ExitCode.UNREACHABLE) from None
    except DeadlinePassed:
        message = f"{options.name} was not {goal(verb)} within {options.timeout}; {_goes_on(verb, options.name)}"
        raise CommandFailed(message, ExitCode.TIMED_OUT) from None
    except KeyboardInterrupt:
        raise CommandFailed(f"not watching any more; {_goes_on(verb, options.name)}", ExitCode.INTERRUPTED) from None


def _goes_on(verb: str, name: str) -> str:
    return f"the {verb} goes on: see muxctl status {name}"


def duration_of(option: str, text: str) -> float | None:
    """Return the seconds of an option; None for "inf" and for more than _LONGEST_WAIT.  Raises CommandFailed."""
    try:
        limit = seconds_of(text)
    except ValueError as error:
        raise CommandFailed(f"{option}: {error}", ExitCode.USAGE) from None
    return limit if limit <= _LONGEST_WAIT else None


def lasting(text: str | None, what: str) -> float | None:
    """Return the seconds of `--for`; None where it is not given, or endless.  `what` ends the refusal of no time."""
    seconds = duration_of("--for", text) if text is not None else None
    if seconds is not None and seconds <= 0:
        raise CommandFailed(f"--for: {what}", ExitCode.USAGE)
    return seconds


def _reporter(verb: str, options: Namespace, replicas: int | None) -> Reporter:
    """Return who reports of an order; `replicas`: those to which it scales."""
    if options.json:
        return JsonLines(verb)
    if on_terminal():
        from muxctl.display.live import LiveLine

        return LiveLine(verb, replicas)
    return PhaseLines(verb, replicas)


def _watch(verb: str, name: str, lines: Iterable[dict[str, Any]], reporter: Reporter) -> int:
    """Report every line of the answer until the order has ended.  Raises CommandFailed."""
    with reporter:
        for line in lines:
            reporter.take(line)
            if is_success(line):
                return ExitCode.OK
            if line["type"] == "failed":
                raise refusal(line)
    raise CommandFailed(f"muxd ended before {name} was {goal(verb)}; see its log", ExitCode.UNREACHABLE)
