"""Workers that do not answer: `upstream_timeout` runs to the head of an answer, and not beyond."""

import socket

import pytest
import trio

from tests.proxy.worker import OK, SSE_HEAD, answer_ok, event

from .wire_env import WireUpstream


@pytest.fixture(scope="module")
def proxy_keys() -> str:
    return 'upstream_timeout = "300ms"'


@pytest.mark.parametrize("part", [b"", b"HTTP/1.1 100 Continue\r\n\r\n", OK[:30]], ids=["nothing", "interim", "half"])
async def test_a_worker_that_never_answers_is_given_up_and_its_request_aborted(
    house: WireUpstream, part: bytes
) -> None:
    browser, call = await house.begin()
    await call.send(part)
    reply = await browser.reply()
    assert (reply.status, reply.code) == (504, "upstream_timeout")
    await call.aborted()
    house.worker.answer = answer_ok
    assert (await browser.ask(house.post())).raw == OK


async def test_a_worker_that_never_accepts_is_given_up(house: WireUpstream) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        house.wire_env.muxd.grants[house.model] = f"http://127.0.0.1:{silent.getsockname()[1]}"
        reply = await house.ask(house.post())
        assert (reply.status, reply.code) == (504, "upstream_timeout")


async def test_a_stream_that_has_begun_may_pause_for_longer(house: WireUpstream) -> None:
    browser, call = await house.begin(stream=True)
    await call.send(SSE_HEAD)
    with trio.move_on_after(0.7):
        await call.gone.wait()
    await call.send(event("1") + b"0\r\n\r\n")
    assert (await browser.reply()).raw == SSE_HEAD + event("1") + b"0\r\n\r\n"
