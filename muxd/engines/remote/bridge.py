"""`python -m muxd.engines.remote.bridge PORT=SOCKET ... -- COMMAND`: Unix sockets at ports of loopback for a command.

A router speaks TCP alone.  Each PORT of 127.0.0.1 is passed on to its SOCKET, byte for byte, for as long as the command
runs; the bridge ends with it, with its status.  SIGTERM is passed on to the command.
"""

import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from functools import partial

import trio

from muxd.ports import HOST

CHUNK = 1 << 16


async def run(sockets: dict[int, str], command: Sequence[str]) -> int:
    """Bridge the sockets while the command runs; return its status."""
    async with trio.open_nursery() as nursery:
        for port, path in sockets.items():
            await nursery.start(partial(trio.serve_tcp, partial(_relay, path), port, host=HOST))
        process: trio.Process = await nursery.start(partial(trio.run_process, command, check=False))
        nursery.start_soon(_pass_on, process)
        status = await process.wait()
        nursery.cancel_scope.cancel()
    return status if status >= 0 else 128 - status


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
    end = argv.index("--")
    sockets = dict(word.split("=", 1) for word in argv[:end])
    with suppress(KeyboardInterrupt):
        return trio.run(run, {int(port): path for port, path in sockets.items()}, argv[end + 1 :])
    return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
