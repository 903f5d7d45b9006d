"""The HTTP client of engine calls, with a function in the place of all servers."""

import inspect
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Self

import httpx
import trio

from muxd.http.keepalive_client import ConnectFailed, ExchangeFailed, HttpAnswer


class AnsweringClient:
    """Hands each request to `answer`; what that raises of httpx is what became of the connection.

    A ConnectError has the errno of its cause.
    """

    def __init__(self, answer: Callable[[httpx.Request], httpx.Response | Awaitable[httpx.Response]]) -> None:
        self._answer = answer
        self.prepared: list[str] = []  # the servers that a connection was wanted to

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def prepare(self, url: str) -> None:
        self.prepared.append(url)
        await trio.lowlevel.checkpoint()

    async def exchange(
        self, method: str, url: str, headers: Mapping[bytes, bytes], content: bytes | None, most: int
    ) -> HttpAnswer:
        try:
            found: Any = self._answer(httpx.Request(method, url, headers=dict(headers), content=content))
            response = await found if inspect.isawaitable(found) else found
            body = await response.aread()
        except httpx.ConnectError as error:
            raise ConnectFailed(str(error), getattr(error.__cause__, "errno", None) or 0) from None
        except httpx.HTTPError as error:
            raise ExchangeFailed(str(error)) from None
        return HttpAnswer(response.status_code, body, trio.current_time() if body else None)
