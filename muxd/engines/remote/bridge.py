"""`python -m muxd.engines.remote.bridge FILE COMMAND ...`: Unix sockets at ports of loopback for a command.

A router speaks TCP alone.  Each line of FILE, "PORT SOCKET", has connections to PORT of 127.0.0.1 passed on to SOCKET,
byte for byte; lines that are added or removed later are followed.  The bridge ends with the command, with its status.
SIGTERM is passed on to the command.
"""

import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import trio

from muxd.ports import HOST

#: Seconds between two looks at the file.
POLL = 0.5


async def run(file: Path, command: Sequence[str]) -> int:
    """Bridge the sockets while the command runs; return its status."""
    async with trio.open_nursery() as nursery:
        await nursery.start(_follow, file)
        process: trio.Process = await nursery.start(partial(trio.run_process, command, check=False))
        nursery.start_soon(_pass_on, process)
        status = await process.wait()
        nursery.cancel_scope.cancel()
    return status if status >= 0 else 128 - status


async def _follow(file: Path, *, task_status: trio.TaskStatus[None]) -> None:
    """Have a bridge for each line of the file, as it is now and as it changes.

    A line that goes takes its port along; connections that run go on.
    """
    listening: dict[str, trio.CancelScope] = {}
    is_started = False
    async with trio.open_nursery() as relays:
        while True:
            lines = _lines(file)
            if set(lines) != listening.keys():
                for line in listening.keys() - set(lines):
                    listening.pop(line).cancel()
                for line in lines:
                    if line not in listening:
                        listening[line] = trio.CancelScope()
                        await relays.start(_listen, line, listening[line], relays)
            if not is_started:
                is_started = True
                task_status.started()
            await trio.sleep(POLL)


def _lines(file: Path) -> list[str]:
    return file.read_text().splitlines()  # some lines in a local file: it takes no time


async def _listen(
    line: str, scope: trio.CancelScope, relays: trio.Nursery, *, task_status: trio.TaskStatus[None]
) -> None:
    """Pass connections to one line's port on until `scope` is cancelled."""
    port, _, path = line.partition(" ")
    serve = partial(trio.serve_tcp, partial(_relay, path), int(port), host=HOST, handler_nursery=relays)
    with scope:
        async with trio.open_nursery() as nursery:
            await nursery.start(serve)
            task_status.started()


async def _pass_on(process: trio.Process) -> None:
    with trio.open_signal_receiver(signal.SIGTERM) as signals:
        async for number in signals:
            process.send_signal(number)


async def _relay(path: str, client: trio.SocketStream) -> None:
    """Pass the bytes of one connection on, both ways, until both sides have ended, or one is gone."""
    try:
        server = await trio.open_unix_socket(path)
    except OSError:
        return  # the client sees its connection end, as from a port that nobody has
    async with server, trio.open_nursery() as nursery:
        nursery.start_soon(_copy, client, server, nursery.cancel_scope)
        nursery.start_soon(_copy, server, client, nursery.cancel_scope)


async def _copy(source: trio.SocketStream, target: trio.SocketStream, scope: trio.CancelScope) -> None:
    try:
        async for data in source:
            await target.send_all(data)
        await target.send_eof()
    except trio.BrokenResourceError:
        scope.cancel()


def main(argv: Sequence[str]) -> int:
    with suppress(KeyboardInterrupt):
        return trio.run(run, Path(argv[0]), argv[1:])
    return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
