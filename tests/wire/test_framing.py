"""Where one message ends and the next begins, for every client that HTTP/1 allows."""

import msgspec
import pytest

from tests.proxy.http_client import CHAT, get, post
from tests.proxy.worker import OK, OK_BODY, SSE_HEAD, Call, chunk, event

from .recorder import Recorder
from .wire_env import MODELS, WireModel

MAX_HEAD = 128 * 1024


async def echo(call: Call) -> None:
    await call.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(call.body) + call.body)


# Pipelining


async def test_a_hundred_requests_in_one_packet_are_answered_in_their_order(wire_model: WireModel) -> None:
    wire_model.worker.answer = echo
    http_client = await wire_model.connect()
    await http_client.send(
        b"".join(wire_model.post(number=number) + get(b"/v1/models/" + MODELS[1].encode()) for number in range(50))
    )
    for number in range(50):
        assert (await http_client.reply()).json["number"] == number
        assert (await http_client.reply()).json["id"] == MODELS[1]
    assert len({call.connection for call in wire_model.worker.calls}) == 1


async def test_an_answer_of_the_proxy_itself_does_not_overtake_one_of_a_worker(wire_model: WireModel) -> None:
    http_client, call = await wire_model.begin(
        wire_model.post() + get(b"/health") + get(b"/nowhere") + post(b"{}") + wire_model.post()
    )
    await wire_model.caught_up()
    assert not http_client.buffer
    await call.send(OK)
    wire_model.worker.answer = echo
    call.released.set()
    assert (await http_client.reply()).raw == OK
    assert [(await http_client.reply()).status for _ in range(4)] == [200, 404, 400, 200]


async def test_a_stream_ends_before_the_next_answer_begins(wire_model: WireModel) -> None:
    http_client, call = await wire_model.begin(wire_model.post(stream=True) + get(b"/health"))
    answer = SSE_HEAD + event("1") + event("2") + b"0\r\n\r\n"
    for at in range(len(answer)):
        await call.send(answer[at : at + 1])
    assert (await http_client.reply()).raw == answer
    assert (await http_client.reply()).json["status"] == "ok"


async def test_requests_after_one_that_closes_the_connection_are_not_answered(wire_model: WireModel) -> None:
    http_client = await wire_model.connect()
    await http_client.send(wire_model.post(b"Connection: close\r\n") + wire_model.post())
    assert await http_client.rest() == OK
    assert len(wire_model.worker.calls) == 1


async def test_empty_lines_between_requests_are_ignored(wire_model: WireModel) -> None:
    http_client = await wire_model.connect()
    for _ in range(3):
        assert (await http_client.ask(wire_model.post() + b"\r\n")).raw == OK


async def test_a_request_in_pieces_of_one_byte_is_one_request(wire_model: WireModel, recorder: Recorder) -> None:
    http_client = await wire_model.connect()
    for byte in wire_model.post(b"X-A: b\r\n"):
        await http_client.send(bytes((byte,)))
    assert (await http_client.reply()).raw == OK
    assert [request.body for request in recorder.requests] == [wire_model.chat()]


# HEAD


@pytest.mark.parametrize(("path", "status"), [(b"/v1/models", 200), (b"/health", 200), (b"/nowhere", 404), (CHAT, 405)])
async def test_head_gets_the_head_that_get_gets_and_no_body(wire_model: WireModel, path: bytes, status: int) -> None:
    http_client = await wire_model.connect()
    await http_client.send(get(path, b"HEAD") + get(path) + get(b"/health", b"HEAD") + get(b"/health"))
    head = await http_client.reply(to_head=True)
    full = await http_client.reply()
    assert head.status == full.status == status
    if status != 405:  # that one names the method
        assert head.head == full.head
    assert (await http_client.reply(to_head=True)).status == 200
    assert (await http_client.reply()).json["status"] == "ok"
    assert not wire_model.worker.calls


# Expect


async def test_a_client_that_expects_100_continue_gets_it_first(wire_model: WireModel, recorder: Recorder) -> None:
    http_client = await wire_model.connect()
    body = wire_model.chat(pad="x" * 2_000_000)
    for _ in range(2):
        await http_client.send(post(body, b"Expect: 100-continue\r\n").removesuffix(body))
        assert (await http_client.reply()).raw == b"HTTP/1.1 100 Continue\r\n\r\n"
        await http_client.send(body)
        assert (await http_client.reply()).raw == OK
    assert [request.body for request in recorder.requests] == [body, body]
    assert not recorder.requests[0].all(b"expect")


async def test_a_client_that_does_not_wait_for_its_100_continue_loses_nothing(
    wire_model: WireModel, recorder: Recorder
) -> None:
    http_client = await wire_model.connect()
    await http_client.send(wire_model.post(b"Expect: 100-continue\r\n") * 2)
    assert (await http_client.reply()).raw == OK
    assert (await http_client.reply()).raw == OK
    assert [request.body for request in recorder.requests] == [wire_model.chat()] * 2


