"""`muxctl usage`: what each API key took of each model, by day."""

import json
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from typing import Any
from urllib.parse import urlencode

from muxctl.control_connection import ask
from muxctl.display.tables import plain, table
from muxctl.exit_codes import EVERYWHERE, MEANINGS, CommandFailed, ExitCode
from muxctl.socket_path import find_socket

MEANING = """\
Requests and tokens by day (UTC), API key and model; "-" is without a key.
BY EVENTS are tokens of streams that told no usage, counted by their events.
muxd keeps 400 days."""
EXAMPLES = {
    "muxctl usage": "today and the six days before",
    "muxctl usage --days 30 --by key": "sums of each key",
    "muxctl usage --key alice --json": "one key's, for programs",
}
EXITS = EVERYWHERE | {ExitCode.NO_MODEL: MEANINGS[ExitCode.NO_MODEL]}

COUNTS = {
    "requests": "REQUESTS",
    "refused": "REFUSED",
    "prompt_tokens": "PROMPT",
    "cached_tokens": "CACHED",
    "completion_tokens": "COMPLETION",
    "event_tokens": "BY EVENTS",
}
_BY = ("day", "key", "model")


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--days", metavar="N", type=_days, default=7, help="so many days, with today (7)")
    parser.add_argument("--key", metavar="KEY", help="only the API key of this name")
    parser.add_argument("--model", metavar="NAME", help="only this model")
    parser.add_argument("--by", metavar="COLUMNS", type=_columns, help='sums by day, key or model; several: "day,key"')


def _days(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:5]) <= 400):
        raise ArgumentTypeError(f"a whole number from 1 to 400, not {text!r}")
    return int(text)


def _columns(text: str) -> tuple[str, ...]:
    words = [word.strip() for word in text.split(",")]
    if unknown := [word for word in words if word not in _BY]:
        raise ArgumentTypeError(f"there is no column {unknown[0]!r}; there are {', '.join(_BY)}")
    return tuple(column for column in _BY if column in words)


def run(options: Namespace) -> int:
    asked = {"days": options.days, "key": options.key, "model": options.model}
    query = urlencode({field: value for field, value in asked.items() if value is not None})
    rows = _summed(ask(find_socket(options.socket), "GET", f"/v1/usage?{query}")["usage"], options.by or _BY)
    if options.json:
        print(json.dumps(rows, indent=2))
        return ExitCode.OK
    columns = options.by or _BY
    if not rows:
        by = f" with a key {plain(options.key)}; muxctl keys list has the keys" if options.key is not None else ""
        raise CommandFailed(f"nothing was used in that time{by}")
    sums = _summed(rows, ())[0]
    shown = [[*(plain(row[column]) or "-" for column in columns), *_figures(row)] for row in rows]
    head = [column.upper() for column in columns]
    last = ["total", *[""] * (len(columns) - 1), *_figures(sums)]
    print("\n".join(table([[*head, *COUNTS.values()], *shown, last], range(len(columns), len(columns) + len(COUNTS)))))
    return ExitCode.OK


def _summed(rows: list[dict[str, Any]], columns: tuple[str, ...]) -> list[dict[str, Any]]:
    sums: dict[tuple[str, ...], dict[str, Any]] = {}
    for row in rows:
        name = tuple(row[column] for column in columns)
        total = sums.setdefault(name, dict(zip(columns, name, strict=True)) | dict.fromkeys(COUNTS, 0))
        for count in COUNTS:
            total[count] += row.get(count, 0)
    return [sums[name] for name in sorted(sums)]


def _figures(row: dict[str, Any]) -> list[str]:
    return [f"{row[count]:,}" for count in COUNTS]
