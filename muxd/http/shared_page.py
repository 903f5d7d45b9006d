"""A page that is made once for all clients that ask for it meanwhile."""

from collections.abc import Awaitable, Callable
from math import inf

import trio


class _Making:
    """A page that is being made; `page` stays None where the task that made it was cancelled."""

    def __init__(self) -> None:
        self.done = trio.Event()
        self.page: bytes | None = None


class SharedPage:
    """A page that is made once for all clients that ask for it meanwhile, with a pause after each.

    So even thousands of scrapers have one page made at a time, and take a bounded share of the process's time.
    """

    def __init__(self, make: Callable[[], Awaitable[bytes]], pause: float = 0.0) -> None:
        """Share the pages that `make` makes; `pause` is the seconds from the end of one to the start of the next."""
        self._make = make
        self._pause = pause
        self._making: _Making | None = None
        self._next = -inf  # when the next page may be started, on trio's clock

    async def __call__(self) -> bytes:
        """Return the page that is being made; where there is none, make one."""
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
