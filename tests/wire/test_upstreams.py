"""Workers that break off, babble, or answer when nobody asked: what their clients get, and that the next is well."""

import pytest
import trio

from tests.proxy.http_client import HttpClient, post
from tests.proxy.record import PATIENCE
from tests.proxy.worker import OK, OK_BODY, SSE_HEAD, Answer, Call, answer_ok, chunk, event

from .wire_env import WireModel

CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


def says(data: bytes, then_closes: bool = True) -> Answer:
    async def answer(call: Call) -> bool:
        await call.send(data)
        if not then_closes:
            await call.gone.wait()
        return False

    return answer


async def all_is_well(wire_model: WireModel, http_client: HttpClient | None = None) -> None:
    """The next request gets its own answer."""
    wire_model.worker.answer = answer_ok
    http_client = http_client or await wire_model.connect()
    assert (await http_client.ask(wire_model.post())).raw == OK


# It closes early


@pytest.mark.parametrize("part", [b"", b"H", b"HTTP/1.1 200 OK\r\ncontent-le", OK.partition(b"\r\n\r\n")[0] + b"\r\n"])
async def test_before_its_head_is_whole_the_client_gets_502_after_few_attempts(
    wire_model: WireModel, part: bytes
) -> None:
    wire_model.worker.answer = says(part)
    http_client = await wire_model.connect()
    reply = await http_client.ask(wire_model.post())
    assert (reply.status, reply.code) == (502, "worker_died")
    assert len(wire_model.worker.calls) <= 3
    await all_is_well(wire_model, http_client)


BROKEN_OFF = {
    "within a length": b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nonly so much",
    "before a body": b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n",
    "within a chunk": CHUNKED + b"64\r\nonly so much",
    "within a chunk's size": CHUNKED + chunk(b"whole") + b"6",
    "after a chunk": CHUNKED + chunk(b"whole") + chunk(b"whole, too"),
    "after a chunk's CR": CHUNKED + b"5\r\nwhole\r",
    "within the last chunk": CHUNKED + chunk(b"whole") + b"0\r\n",
    "within the trailers": CHUNKED + chunk(b"whole") + b"0\r\nX-Sum: 1\r\n",
    "within an event": SSE_HEAD + event("1") + b"40\r\ndata: {",
    "within an event, between chunks": SSE_HEAD + event("1") + chunk(b"data: {"),
}


@pytest.mark.parametrize("answer", BROKEN_OFF.values(), ids=BROKEN_OFF)
async def test_in_the_midst_of_an_answer_the_client_gets_what_came_and_no_clean_end(
    wire_model: WireModel, answer: bytes
) -> None:
    wire_model.worker.answer = says(answer)
    http_client = await wire_model.connect()
    await http_client.send(wire_model.post(stream=True))
    assert await http_client.rest() == answer
    await all_is_well(wire_model)


WHOLE = {
    "with a length": OK,
    "in chunks": CHUNKED + chunk(b"whole") + b"0\r\n\r\n",
    "in events": SSE_HEAD + event("1") + chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n",
    "without a body": b"HTTP/1.1 204 No Content\r\nx: y\r\n\r\n",
    "not modified": b'HTTP/1.1 304 Not Modified\r\netag: "1"\r\ncontent-length: 1000\r\n\r\n',
}


@pytest.mark.parametrize("answer", WHOLE.values(), ids=WHOLE)
async def test_a_worker_that_closes_after_its_answer_costs_the_client_nothing(
    wire_model: WireModel, answer: bytes
) -> None:
    wire_model.worker.answer = says(answer)
    http_client = await wire_model.connect()
    for number in range(5):
        await http_client.send(wire_model.post())
        await http_client.at_least(len(answer))
        assert bytes(http_client.buffer) == answer
        http_client.buffer.clear()
        await wire_model.worker.ended.nth(number)
    await all_is_well(wire_model, http_client)


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
async def test_an_answer_that_ends_with_the_connection_is_whole(wire_model: WireModel, version: bytes) -> None:
    answer = b"HTTP/%b 200 OK\r\ncontent-type: text/plain\r\n\r\nto the end" % version
    wire_model.worker.answer = says(answer)
    http_client = await wire_model.connect()
    await http_client.send(wire_model.post())
    assert await http_client.rest() == answer
    await all_is_well(wire_model)


