"""A client that is gone: its request ends, wherever it is.  A client that only listens gets its answer."""

from collections.abc import Callable

import pytest
import trio

from .http_client import HttpClient, chat, post
from .proxy_env import ProxyEnv
from .worker import OK, SSE_HEAD, Call, answer_when_released, event

CLOSES: list[Callable[[HttpClient], None]] = [HttpClient.close, HttpClient.reset]


@pytest.fixture(params=CLOSES, ids=["fin", "reset"])
def leave(request: pytest.FixtureRequest) -> Callable[[HttpClient], None]:
    return request.param  # type: ignore[no-any-return]


@pytest.mark.parametrize("stream", [True, False])
async def test_before_the_first_byte(proxy_env: ProxyEnv, leave: Callable[[HttpClient], None], stream: bool) -> None:
    proxy_env.alpha.answer = answer_when_released
    http_client = await proxy_env.connect()
    await http_client.send(post(chat(stream=stream)))
    call = await proxy_env.alpha.calls.nth(0)
    leave(http_client)
    await call.aborted()
    await (await proxy_env.lease()).reports.until((0, 0))


async def test_in_the_midst_of_a_stream_that_pauses(proxy_env: ProxyEnv, leave: Callable[[HttpClient], None]) -> None:
    async def one_event(call: Call) -> None:
        await call.send(SSE_HEAD + event("1"))
        await call.gone.wait()

    proxy_env.alpha.answer = one_event
    http_client = await proxy_env.connect()
    await http_client.send(post(chat(stream=True)))
    await http_client.until(event("1"))
    leave(http_client)
    await proxy_env.alpha.calls[0].aborted()


async def test_in_the_midst_of_a_plain_answer(proxy_env: ProxyEnv, leave: Callable[[HttpClient], None]) -> None:
    async def endless(call: Call) -> None:
        await call.send(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000000\r\n\r\n")
        while not call.gone.is_set():
            await call.send(b"x" * 10_000)

    proxy_env.alpha.answer = endless
    http_client = await proxy_env.connect()
    await http_client.send(post(chat()))
    await http_client.until(b"xxx")
    leave(http_client)
    await proxy_env.alpha.calls[0].aborted()


async def test_while_it_waits_for_its_model(proxy_env: ProxyEnv, leave: Callable[[HttpClient], None]) -> None:
    first, second = await proxy_env.connect(), await proxy_env.connect()
    await first.send(post(chat("beta")))
    lease = await proxy_env.lease()
    await second.send(post(chat("beta")))
    await lease.reports.until((0, 2))
    leave(first)
    await lease.reports.until((0, 1))
    leave(second)
    await lease.reports.until((0, 0))
    lease.grant(proxy_env.beta.url)
    await proxy_env.ask(post(chat("beta")))
    assert len(proxy_env.beta.calls) == 1


async def test_while_its_body_is_on_its_way(proxy_env: ProxyEnv) -> None:
    http_client = await proxy_env.connect()
    await http_client.send(post(chat(pad="x" * 1000))[:-10])
    http_client.close()
    await proxy_env.ask(post(chat()))
    assert proxy_env.proxy.front.held == 0


async def test_a_client_that_has_finished_sending_gets_its_answer(proxy_env: ProxyEnv) -> None:
    go = trio.Event()

    async def slow(call: Call) -> None:
        await go.wait()
        await call.send(OK)

    proxy_env.alpha.answer = slow
    http_client = await proxy_env.connect()
    await http_client.send(post(chat()))
    http_client.finish_sending()
    assert (await http_client.reply()).head == b"HTTP/1.1 100 Continue"  # are you still there?
    go.set()
    assert (await http_client.reply()).raw == OK
    await http_client.closed()


async def test_a_client_that_has_finished_sending_and_is_reset_later_is_gone(proxy_env: ProxyEnv) -> None:
    proxy_env.alpha.answer = answer_when_released
    http_client = await proxy_env.connect()
    await http_client.send(post(chat()))
    http_client.finish_sending()
    await http_client.reply()
    await http_client.reply()  # the second and last time it is asked
    http_client.reset()
    await proxy_env.alpha.calls[0].aborted()


async def test_a_client_that_finishes_sending_in_midst_of_a_stream_gets_the_rest(proxy_env: ProxyEnv) -> None:
    go = trio.Event()

    async def stream(call: Call) -> None:
        await call.send(SSE_HEAD + event("1"))
        await go.wait()
        await call.send(event("2") + b"0\r\n\r\n")

    proxy_env.alpha.answer = stream
    http_client = await proxy_env.connect()
    await http_client.send(post(chat(stream=True)))
    await http_client.until(event("1"))
    http_client.finish_sending()
    await http_client.until(b"3\r\n:\n\n\r\n")  # a comment: are you still there?
    go.set()
    assert (await http_client.rest()).endswith(event("2") + b"0\r\n\r\n")


async def test_an_http_1_0_client_that_finishes_sending_counts_as_gone(proxy_env: ProxyEnv) -> None:
    proxy_env.alpha.answer = answer_when_released
    http_client = await proxy_env.connect()
    await http_client.send(post(chat(), version=b"1.0"))
    call = await proxy_env.alpha.calls.nth(0)
    http_client.finish_sending()
    await call.aborted()
