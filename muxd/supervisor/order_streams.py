"""The streams of lines to operators who wait for a switch or an order.

Every operator has a channel of JSON-ready lines.  For one who reads too slowly old lines are left out, but never the
last line, which says how the switch or the order ended.
"""

from collections.abc import Callable, Iterator
from typing import Any

import trio

from muxd.core.progress import Progress
from muxd.protocol import seconds

from .progress_pace import ProgressPace
from .wire import Line, OrderEnd, end_line, order_line, switch_line

#: Lines that an operator may lag behind.
LAG = 64


class OrderStream:
    """One operator's lines about one model."""

    def __init__(self, model: str, opened: float, by: str, compose: Callable[[str, Progress], Line]) -> None:
        self.model = model
        self.by = by  # the operator
        self.opened = opened
        self.pace = ProgressPace()
        self._compose = compose
        self._send, self.receive = trio.open_memory_channel[Line](LAG)

    def tell_progress(self, progress: Progress, now: float) -> None:
        """Send a line of how it goes, where one is due."""
        if self.pace.is_due(progress, now):
            self.say(self._compose(self.model, progress))

    def say(self, line: Line) -> None:
        """Send a line; where the channel is full, the oldest line is dropped to make room."""
        try:
            self._send.send_nowait(line)
        except trio.WouldBlock:
            self.receive.receive_nowait()
            self._send.send_nowait(line)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # the operator is gone: the order stands

    def end(self, line: Line | None = None) -> None:
        if line is not None:
            self.say(line)
        self._send.close()


class OrderStreams:
    """The open streams, by the number of the switch or order that each is about."""

    def __init__(self) -> None:
        self._open: dict[int, OrderStream] = {}

    def open_switch(
        self, number: int, model: str, now: float, by: str = ""
    ) -> trio.MemoryReceiveChannel[dict[str, Any]]:
        return self._add(number, OrderStream(model, now, by, switch_line))

    def open_order(
        self, number: int, model: str, now: float, by: str = ""
    ) -> trio.MemoryReceiveChannel[dict[str, Any]]:
        return self._add(number, OrderStream(model, now, by, order_line))

    def operator(self, number: int) -> str:
        """Return who gave an order that is not carried out yet, or ""."""
        return self._open[number].by if number in self._open else ""

    def _add(self, number: int, stream: OrderStream) -> trio.MemoryReceiveChannel[dict[str, Any]]:
        self._open[number] = stream
        return stream.receive

    def __iter__(self) -> Iterator[OrderStream]:
        return iter(self._open.values())

    def say(self, number: int, line: Line) -> None:
        """Tell whoever waits for an order something of it besides how it goes; nobody where it is over."""
        if (stream := self._open.get(number)) is not None:
            stream.say(line)

    def leave(self, number: int) -> bool:
        """End the stream about an order that is not waited for any more; return whether the order was under way."""
        stream = self._open.pop(number, None)
        if stream is not None:
            stream.end()
        return stream is not None

    def end(self, command: OrderEnd, now: float) -> None:
        """Tell an operator how the switch or order ended, with its duration."""
        stream = self._open.pop(command.ticket, None)
        if stream is not None:
            elapsed = seconds(now - stream.opened)
            stream.end({**end_line(command), "model": stream.model, "elapsed_s": elapsed})

    def close(self) -> None:
        """End every stream that is still open."""
        while self._open:
            self._open.popitem()[1].end()
