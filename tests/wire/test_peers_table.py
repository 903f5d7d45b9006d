"""What other proxies get wrong, one test for each: SSE buffered, clients gone unnoticed, bodies and headers changed."""

import gzip
from collections.abc import Callable

import msgspec
import pytest

from tests.proxy.http_client import HttpClient, chat, post
from tests.proxy.worker import OK, SSE_HEAD, Answer, Call, answer_ok, chunk, event

from .recorder import Recorder
from .wire_env import WireModel


def answers(data: bytes) -> Answer:
    async def answer(call: Call) -> None:
        await call.send(data)

    return answer


@pytest.mark.parametrize("version", [b"1.1", b"1.0"])
async def test_each_event_of_a_stream_arrives_before_the_next_is_sent(wire_model: WireModel, version: bytes) -> None:
    http_client, call = await wire_model.begin(post(wire_model.chat(stream=True), version=version))
    await call.send(SSE_HEAD)
    await http_client.until(b"\r\n\r\n")
    for number in range(10):
        await call.send(event(f"number {number}"))
        await http_client.until(b'data: {"text": "number %d"}\n\n' % number)


LEAVES: list[Callable[[HttpClient], None]] = [HttpClient.close, HttpClient.reset]


@pytest.mark.parametrize("leave", LEAVES)
@pytest.mark.parametrize("begun", [SSE_HEAD + event("1"), SSE_HEAD, b""], ids=["mid-stream", "head", "prefill"])
@pytest.mark.parametrize("stream", [True, False], ids=["stream", "plain"])
async def test_a_client_that_leaves_aborts_its_request(
    wire_model: WireModel, leave: Callable[[HttpClient], None], begun: bytes, stream: bool
) -> None:
    http_client, call = await wire_model.begin(stream=stream)
    await call.send(begun)
    await http_client.at_least(len(begun))
    leave(http_client)
    await call.aborted()


async def test_a_client_that_leaves_in_the_midst_of_a_plain_answer_aborts_it(wire_model: WireModel) -> None:
    http_client, call = await wire_model.begin()
    await call.send(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf")
    await http_client.until(b"half")
    http_client.reset()
    await call.aborted()


async def test_a_client_that_leaves_takes_its_pipelined_requests_with_it(wire_model: WireModel) -> None:
    http_client, call = await wire_model.begin(wire_model.post(number=1) + wire_model.post(number=2))
    http_client.close()
    await call.aborted()
    wire_model.worker.answer = answer_ok
    await wire_model.ask(wire_model.post(number=3))
    assert [msgspec.json.decode(call.body)["number"] for call in wire_model.worker.calls] == [1, 3]


BEGINNINGS = {
    "after an event": [SSE_HEAD, event("1")],
    "after two events in one read": [SSE_HEAD, event("1") + event("2")],
    "after an event whose end came by itself": [SSE_HEAD, event("1")[:-1], event("1")[-1:]],
    "after an event with CRLF": [SSE_HEAD, chunk(b"data: 1\r\n\r\n")],
}


@pytest.mark.parametrize("reset", [False, True], ids=["fin", "reset"])
@pytest.mark.parametrize("pieces", BEGINNINGS.values(), ids=BEGINNINGS)
async def test_a_stream_whose_worker_dies_ends_with_an_error_event_and_not_cleanly(
    wire_model: WireModel, pieces: list[bytes], reset: bool
) -> None:
    http_client, call = await wire_model.begin(stream=True)
    begun = b""
    for piece in pieces:
        await call.send(piece)
        begun += piece
        await http_client.at_least(len(begun))
    if reset:
        call.reset()
    else:
        await call.stream.aclose()
    size, _, last = (await http_client.rest()).removeprefix(begun).partition(b"\r\n")
    assert len(last) == int(size, 16) + 2  # one whole chunk, and no last one
    name, data, *end = last.split(b"\n")
    assert (name, end) == (b"event: error", [b"", b"\r", b""])
    assert msgspec.json.decode(data.removeprefix(b"data: "))["error"]["code"] == "worker_died"


async def test_a_stream_whose_workers_die_after_its_head_ends_with_an_error_event(wire_model: WireModel) -> None:
    async def die(call: Call) -> bool:
        await call.send(SSE_HEAD)
        return False

    wire_model.worker.answer = die
    http_client = await wire_model.connect()
    await http_client.send(wire_model.post(stream=True))
    answer = await http_client.rest()
    assert answer.startswith(SSE_HEAD)
    assert answer.count(b"HTTP/1.1") == 1
    assert b'"code":"worker_died"' in answer
    assert not answer.endswith(b"0\r\n\r\n")
    assert len(wire_model.worker.calls) <= 3


async def test_an_unknown_model_is_not_found_and_reaches_nobody(wire_model: WireModel) -> None:
    reply = await wire_model.ask(post(chat("no/such-model")))
    assert (reply.status, reply.code, reply.json["error"]["param"]) == (404, "model_not_found", "model")
    assert not wire_model.worker.calls


@pytest.mark.parametrize("status", [400, 401, 404, 409, 422, 429, 500, 503, 529, 799])
async def test_an_error_of_the_worker_comes_back_byte_for_byte_and_is_asked_for_once(
    wire_model: WireModel, status: int
) -> None:
    body = b'{"object":"error","message":"no","type":"BadRequestError" , "param":null,"code":%d}' % status
    head = b"HTTP/1.1 %d Own  Words\r\nRetry-After: 7\r\nx-UP: a, b\r\nretry-after: Fri, 31 Dec 1999 23:59:59 GMT\r\n"
    error = head % status + b"content-LENGTH:  %d\r\n\r\n" % len(body) + body
    wire_model.worker.answer = answers(error)
    http_client = await wire_model.connect()
    await http_client.send(wire_model.post(b"Connection: close\r\n"))
    assert await http_client.rest() == error
    assert len(wire_model.worker.calls) == 1


@pytest.mark.parametrize("megabytes", [5, 50])
async def test_a_large_body_arrives_as_it_was_sent(wire_model: WireModel, recorder: Recorder, megabytes: int) -> None:
    body = wire_model.chat(pad="0123456789" * (megabytes * 100_000))
    assert (await wire_model.ask(post(body, path=b"/v1/completions"))).raw == OK
    assert recorder.requests[0].body == body


@pytest.mark.parametrize("size", [30_000, 60_000])
async def test_a_large_header_arrives_as_it_was_sent(wire_model: WireModel, recorder: Recorder, size: int) -> None:
    assert (await wire_model.ask(wire_model.post(b"X-Large: " + b"x" * size + b"\r\n"))).raw == OK
    assert recorder.requests[0].all(b"x-large") == [b"x" * size]


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_compressed_answer_stays_compressed(wire_model: WireModel, chunked: bool) -> None:
    body = gzip.compress(b"hello " * 5000)
    framing = b"transfer-encoding: chunked" if chunked else b"content-length: %d" % len(body)
    sent = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) if chunked else body
    answer = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n%b\r\n\r\n%b" % (framing, sent)
    wire_model.worker.answer = answers(answer)
    http_client = await wire_model.connect()
    await http_client.send(wire_model.post(b"Accept-Encoding: gzip\r\nConnection: close\r\n"))
    assert await http_client.rest() == answer
    assert b"Accept-Encoding: gzip" in wire_model.worker.calls[0].head


