"""`muxctl shutdown`: muxd drains, stops its models and ends."""

import json
import os
import select
from argparse import ArgumentParser, Namespace
from contextlib import suppress

from muxctl.control_connection import NOTICE_INTERRUPT, ControlConnection
from muxctl.exit_codes import EVERYWHERE, CommandFailed, ExitCode
from muxctl.socket_path import find_socket

MEANING = """\
muxd finishes the requests in flight (at most shutdown_timeout), ends every
model and then itself.  Under systemd, systemctl stop muxd does the same."""
EXAMPLES = {"muxctl shutdown": "and wait until it has ended", "muxctl shutdown --no-wait": "order it only"}
EXITS = EVERYWHERE | {ExitCode.OK: "muxd has ended", ExitCode.INTERRUPTED: "interrupted; muxd goes on stopping"}


def arguments(parser: ArgumentParser) -> None:
    wait = parser.add_mutually_exclusive_group()
    wait.add_argument("--wait", action="store_true", default=True, help="return when muxd has ended (default)")
    wait.add_argument("--no-wait", action="store_false", dest="wait", help="return when muxd has accepted it")


def run(options: Namespace) -> int:
    path = find_socket(options.socket)
    with ControlConnection(path) as connection, _Process(connection.peer_pid()) as process:
        try:
            connection.ask("POST", "/v1/shutdown", {}).json()
            if options.wait:
                process.wait(path)
        except KeyboardInterrupt:
            raise CommandFailed("not waiting any more; muxd goes on stopping", ExitCode.INTERRUPTED) from None
    if options.json:
        print(json.dumps({"stopped": bool(options.wait)}))
    else:
        print("muxd has stopped" if options.wait else "muxd is stopping")
    return ExitCode.OK


class _Process:
    """The process that listens on the socket, held by a pidfd: its pid alone may come to mean another process."""

    def __init__(self, pid: int) -> None:
        self._fd: int | None = None
        if pid > 0:
            with suppress(OSError):
                self._fd = os.pidfd_open(pid)

    def __enter__(self) -> "_Process":
        return self

    def __exit__(self, *exc: object) -> None:
        if self._fd is not None:
            os.close(self._fd)

    def wait(self, path: str) -> None:
        """Wait until the process has ended or, where there is no pidfd, until nothing answers at `path`."""
        if self._fd is not None:
            while not select.select([self._fd], [], [], NOTICE_INTERRUPT)[0]:
                pass
            return
        poll = select.poll()
        while _answers(path):
            poll.poll(200)


def _answers(path: str) -> bool:
    try:
        with ControlConnection(path):
            return True
    except CommandFailed:
        return False
