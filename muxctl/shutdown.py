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
model and then itself.  Under systemd, systemctl stop muxd does the same.
With --leave-workers it ends alone, once no model loads, wakes or falls asleep:
models and proxy serve on, and the next muxd start takes them over."""
EXAMPLES = {
    "muxctl shutdown": "and wait until it has ended",
    "muxctl shutdown --no-wait": "order it only",
    "muxctl shutdown --leave-workers": "end muxd alone",
}
EXITS = EVERYWHERE | {ExitCode.OK: "muxd has ended", ExitCode.INTERRUPTED: "interrupted; muxd goes on stopping"}


def arguments(parser: ArgumentParser) -> None:
    wait = parser.add_mutually_exclusive_group()
    wait.add_argument("--wait", action="store_true", default=True, help="return when muxd has ended (default)")
    wait.add_argument("--no-wait", action="store_false", dest="wait", help="return when muxd has accepted it")

    leave = "leave models and proxy running, to the next muxd"
    parser.add_argument("--leave-workers", action="store_true", help=leave)
    now = "with --leave-workers: do not wait; what loads, wakes or falls asleep is ended by the next muxd"
    parser.add_argument("--now", action="store_true", help=now)


def run(options: Namespace) -> int:
    if options.now and not options.leave_workers:
        raise CommandFailed("--now goes with --leave-workers; muxd stops at once on a second SIGTERM", ExitCode.USAGE)
    body = {"leave_workers": True, "now": options.now} if options.leave_workers else {}
    path = find_socket(options.socket)
    with ControlConnection(path) as connection, _Process(connection.peer_pid()) as process:
        try:
            connection.ask("POST", "/v1/shutdown", body).json()
            if options.wait:
                process.wait(path)
        except KeyboardInterrupt:
            raise CommandFailed("not waiting any more; muxd goes on stopping", ExitCode.INTERRUPTED) from None
    if options.json:
        print(json.dumps({"stopped": bool(options.wait)}))
    else:
        done = "muxd has stopped" if options.wait else "muxd is stopping"
        print(f"{done}; models and proxy run on: muxd start" if options.leave_workers else done)
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