async def test_a_body_that_would_be_too_large_is_refused_instead_of_asked_for(wire_model: WireModel) -> None:
    http_client = await wire_model.connect()
    head = b"POST %b HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 99999999999\r\n\r\n"
    reply = await http_client.ask(head % CHAT)
    assert (reply.status, reply.code) == (413, "body_too_large")
    await http_client.closed()


# HTTP/1.0


@pytest.mark.parametrize("keep_alive", [b"", b"Connection: keep-alive\r\n", b"Connection: Keep-Alive\r\n"])
@pytest.mark.parametrize("host", [b"", b"Host: muxd.test\r\n"])
async def test_an_http_1_0_client_gets_its_answer_and_the_connections_end(
    wire_model: WireModel, recorder: Recorder, keep_alive: bytes, host: bytes
) -> None:
    body = wire_model.chat()
    head = b"POST %b HTTP/1.0\r\nContent-Type: application/json\r\n%b%bContent-Length: %d\r\n\r\n" % (
        CHAT,
        host,
        keep_alive,
        len(body),
    )
    http_client = await wire_model.connect()
    await http_client.send(head + body)
    answer = await http_client.rest()
    assert answer.endswith(b"\r\n\r\n" + OK_BODY)
    assert b"keep-alive" not in answer.lower()  # it would wait for more on this connection
    assert [request.body for request in recorder.requests] == [body]


