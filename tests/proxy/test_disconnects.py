"""A client that is gone: its request ends, wherever it is.  A client that only listens gets its answer."""

from collections.abc import Callable

import pytest
import trio

from .browser import Browser, chat, post
from .house import House
from .worker import OK, SSE_HEAD, Call, answer_when_released, event

CLOSES: list[Callable[[Browser], None]] = [Browser.close, Browser.reset]


@pytest.fixture(params=CLOSES, ids=["fin", "reset"])
def leave(request: pytest.FixtureRequest) -> Callable[[Browser], None]:
    return request.param  # type: ignore[no-any-return]


@pytest.mark.parametrize("stream", [True, False])
async def test_before_the_first_byte(house: House, leave: Callable[[Browser], None], stream: bool) -> None:
    house.alpha.answer = answer_when_released
    browser = await house.connect()
    await browser.send(post(chat(stream=stream)))
    call = await house.alpha.calls.nth(0)
    leave(browser)
    await call.aborted()
    await (await house.lease()).reports.until((0, 0))


async def test_in_the_midst_of_a_stream_that_pauses(house: House, leave: Callable[[Browser], None]) -> None:
    async def one_event(call: Call) -> None:
        await call.send(SSE_HEAD + event("1"))
        await call.gone.wait()

    house.alpha.answer = one_event
    browser = await house.connect()
    await browser.send(post(chat(stream=True)))
    await browser.until(event("1"))
    leave(browser)
    await house.alpha.calls[0].aborted()


async def test_in_the_midst_of_a_plain_answer(house: House, leave: Callable[[Browser], None]) -> None:
    async def endless(call: Call) -> None:
        await call.send(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000000\r\n\r\n")
        while not call.gone.is_set():
            await call.send(b"x" * 10_000)

    house.alpha.answer = endless
    browser = await house.connect()
    await browser.send(post(chat()))
    await browser.until(b"xxx")
    leave(browser)
    await house.alpha.calls[0].aborted()


async def test_while_it_waits_for_its_model(house: House, leave: Callable[[Browser], None]) -> None:
    first, second = await house.connect(), await house.connect()
    await first.send(post(chat("beta")))
    lease = await house.lease()
    await second.send(post(chat("beta")))
    await lease.reports.until((0, 2))
    leave(first)
    await lease.reports.until((0, 1))
    leave(second)
    await lease.reports.until((0, 0))
    lease.grant(house.beta.url)
    await house.ask(post(chat("beta")))
    assert len(house.beta.calls) == 1


async def test_while_its_body_is_on_its_way(house: House) -> None:
    browser = await house.connect()
    await browser.send(post(chat(pad="x" * 1000))[:-10])
    browser.close()
    await house.ask(post(chat()))
    assert house.proxy.front.held == 0


async def test_a_client_that_has_finished_sending_gets_its_answer(house: House) -> None:
    go = trio.Event()

    async def slow(call: Call) -> None:
        await go.wait()
        await call.send(OK)

    house.alpha.answer = slow
    browser = await house.connect()
    await browser.send(post(chat()))
    browser.finish_sending()
    assert (await browser.reply()).head == b"HTTP/1.1 100 Continue"  # are you still there?
    go.set()
    assert (await browser.reply()).raw == OK
    await browser.closed()


async def test_a_client_that_has_finished_sending_and_is_reset_later_is_gone(house: House) -> None:
    house.alpha.answer = answer_when_released
    browser = await house.connect()
    await browser.send(post(chat()))
    browser.finish_sending()
    await browser.reply()
    await browser.reply()  # the second and last time it is asked
    browser.reset()
    await house.alpha.calls[0].aborted()


async def test_a_client_that_finishes_sending_in_midst_of_a_stream_gets_the_rest(house: House) -> None:
    go = trio.Event()

    async def stream(call: Call) -> None:
        await call.send(SSE_HEAD + event("1"))
        await go.wait()
        await call.send(event("2") + b"0\r\n\r\n")

    house.alpha.answer = stream
    browser = await house.connect()
    await browser.send(post(chat(stream=True)))
    await browser.until(event("1"))
    browser.finish_sending()
    await browser.until(b"3\r\n:\n\n\r\n")  # a comment: are you still there?
    go.set()
    assert (await browser.rest()).endswith(event("2") + b"0\r\n\r\n")


async def test_an_http_1_0_client_that_finishes_sending_counts_as_gone(house: House) -> None:
    house.alpha.answer = answer_when_released
    browser = await house.connect()
    await browser.send(post(chat(), version=b"1.0"))
    call = await house.alpha.calls.nth(0)
    browser.finish_sending()
    await call.aborted()