async def test_headers_reach_the_worker_with_their_case_order_and_duplicates(wire_model: WireModel) -> None:
    headers = (
        b"X-Custom: v1\r\nAuthorization: Bearer sk-secret\r\nX-Request-Id: r-1\r\nx-custom: v2,  v3\r\n"
        b"traceparent: 00-aa-bb-01\r\nX-Empty: \r\nX-Latin: \xe9\r\nContent-Type: application/json; charset=utf-8\r\n"
        b"Cookie: a=b; c=d\r\nAccept: */*\r\nUser-Agent: OpenAI/Python 2.8\r\nX-Stainless-Lang: python\r\n"
    )
    await wire_model.ask(wire_model.post(headers))
    lines = wire_model.worker.calls[0].head.split(b"\r\n")
    assert [line for line in lines if line in headers.split(b"\r\n")] == headers.split(b"\r\n")[:-1]


BODIES = {
    "unknown fields": b'{"model":"%b","my_ext":{"a":[1,{}]},"chat_template_kwargs":{"enable_thinking":false}}',
    "order": b'{"z":1,"a":2,"model":"%b","m":3}',
    "whitespace": b' {\r\n\t"model" :\n\n "%b" , "a" : [ ]  }\n \n',
    "duplicate keys": b'{"a":1,"model":"nobody","a":2,"model":"%b"}',
    "escapes": b'{"s":"\\u00e9\\ud83d\\ude00\\/\\b","mod\\u0065l":"%b","t":"\xc3\xa9"}',
    "numbers": b'{"big":1234567890123456789012345,"f":1.0,"e":1E400,"z":-0,"d":0.10000000000000000001,"model":"%b"}',
    "deep": b'{"model":"%b","deep":' + b"[" * 400 + b"]" * 400 + b"}",
    "long string first": b'{"pad":"' + b"x" * 300_000 + b'","model":"%b"}',
}


@pytest.mark.parametrize("template", BODIES.values(), ids=BODIES)
async def test_a_body_arrives_byte_for_byte(wire_model: WireModel, recorder: Recorder, template: bytes) -> None:
    body = template.replace(b"%b", wire_model.model.encode())
    assert (await wire_model.ask(post(body, path=b"/v1/completions"))).raw == OK
    assert recorder.requests[0].body == body
