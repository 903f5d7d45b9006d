"""`muxctl switch NAME`: make a model ready now, ahead of the queue, and watch it happen."""

import json
import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Iterable
from typing import Any

from muxctl.connection import DeadlinePassed, ask, model_target, stream
from muxctl.exits import Exit, Failure, refusal
from muxctl.places import find_socket
from muxctl.progress import JsonLines, PhaseLines, Reporter


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


def _reporter(options: Namespace) -> Reporter:
    if options.json:
        return JsonLines()
    if sys.stdout.isatty():
        from muxctl.live import LiveLine

        return LiveLine()
    return PhaseLines()


def _watch(lines: Iterable[dict[str, Any]], reporter: Reporter) -> int:
    """Report every line until the switch has ended."""
    with reporter:
        for line in lines:
            reporter.take(line)
            if line["type"] == "ready":
                return Exit.OK
            if line["type"] == "failed":
                raise refusal(line)
    raise Failure("muxd ended before the switch did; see its log", Exit.UNREACHABLE)
