"""Answers that are streams: JSON lines from the supervisor, and logs that a client follows."""

from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

import msgspec
import trio

from muxd.control.service import Message
from muxd.errors import Unavailable, in_words
from muxd.http.response_writer import ResponseWriter
from muxd.merged_logs import LogWindow, MergedLogs
from muxd.threads import in_thread

NDJSON = "application/x-ndjson"
T = TypeVar("T")

_POLL = 0.2  # seconds between looks at a log that has nothing new


def json_line(value: object) -> bytes:
    return msgspec.json.encode(value) + b"\n"


async def while_connected(exchange: ResponseWriter, act: Callable[[], Awaitable[None]]) -> None:
    """Run `act` until it returns, or cancel it when the client disconnects."""
    async with trio.open_nursery() as nursery:

        async def watch() -> None:
            await exchange.disconnected()
            nursery.cancel_scope.cancel()

        nursery.start_soon(watch)
        await act()
        nursery.cancel_scope.cancel()


async def relay(exchange: ResponseWriter, channel: trio.MemoryReceiveChannel[Message]) -> None:
    """Send the channel's messages as JSON lines until it is closed or the client disconnects; then close `channel`."""

    async def pass_on() -> None:
        async for message in channel:
            await exchange.write(json_line(message))

    async with channel:
        await exchange.start_stream(NDJSON)
        if not exchange.head_only:
            await while_connected(exchange, pass_on)


class Logs:
    """The logs route.  Threads read the files: a slow disk delays only the clients that read logs."""

    def __init__(self) -> None:
        self._limiter = trio.CapacityLimiter(4)

    async def send_list(
        self, exchange: ResponseWriter, files: dict[str, Path], window: LogWindow, lost: Message | None
    ) -> None:
        """Send the lines that are there as one JSON answer; `lost` is what the disk refused, if anything.

        Raises Unavailable where a log cannot be read.
        """

        def read() -> list[Message]:
            with MergedLogs(files, window) as merged:
                return merged.rest()

        await exchange.send_json(200, {"lines": await self._in_thread(read)} | ({"lost": lost} if lost else {}))

    async def send_stream(
        self, exchange: ResponseWriter, files: dict[str, Path], window: LogWindow, *, follow: bool
    ) -> None:
        """Send the lines that are there and, with `follow`, those that are appended until the client disconnects.

        Raises Unavailable where a log cannot be opened.
        """
        with await self._in_thread(partial(MergedLogs, files, window)) as merged:
            await exchange.start_stream(NDJSON)
            if not exchange.head_only:
                await while_connected(exchange, partial(self._pass_on, exchange, merged, follow=follow))

    async def _pass_on(self, exchange: ResponseWriter, merged: MergedLogs, *, follow: bool) -> None:
        try:
            while True:
                lines = await self._in_thread(partial(_json_lines, merged.read))
                await exchange.write(lines)
                if not lines and not follow:
                    await exchange.write(await self._in_thread(partial(_json_lines, merged.rest)))
                    return
                if not lines:
                    await trio.sleep(_POLL)
        except Unavailable as problem:
            await exchange.write(json_line(problem.as_json()))

    async def _in_thread(self, read: Callable[[], T]) -> T:
        """Call `read` in one of the threads for logs; raises Unavailable for an OSError."""
        try:
            return await in_thread(read, limiter=self._limiter)
        except OSError as error:
            raise Unavailable(f"cannot read the log: {in_words(error)}") from None


def _json_lines(read: Callable[[], list[Message]]) -> bytes:
    return b"".join(map(json_line, read()))
