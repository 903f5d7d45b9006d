"""`muxctl events`: what happened, one line each; with -f also what happens from now on."""

import json
import time
from argparse import ArgumentParser, Namespace
from typing import Any

from muxctl.control_connection import stream
from muxctl.display.tables import plain
from muxctl.exit_codes import EVERYWHERE, CommandFailed, ExitCode
from muxctl.socket_path import find_socket

MEANING = """\
Every change of a model's state, every operator's order and every reload, as far
back as muxd remembers; its memory begins when it is started."""
EXAMPLES = {
    "muxctl events": "what happened so far",
    "muxctl events -f": "and what happens from now on",
    "muxctl events -f --json": "one JSON object a line",
}
EXITS = EVERYWHERE | {
    ExitCode.UNREACHABLE: "muxd unreachable, or it ended while it was followed",
    ExitCode.INTERRUPTED: "interrupted, as -f is meant to end",
}


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument("-f", "--follow", action="store_true", help="go on with new events until ^C")
    parser.add_argument("--after", type=int, metavar="ID", help="only events younger than this one")


def run(options: Namespace) -> int:
    after = 0 if options.after is None else options.after
    target = f"/v1/events?after={after}&follow={int(options.follow)}"
    for event in stream(find_socket(options.socket), "GET", target):
        print(json.dumps(event) if options.json else event_line(event), flush=True)
    if options.follow:
        raise CommandFailed("muxd has ended", ExitCode.UNREACHABLE)
    return ExitCode.OK


def event_line(event: dict[str, Any]) -> str:
    """Return time, kind and model of an event, then its other fields; kinds unknown to this muxctl work too."""
    kind = event.get("type", "event")
    if kind == "gap":
        return f"... {event.get('missed', 'some')} events were missed"
    rest = {key: value for key, value in event.items() if key not in ("id", "time", "type", "model")}
    move = [f"{_value(rest.pop('from'))} -> {_value(rest.pop('to'))}"] if {"from", "to"} <= rest.keys() else []
    facts = [f"{plain(key)}={_value(value)}" for key, value in rest.items() if value is not None]
    return " ".join(
        [_when(event), plain(kind), *([plain(event["model"])] if event.get("model") else []), *move, *facts]
    )


def _when(event: dict[str, Any]) -> str:
    when = event.get("time")
    return "?" if when is None else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(when))


def _value(value: object) -> str:
    """Return a value as text: a list without brackets, a text with blanks in quotes."""
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        value = ",".join(value) or "-"
    text = value if isinstance(value, str) else json.dumps(value)
    return plain(json.dumps(text) if " " in text and isinstance(value, str) else text)
