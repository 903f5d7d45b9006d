"""`muxctl requests`: the clients' requests that run, that wait, and that have ended; with -f those that end."""

import json
import sys
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from typing import Any
from urllib.parse import quote, urlencode

from muxctl.control_connection import ask, stream
from muxctl.display.tables import duration, plain, table
from muxctl.exit_codes import EVERYWHERE, MEANINGS, CommandFailed, ExitCode
from muxctl.socket_path import find_socket
from muxctl.times import stamp

MEANING = """\
Without -f: every request that runs or waits, and the last that have ended.
With -f: a line for each request that ends.  TOKENS counts those of the answer,
~ before it: by the events of a stream that has told no usage.  Nothing that a
request or an answer says is kept."""
EXAMPLES = {
    "muxctl requests": "running, waiting and ended",
    "muxctl requests --model qwen -n 0": "who has, or waits for, one model",
    "muxctl requests -f --key alice": "one API key's, as they end",
    "muxctl requests --cancel 1f3a9c0e17": "end one; its client gets an error",
}
EXITS = EVERYWHERE | {
    ExitCode.NO_MODEL: "no such model, or no such request",
    ExitCode.UNREACHABLE: "muxd unreachable, or it ended while it was followed",
    ExitCode.INTERRUPTED: "interrupted, as -f is meant to end",
    ExitCode.PERMISSION: MEANINGS[ExitCode.PERMISSION],
}

COLUMNS = ("STATE", "ID", "KEY", "MODEL", "ROUTE", "AGE", "WAITED", "FIRST", "TOKENS", "TOK/S", "CLIENT", "END")
_NUMBERS = (5, 6, 7, 8, 9)


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument("-f", "--follow", action="store_true", help="a line for each request that ends, until ^C")
    parser.add_argument("--model", metavar="NAME", help="only requests for this model")
    parser.add_argument("--key", metavar="KEY", help="only requests with the API key of this name")
    parser.add_argument("--state", metavar="STATES", help="running, waiting or ended, several with commas between them")
    parser.add_argument("-n", "--lines", type=_count, metavar="N", help="so many that have ended (20)")
    parser.add_argument("--cancel", metavar="ID", help="end the request with this id")


def _count(text: str) -> int:
    if not text.isdecimal():
        raise ArgumentTypeError(f"{text!r} is not a number of requests")
    return int(text)


def run(options: Namespace) -> int:
    path = find_socket(options.socket)
    if options.cancel is not None:
        answer = ask(path, "POST", f"/v1/requests/{quote(options.cancel, safe='')}/cancel", {})
        print(json.dumps(answer) if options.json else f"request {plain(options.cancel)} is cancelled")
        return ExitCode.OK
    wanted = {"model": options.model, "key": options.key, "lines": options.lines}
    if not options.follow:
        return _list(path, wanted | {"state": options.state}, options)
    if options.state not in (None, "ended"):
        raise CommandFailed("-f follows the requests that end; leave --state out", ExitCode.USAGE)
    query = {"follow": 1, "after": 0, "lines": 0, **_given(wanted)}
    for entry in stream(path, "GET", f"/v1/requests?{urlencode(query)}"):
        print(json.dumps(entry) if options.json else ended_line(entry), flush=True)
    raise CommandFailed("muxd has ended", ExitCode.UNREACHABLE)


def _given(query: dict[str, Any]) -> dict[str, Any]:
    return {field: value for field, value in query.items() if value is not None}


def _list(path: str, wanted: dict[str, Any], options: Namespace) -> int:
    query = urlencode({"lines": 20, **_given(wanted)})
    answer = ask(path, "GET", f"/v1/requests?{query}")
    if options.json:
        print(json.dumps(answer, indent=2))
        return ExitCode.OK
    requests = answer["requests"]
    print("\n".join(table([COLUMNS, *map(_row, requests)], _NUMBERS)))
    if not requests and options.key is not None:
        print(f"muxctl: no request with a key {plain(options.key)}; muxctl keys list has the keys", file=sys.stderr)
    if left_out := answer["left_out"]:
        print(f"... and {left_out} more")
    return ExitCode.OK


def _row(request: dict[str, Any]) -> tuple[str, ...]:
    return (
        request["state"],
        plain(request["id"]),
        plain(request["key"]) or "-",
        plain(request["model"]),
        plain(request["route"]),
        _age(request),
        f"{request['waited_s']:.1f}s",
        _first(request),
        _tokens(request),
        _rate(request),
        plain(request["client"]),
        _end(request),
    )


def ended_line(entry: dict[str, Any]) -> str:
    """Return the line of -f for one request that has ended, or for what is missing."""
    if entry["type"] == "gap":
        return f"... {entry.get('missed', 'some')} requests were missed"
    when = stamp(entry["time"])
    if entry["type"] != "request":
        return f"{when} ... and {entry.get('count', 'some')} more"
    key = f" key={plain(entry['key'])}" if entry["key"] else ""
    figures = f"waited={entry['waited_s']:.1f}s first={_first(entry)} tokens={_tokens(entry)} rate={_rate(entry)}"
    took = f"{entry['duration_s']:.2f}s"
    what = f"{plain(entry['model'])} {plain(entry['route'])} {_end(entry)} {took}"
    return f"{when} {what} {figures}{key} client={plain(entry['client'])} id={plain(entry['request'])}"


def _age(request: dict[str, Any]) -> str:
    seconds = request["duration_s"]
    return f"{seconds:.1f}s" if seconds < 60 else duration(seconds)


def _first(request: dict[str, Any]) -> str:
    first = request["first_token_s"]
    return "-" if first is None else f"{first:.2f}s"


def _tokens(request: dict[str, Any]) -> str:
    count = request["completion_tokens"]
    return f"~{count}" if request["by_events"] else str(count) if count else "-"


def _rate(request: dict[str, Any]) -> str:
    rate = request["tokens_per_s"]
    return "-" if rate is None else f"{rate:.1f}"


def _end(request: dict[str, Any]) -> str:
    if request["state"] != "ended":
        return "-"
    more = request.get("code") or ("" if request.get("end") == "ok" else request.get("end") or "")
    return f"{request.get('status', '?')}{' ' + plain(more) if more else ''}"