# It sends garbage


GARBAGE = {
    "ssh": b"SSH-2.0-OpenSSH_9.2\r\n",
    "tls": b"\x15\x03\x01\x00\x02\x02\x28",
    "http/2": b"\0\0\x12\x04\0\0\0\0\0\0\x03\0\0\0\x80",
    "no status": b"HTTP/1.1\r\n\r\n",
    "a status of letters": b"HTTP/1.1 abc\r\n\r\n",
    "a status of two digits": b"HTTP/1.1 20 OK\r\ncontent-length: 0\r\n\r\n",
    "a status of four digits": b"HTTP/1.1 2000 OK\r\ncontent-length: 0\r\n\r\n",
    "HTTP/2 in words": b"HTTP/2 200 OK\r\ncontent-length: 0\r\n\r\n",
    "a switch of protocols": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
    "two lengths": b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nxy",
    "a negative length": b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
    "a length with a plus": b"HTTP/1.1 200 OK\r\ncontent-length: +1\r\n\r\nx",
    "a length that is no number": b"HTTP/1.1 200 OK\r\ncontent-length: many\r\n\r\nx",
    "a length beyond 64 bits": b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999999999999\r\n\r\nx",
    "length and chunks": b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "a NUL in a header": b"HTTP/1.1 200 OK\r\nx: a\0b\r\ncontent-length: 0\r\n\r\n",
    "a folded header": b"HTTP/1.1 200 OK\r\nx: a\r\n b\r\ncontent-length: 0\r\n\r\n",
    "a space before a colon": b"HTTP/1.1 200 OK\r\ncontent-length : 0\r\n\r\n",
    "a bare LF": b"HTTP/1.1 200 OK\r\nx: y\ncontent-length: 0\r\n\r\n",
    "a chunk size that is no number": CHUNKED + b"many\r\n",
    "a negative chunk size": CHUNKED + b"-5\r\nwhole\r\n0\r\n\r\n",
    "a chunk size beyond 64 bits": CHUNKED + b"fffffffffffffffff\r\nwhole\r\n0\r\n\r\n",
    "a chunk longer than its size": CHUNKED + b"1\r\nwhole\r\n0\r\n\r\n",
    "a body where there is none": b"HTTP/1.1 204 No Content\r\n\r\nsome",
    "two answers": OK + OK,
    "an answer and a half": OK + b"HTTP/1.1 2",
    "an endless head": b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 50_000,
}


@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE)
async def test_garbage_is_answered_with_502_and_none_of_it_is_passed_on(wire_model: WireModel, garbage: bytes) -> None:
    wire_model.worker.answer = says(garbage, then_closes=False)
    http_client = await wire_model.connect()
    reply = await http_client.ask(wire_model.post())
    assert (reply.status, reply.code) == (502, "worker_garbled")
    assert len(wire_model.worker.calls) <= 3
    await all_is_well(wire_model, http_client)


@pytest.mark.parametrize("garbage", [b"garbage\r\n", b"-1\r\n", b"5\r\nwhole!!\r\n", b"0\r\n\r\n" + OK])
async def test_garbage_in_the_midst_of_a_stream_is_not_passed_on_and_ends_it(
    wire_model: WireModel, garbage: bytes
) -> None:
    http_client, call = await wire_model.begin(stream=True)
    begin = SSE_HEAD + event("1")
    await call.send(begin)
    await http_client.at_least(len(begin))
    await call.send(garbage)
    rest = (await http_client.rest()).removeprefix(begin)
    assert garbage not in rest
    assert b'"code":"worker_garbled"' in rest
    assert not rest.endswith(b"0\r\n\r\n")
    await all_is_well(wire_model)


