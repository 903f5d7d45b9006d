"""One page for everybody who asks while it is made."""

from collections.abc import Awaitable, Callable
from math import inf

import trio


class _Making:
    """A page under way; `page` stays None when its maker was cancelled."""

    def __init__(self) -> None:
        self.done = trio.Event()
        self.page: bytes | None = None


class SharedPage:
    """One page for everybody who asks while it is made, and a pause between two.

    So scrapers, be they thousands, cost one making at a time, and a bounded share of the process's time.
    """

    def __init__(self, make: Callable[[], Awaitable[bytes]], pause: float = 0.0) -> None:
        """`pause`: seconds from one page's end to the beginning of the next."""
        self._make = make
        self._pause = pause
        self._making: _Making | None = None
        self._next = -inf  # on trio's clock

    async def __call__(self) -> bytes:
        """A page that was begun after the question, unless one was under way."""
        while (making := self._making) is not None:
            await making.done.wait()
            if making.page is not None:
                return making.page
        making = self._making = _Making()
        try:
            if self._pause:
                await trio.sleep_until(max(self._next, trio.current_time()))
            making.page = await self._make()
        finally:
            self._next = trio.current_time() + self._pause
            self._making = None
            making.done.set()
        return making.page
