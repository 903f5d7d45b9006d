"""The head that a worker gets: nothing in it that was for the client's own connection."""

import pytest

from muxd.http.request import Request
from muxd.proxy import forwarding
from muxd.proxy.forwarding import worker_head

from .http_client import chat, post
from .proxy_env import ProxyEnv
from .worker import OK


@pytest.mark.parametrize(
    "lines",
    [
        b"Connection: x-first\r\nConnection: x-second\r\n",
        b"Connection: x-first, x-second\r\n",
        b"connection: X-FIRST\r\nX-Other: y\r\nCONNECTION: keep-alive, X-SECOND\r\n",
        b"Connection: keep-alive\r\nConnection: x-second ,x-first\r\nConnection: keep-alive\r\n",
    ],
    ids=["two", "one list", "in other case", "among plain ones"],
)
@pytest.mark.parametrize("before", [True, False], ids=["named later", "named before"])
async def test_what_any_connection_header_names_is_not_passed_on(
    proxy_env: ProxyEnv, lines: bytes, before: bool
) -> None:
    named = b"X-First: 1\r\nX-Second: 2\r\nX-Third: 3\r\n"
    assert (await proxy_env.ask(post(chat(), named + lines if before else lines + named))).raw == OK
    head = proxy_env.alpha.calls[0].head.lower()
    assert b"\r\nx-third: 3" in head
    for gone in (b"x-first", b"x-second", b"connection", b"keep-alive"):
        assert gone not in head


def test_names_that_nobody_will_use_again_fill_no_memory() -> None:
    """A client may think of new ones forever."""
    for length in (10, 1000):
        for number in range(5000):
            name = b"x-%d-" % number + b"y" * length
            request = Request("GET", b"/", [(name, b"v")], b"", "1.1", True)
            assert name + b": v\r\n" in worker_head(request, b"/", b"h")
    assert sum(map(len, forwarding._kind_by_spelling)) < 200_000