# It says more than it was asked


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("interim", [b"100 Continue", b"102 Processing", b"103 Early Hints\r\nLink: </x>; rel=preload"])
async def test_interim_answers_are_not_taken_for_the_answer(wire_model: WireModel, interim: bytes, count: int) -> None:
    http_client, call = await wire_model.begin()
    await call.send((b"HTTP/1.1 " + interim + b"\r\n\r\n") * count)
    await call.send(OK)
    call.released.set()
    while (reply := await http_client.reply()).status < 200:
        pass
    assert reply.raw == OK
    await all_is_well(wire_model, http_client)
    assert {call.connection for call in wire_model.worker.calls} == {1}


async def test_interim_answers_without_end_are_no_answer(wire_model: WireModel) -> None:
    async def forever(call: Call) -> bool:
        while True:
            await call.send(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" * 100)

    wire_model.worker.answer = forever
    reply = await wire_model.ask(wire_model.post())
    assert (reply.status, reply.code) == (502, "worker_garbled")
    await all_is_well(wire_model)


async def test_an_answer_after_the_answer_is_nobodys(wire_model: WireModel) -> None:
    other = OK.replace(OK_BODY, b"x" * len(OK_BODY))
    http_client, call = await wire_model.begin()
    await call.send(OK)
    assert (await http_client.reply()).raw == OK
    await call.send(other)
    await call.aborted()
    await all_is_well(wire_model, http_client)
    assert wire_model.worker.connections == 2


async def test_an_answer_on_an_idle_connection_is_nobodys(wire_model: WireModel) -> None:
    http_client, call = await wire_model.begin()
    await call.send(OK)
    assert (await http_client.reply()).raw == OK
    call.released.set()
    await call.send(b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
    await wire_model.worker.ended.nth(0)
    await all_is_well(wire_model, http_client)
    assert wire_model.worker.connections == 2


async def test_an_answer_in_pieces_of_one_byte_is_one_answer(wire_model: WireModel) -> None:
    http_client, call = await wire_model.begin()
    for byte in OK:
        await call.send(bytes((byte,)))
    call.released.set()
    assert (await http_client.reply()).raw == OK
    await all_is_well(wire_model, http_client)


async def test_an_answer_before_the_whole_request_was_read_is_passed_on(wire_model: WireModel) -> None:
    refusal = b"HTTP/1.1 413 Too Large\r\ncontent-length: 3\r\n\r\nno\n"
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    wire_model.wire_env.muxd.grants[wire_model.model] = f"http://127.0.0.1:{listener.socket.getsockname()[1]}"
    http_client = await wire_model.connect()
    await http_client.send(wire_model.post(pad="x" * 40_000_000))  # more than the kernel's buffers hold
    with trio.fail_after(PATIENCE):
        async with listener, await listener.accept() as first:
            await first.receive_some(100)
            await first.send_all(refusal)
            assert (await http_client.reply()).raw == refusal
            await http_client.send(wire_model.post())
            async with await listener.accept() as second:  # the first would take it for the rest of the body
                await second.receive_some()
                await second.send_all(OK)
                assert (await http_client.reply()).raw == OK


# It comes and goes


async def test_a_worker_that_closes_idle_connections_loses_no_request(wire_model: WireModel) -> None:
    http_client = await wire_model.connect()
    for _ in range(50):
        assert (await http_client.ask(wire_model.post())).raw == OK
        wire_model.worker.close_idle()
    assert len(wire_model.worker.calls) == 50


async def test_an_error_of_one_model_says_nothing_about_another(wire_model: WireModel) -> None:
    async with trio.open_nursery() as nursery:
        http_client, call = await wire_model.begin(stream=True)
        await call.send(SSE_HEAD + event("1"))
        await http_client.until(event("1"))
        unknown = post(b'{"model":"nobody"}')
        nursery.start_soon(wire_model.ask, unknown)
        nursery.start_soon(wire_model.ask, unknown)
    await call.send(event("2"))
    await http_client.until(event("2"))