async def test_an_http_1_0_client_gets_what_the_proxy_answers_itself_and_the_connections_end(
    wire_model: WireModel,
) -> None:
    http_client = await wire_model.connect()
    await http_client.send(b"GET /health HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
    answer = await http_client.rest()
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"keep-alive" not in answer.lower()


async def test_an_http_1_0_client_gets_a_chunked_answer_bare(wire_model: WireModel) -> None:
    http_client, call = await wire_model.begin(post(wire_model.chat(stream=True), version=b"1.0"))
    answer = SSE_HEAD + event("1") + b"19;ext=1\r\n" + b"x" * 25 + b"\r\n0\r\nX-Trailer: 1\r\n\r\n"
    for at in range(len(answer)):
        await call.send(answer[at : at + 1])
    head, _, body = (await http_client.rest()).partition(b"\r\n\r\n")
    assert b"transfer-encoding" not in head.lower()
    assert body == b'data: {"text": "1"}\n\n' + b"x" * 25


# Heads


def head_of(size: int) -> bytes:
    head = get(b"/health")[:-2] + b"X-Fill: "
    return head + b"x" * (size - len(head) - 4) + b"\r\n\r\n"


async def test_a_head_up_to_its_limit_is_taken_and_one_over_it_refused(wire_model: WireModel) -> None:
    http_client = await wire_model.connect()
    assert (await http_client.ask(head_of(MAX_HEAD - 100))).status == 200
    reply = await http_client.ask(head_of(MAX_HEAD + 100))
    assert (reply.status, reply.code, reply.header(b"connection")) == (431, "head_too_large", b"close")
    await http_client.closed()


@pytest.mark.parametrize("line", [b"X: y\r\n", b"X-Long: " + b"y" * 10_000 + b"\r\n"], ids=["short", "long"])
async def test_a_head_without_an_end_is_refused_as_soon_as_it_is_too_large(wire_model: WireModel, line: bytes) -> None:
    http_client = await wire_model.connect()
    await http_client.send(get(b"/health")[:-2] + line * (MAX_HEAD // len(line) + 1))
    assert (await http_client.reply()).status == 431
    await http_client.closed()


async def test_a_target_without_an_end_is_refused_as_soon_as_it_is_too_large(wire_model: WireModel) -> None:
    http_client = await wire_model.connect()
    await http_client.send(b"GET /" + b"x" * MAX_HEAD)
    assert (await http_client.reply()).status == 431
    await http_client.closed()


async def test_a_thousand_headers_arrive_in_their_order(wire_model: WireModel, recorder: Recorder) -> None:
    await wire_model.ask(wire_model.post(b"".join(b"X-%d: %d\r\n" % (number, number) for number in range(1000))))
    values = [value for name, value in recorder.requests[0].headers if name.startswith(b"x-") and name[2:].isdigit()]
    assert values == [b"%d" % number for number in range(1000)]


async def test_headers_about_the_connection_stay_on_it(wire_model: WireModel, recorder: Recorder) -> None:
    about = (
        b"Connection: keep-alive, X-Mine\r\nX-Mine: 1\r\nKeep-Alive: timeout=5\r\nTE: trailers\r\nTrailer: X-T\r\n"
        b"Proxy-Connection: keep-alive\r\nProxy-Authorization: Basic c2VjcmV0\r\n"
    )
    await wire_model.ask(wire_model.post(about + b"X-Kept: 1\r\n"))
    names = {name for name, _ in recorder.requests[0].headers}
    assert b"x-kept" in names
    assert not names & {line.split(b":")[0].lower() for line in about.splitlines()}


# Other protocols


async def test_a_client_that_would_rather_speak_h2c_is_answered_in_http_1(
    wire_model: WireModel, recorder: Recorder
) -> None:
    upgrade = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABk\r\n"
    http_client = await wire_model.connect()
    await http_client.send(wire_model.post(upgrade) + get(b"/health"))
    assert (await http_client.reply()).raw == OK
    assert (await http_client.reply()).status == 200
    names = {name for name, _ in recorder.requests[0].headers}
    assert not names & {b"upgrade", b"connection", b"http2-settings"}
    assert recorder.requests[0].body == wire_model.chat()


# Trailers


async def test_trailers_of_an_answer_are_passed_on(wire_model: WireModel) -> None:
    answer = SSE_HEAD + event("1") + b"0\r\nX-Sum: 1\r\nserver-timing: a;dur=2\r\n\r\n"
    http_client, call = await wire_model.begin()
    await call.send(answer)
    await http_client.at_least(len(answer))
    assert bytes(http_client.buffer) == answer
    http_client.buffer.clear()
    call.released.set()
    wire_model.worker.answer = echo
    assert (await http_client.ask(wire_model.post())).body == wire_model.chat()
    assert {call.connection for call in wire_model.worker.calls} == {1}


async def test_trailers_of_a_request_do_not_become_headers(wire_model: WireModel, recorder: Recorder) -> None:
    http_client = await wire_model.connect()
    head = (
        b"POST %b HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\n"
        b"Transfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n" % CHAT
    )
    trailers = b"X-Sum: 1\r\nAuthorization: Bearer stolen\r\nHost: other\r\n"
    assert (await http_client.ask(head + chunk(wire_model.chat()) + b"0\r\n" + trailers + b"\r\n")).raw == OK
    assert (await http_client.ask(wire_model.post())).raw == OK
    assert recorder.requests[0].body == wire_model.chat()
    assert b"stolen" not in recorder.bytes
    assert b"X-Sum" not in recorder.bytes


async def test_trailers_without_an_end_are_refused(wire_model: WireModel, recorder: Recorder) -> None:
    http_client = await wire_model.connect()
    head = b"POST %b HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n" % CHAT
    await http_client.send(head + chunk(wire_model.chat()) + b"0\r\n" + b"X: yyyyyyyyyyyyyyy\r\n" * (MAX_HEAD // 10))
    assert (await http_client.reply()).status == 431
    assert not recorder.bytes


# Half-closed clients


async def finals(wire_model: WireModel, request: bytes, *answers: bytes) -> bytes:
    """What a client gets that shuts down its sending side right after its request; interim answers left out."""
    http_client, call = await wire_model.begin(request)
    http_client.finish_sending()
    await wire_model.caught_up()
    for answer in answers:
        await call.send(answer)
    call.released.set()
    received = await http_client.rest()
    while received.startswith(b"HTTP/1.1 1"):
        received = received.partition(b"\r\n\r\n")[2]
    return received


async def test_a_client_that_has_finished_sending_gets_its_answer(wire_model: WireModel) -> None:
    assert await finals(wire_model, wire_model.post(), OK) == OK


async def test_a_client_that_has_finished_sending_gets_all_of_its_stream(wire_model: WireModel) -> None:
    stream = await finals(wire_model, wire_model.post(stream=True), SSE_HEAD + event("1"), event("2"), b"0\r\n\r\n")
    assert stream.replace(chunk(b":\n\n"), b"") == SSE_HEAD + event("1") + event("2") + b"0\r\n\r\n"


async def test_a_client_that_has_finished_sending_gets_all_of_its_pipelined_answers(wire_model: WireModel) -> None:
    wire_model.worker.answer = echo
    http_client = await wire_model.connect()
    await http_client.send(b"".join(wire_model.post(number=number) for number in range(20)) + get(b"/health"))
    http_client.finish_sending()
    bodies: list[bytes] = []
    while len(bodies) < 21:
        reply = await http_client.reply()
        if reply.status >= 200:
            bodies.append(reply.body)
    assert [msgspec.json.decode(body).get("number") for body in bodies] == [*range(20), None]
    await http_client.closed()


async def test_a_client_that_finishes_sending_within_its_request_is_not_waited_for(
    wire_model: WireModel, recorder: Recorder
) -> None:
    for part in (wire_model.post()[:20], wire_model.post()[:-1]):
        http_client = await wire_model.connect()
        await http_client.send(part)
        http_client.finish_sending()
        assert (await http_client.rest())[:12] in (b"", b"HTTP/1.1 400")
    assert not recorder.bytes
