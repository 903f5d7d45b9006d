"""`muxctl upgrade`: muxd becomes the muxd that is installed now, in the same process; all models stay as they are."""

import json
import time
from argparse import ArgumentParser, Namespace
from typing import Any

from muxctl.control_connection import ask
from muxctl.exit_codes import EVERYWHERE, CommandFailed, ExitCode
from muxctl.socket_path import find_socket

MEANING = """\
After an installation of another version: muxd tries whether it starts,
waits until no model loads, wakes or falls asleep, and executes it in its own
place, with the same pid.  Models, clients' streams and the proxy go on; who
connects meanwhile waits.  For a new configuration there is muxctl reload."""
EXAMPLES = {"muxctl upgrade": "and wait until the new muxd answers"}
EXITS = EVERYWHERE | {
    ExitCode.OK: "the new muxd answers",
    ExitCode.FAILED: "refused, and nothing was changed; or the new muxd does not answer",
}

#: Seconds within which two answers about one muxd's start agree, and seconds between two attempts.
_SAME, _PAUSE = 0.05, 0.05

#: Seconds: muxd waits for what loads, and the new one asks every worker whether it lives.
_PREPARATION, _RETURN = 660.0, 60.0


def arguments(parser: ArgumentParser) -> None:
    now = "do not wait: what loads, wakes or falls asleep is ended, and started anew"
    parser.add_argument("--now", action="store_true", help=now)


def run(options: Namespace) -> int:
    path = find_socket(options.socket)
    before = ask(path, "POST", "/v1/upgrade", {"now": options.now}, _PREPARATION)
    after = _next_one(path, before["started"])
    if options.json:
        print(json.dumps({"before": before["version"], "after": after["version"], "pid": after["pid"]}))
    else:
        same = after["version"] == before["version"]
        which = f"{after['version']} again" if same else f"{after['version']}, which was {before['version']}"
        print(f"muxd (pid {after['pid']}) is {which}")
    return ExitCode.OK


def _next_one(path: str, started: float) -> dict[str, Any]:
    """Return what the muxd says that was started later; raise CommandFailed where none answers in time."""
    deadline = time.monotonic() + _RETURN
    while True:
        try:
            answer: dict[str, Any] = ask(path, "GET", "/v1/version", None, _RETURN)
            if abs(answer["started"] - started) > _SAME:
                return answer
        except CommandFailed:
            if time.monotonic() > deadline:
                raise
        time.sleep(_PAUSE)
