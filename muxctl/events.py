"""`muxctl events`: what happened, one line each; with -f also what happens from now on."""

import json
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from typing import Any
from urllib.parse import urlencode

from muxctl.control_connection import stream
from muxctl.display.tables import plain
from muxctl.exit_codes import EVERYWHERE, MEANINGS, CommandFailed, ExitCode
from muxctl.socket_path import find_socket
from muxctl.times import stamp, time_window

MEANING = """\
Every change of a model's state, every switch, order and reload, with who did it
and how long it took: the last 1000, over restarts of muxd, too.  Times are of
this host, with their offset; --json has seconds since 1970."""
EXAMPLES = {
    "muxctl events": "what happened so far",
    "muxctl events -f": "and what happens from now on",
    "muxctl events qwen --since 10min": "of one model, of the last ten minutes",
    "muxctl events --type switch -n 20": "the last 20 switches",
    "muxctl events -f --json": "one JSON object a line",
}
EXITS = EVERYWHERE | {
    ExitCode.NO_MODEL: MEANINGS[ExitCode.NO_MODEL],
    ExitCode.UNREACHABLE: "muxd unreachable, or it ended while it was followed",
    ExitCode.INTERRUPTED: "interrupted, as -f is meant to end",
}


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument("-f", "--follow", action="store_true", help="go on with new events until ^C")
    parser.add_argument("name", nargs="?", metavar="NAME", help="only events of this model")
    parser.add_argument(
        "-n", "--lines", metavar="N", type=_count, help="begin N events back; by default with the first"
    )
    parser.add_argument("--since", metavar="TIME", help='"10min" ago, "18:04" or "2026-11-29 18:04:05"')
    parser.add_argument("--until", metavar="TIME", help="likewise")
    parser.add_argument("--type", metavar="TYPES", help="only these, several with commas: state, switch, operator ...")
    parser.add_argument("--after", type=_id, metavar="ID", help="only events younger than this one")


def _count(text: str) -> int:
    if not text.isdecimal():
        raise ArgumentTypeError(f"{text!r} is not a number of events")
    return int(text)


def _id(text: str) -> int:
    if not text.isdecimal():
        raise ArgumentTypeError(f"{text!r} is no event's id: a number, as --json shows it")
    return int(text)


def run(options: Namespace) -> int:
    wanted = {"model": options.name, "type": options.type, "lines": options.lines}
    wanted |= time_window(options.since, options.until)
    query = {"after": 0 if options.after is None else options.after, "follow": int(options.follow)}
    query |= {field: value for field, value in wanted.items() if value is not None}
    for event in stream(find_socket(options.socket), "GET", f"/v1/events?{urlencode(query)}"):
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
    return "?" if when is None else stamp(when)


def _value(value: object) -> str:
    """Return a value as text: lists without brackets, a reload's plan as model:action, a text with blanks in quotes."""
    if isinstance(value, list) and all(isinstance(item, dict) and {"model", "action"} <= item.keys() for item in value):
        value = [f"{item['model']}:{item['action']}" for item in value]
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        value = ",".join(value) or "-"
    text = value if isinstance(value, str) else json.dumps(value)
    return plain(json.dumps(text) if " " in text and isinstance(value, str) else text)
