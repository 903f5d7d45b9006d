"""`muxctl events`: what happened, one line each; with -f also what happens from now on."""

import json
import time
from argparse import ArgumentParser, Namespace
from typing import Any

from muxctl.connection import stream
from muxctl.exits import Exit, Failure
from muxctl.places import find_socket
from muxctl.tables import plain


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument("-f", "--follow", action="store_true", help="go on with new events until ^C")
    parser.add_argument("--after", type=int, metavar="ID", help="only events younger than this one")


def run(options: Namespace) -> int:
    after = 0 if options.after is None else options.after
    target = f"/v1/events?after={after}&follow={int(options.follow)}"
    for event in stream(find_socket(options.socket), "GET", target):
        print(json.dumps(event) if options.json else event_line(event), flush=True)
    if options.follow:
        raise Failure("muxd has ended", Exit.UNREACHABLE)
    return Exit.OK


def event_line(event: dict[str, Any]) -> str:
    """Time, kind, model, and whatever else the event tells."""
    if event["type"] == "gap":
        return f"... {event['missed']} events were missed"
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(event["time"]))
    rest = {key: value for key, value in event.items() if key not in ("id", "time", "type", "model")}
    move = [f"{rest.pop('from')} -> {rest.pop('to')}"] if {"from", "to"} <= rest.keys() else []
    facts = [f"{key}={_value(value)}" for key, value in rest.items() if value is not None]
    return " ".join([when, event["type"], *([event["model"]] if event.get("model") else []), *move, *facts])


def _value(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return plain(json.dumps(text) if " " in text and isinstance(value, str) else text)
