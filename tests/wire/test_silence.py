"""Workers that do not answer: `upstream_timeout` runs to the head of an answer, and not beyond."""

import socket

import pytest
import trio

from tests.proxy.worker import OK, SSE_HEAD, answer_ok, event

from .wire_env import WireModel


@pytest.fixture(scope="module")
def proxy_keys() -> str:
    return 'upstream_timeout = "300ms"'


@pytest.mark.parametrize("part", [b"", b"HTTP/1.1 100 Continue\r\n\r\n", OK[:30]], ids=["nothing", "interim", "half"])
async def test_a_worker_that_never_answers_is_given_up_and_its_request_aborted(
    wire_model: WireModel, part: bytes
) -> None:
    http_client, call = await wire_model.begin()
    await call.send(part)
    reply = await http_client.reply()
    assert (reply.status, reply.code) == (504, "upstream_timeout")
    await call.aborted()
    wire_model.worker.answer = answer_ok
    assert (await http_client.ask(wire_model.post())).raw == OK


async def test_a_worker_that_never_accepts_is_given_up(wire_model: WireModel) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        wire_model.wire_env.muxd.grants[wire_model.model] = f"http://127.0.0.1:{silent.getsockname()[1]}"
        reply = await wire_model.ask(wire_model.post())
        assert (reply.status, reply.code) == (504, "upstream_timeout")


async def test_a_stream_that_has_begun_may_pause_for_longer(wire_model: WireModel) -> None:
    http_client, call = await wire_model.begin(stream=True)
    await call.send(SSE_HEAD)
    with trio.move_on_after(0.7):
        await call.gone.wait()
    await call.send(event("1") + b"0\r\n\r\n")
    assert (await http_client.reply()).raw == SSE_HEAD + event("1") + b"0\r\n\r\n"
