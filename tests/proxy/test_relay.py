"""What the proxy passes on, it passes on as it is."""

import gzip

import trio

from .http_client import CHAT, chat, post
from .proxy_env import ProxyEnv
from .worker import OK, SSE_HEAD, Answer, Call, answer_ok, chunk, event


def answers(data: bytes) -> Answer:
    async def answer(call: Call) -> None:
        await call.send(data)

    return answer


async def test_the_body_reaches_the_worker_byte_for_byte(proxy_env: ProxyEnv) -> None:
    body = b'{ "model":"alpha-mini" ,"big":12345678901234567890,\n"s":"h\\u00e9","x":1.0, "stream": null}'
    await proxy_env.ask(post(body, path=b"/v1/completions"))
    assert proxy_env.alpha.calls[0].body == body


async def test_a_large_body_reaches_the_worker_byte_for_byte(proxy_env: ProxyEnv) -> None:
    body = chat(pad="xyz" * 300_000)
    await proxy_env.ask(post(body))
    assert proxy_env.alpha.calls[0].body == body


async def test_request_headers_keep_names_case_order_and_duplicates(proxy_env: ProxyEnv) -> None:
    headers = b"content-Type: application/json\r\n"
    headers += b"X-Custom: v1\r\nauthorization: Bearer sk-1\r\nx-custom: v2\r\nX-REQUEST-ID: r\r\nUser-Agent: t/1\r\n"
    body = chat()
    await proxy_env.ask(post(body, headers))
    authority = b"127.0.0.1:%d" % proxy_env.alpha.port
    assert proxy_env.alpha.calls[0].head == (
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: %b\r\n" % authority + headers + b"Content-Length: %d" % len(body)
    )


async def test_headers_about_the_connection_stay_on_it(proxy_env: ProxyEnv) -> None:
    headers = (
        b"Connection: keep-alive, X-Mine\r\nX-Mine: 1\r\nKeep-Alive: timeout=5\r\nTE: trailers\r\n"
        b"Proxy-Authorization: secret\r\nX-Kept: 1\r\n"
    )
    await proxy_env.ask(post(chat(), headers))
    lines = proxy_env.alpha.calls[0].head.split(b"\r\n")
    assert [line.split(b":")[0] for line in lines[1:]] == [b"Host", b"Content-Type", b"X-Kept", b"Content-Length"]


async def test_a_connection_header_cannot_take_the_framing_away(proxy_env: ProxyEnv) -> None:
    await proxy_env.ask(post(chat(), b"Connection: content-length, host\r\n"))
    assert proxy_env.alpha.calls[0].head.count(b"\r\nHost: ") == 1
    assert proxy_env.alpha.calls[0].body == chat()


async def test_the_query_is_passed_on_and_the_path_in_its_listed_spelling(proxy_env: ProxyEnv) -> None:
    await proxy_env.ask(post(chat(), path=b"/v1/%63hat/completions?a=%20b&c"))
    assert proxy_env.alpha.calls[0].head.startswith(b"POST /v1/chat/completions?a=%20b&c HTTP/1.1\r\n")


async def test_an_absolute_target_reaches_the_worker_as_a_path(proxy_env: ProxyEnv) -> None:
    await proxy_env.ask(post(chat(), path=b"http://muxd.test/v1/completions"))
    assert proxy_env.alpha.calls[0].head.startswith(b"POST /v1/completions HTTP/1.1\r\n")


async def test_a_chunked_body_reaches_the_worker_with_its_length(proxy_env: ProxyEnv) -> None:
    body = chat()
    http_client = await proxy_env.connect()
    head = (
        b"POST %b HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\nX-A: 1\r\n\r\n"
        % CHAT
    )
    await http_client.send(head + chunk(body[:9]) + chunk(body[9:]) + b"0\r\n\r\n")
    assert (await http_client.reply()).status == 200
    call = proxy_env.alpha.calls[0]
    assert call.body == body
    assert b"ransfer-" not in call.head
    assert call.head.endswith(b"X-A: 1\r\nContent-Length: %d" % len(body))


async def test_the_answer_comes_back_byte_for_byte(proxy_env: ProxyEnv) -> None:
    assert (await proxy_env.ask(post(chat()))).raw == OK


async def test_an_error_of_the_worker_comes_back_as_it_is(proxy_env: ProxyEnv) -> None:
    error = b"HTTP/1.1 400 Nope\r\nRetry-After: 7\r\nretry-after: 8\r\nContent-Length: 9\r\n\r\n{'x': no}"
    proxy_env.alpha.answer = answers(error)
    assert (await proxy_env.ask(post(chat()))).raw == error


async def test_a_compressed_answer_stays_compressed(proxy_env: ProxyEnv) -> None:
    body = gzip.compress(b"hello" * 1000)
    answer = b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: %d\r\n\r\n" % len(body) + body
    proxy_env.alpha.answer = answers(answer)
    assert (await proxy_env.ask(post(chat()))).raw == answer


async def test_an_answer_of_many_reads_comes_back_byte_for_byte(proxy_env: ProxyEnv) -> None:
    body = bytes(range(256)) * 8000
    answer = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body) + body
    proxy_env.alpha.answer = answers(answer)
    assert (await proxy_env.ask(post(chat()))).raw == answer


async def test_an_answer_without_a_body_leaves_the_connection_usable(proxy_env: ProxyEnv) -> None:
    proxy_env.alpha.answer = answers(b"HTTP/1.1 204 No Content\r\nx: y\r\n\r\n")
    http_client = await proxy_env.connect()
    await http_client.send(post(chat()))
    assert await http_client.until(b"\r\n\r\n") == b"HTTP/1.1 204 No Content\r\nx: y\r\n\r\n"
    http_client.buffer.clear()
    proxy_env.alpha.answer = answer_ok
    assert (await http_client.ask(post(chat()))).raw == OK


async def test_each_event_of_a_stream_comes_as_soon_as_it_is_sent(proxy_env: ProxyEnv) -> None:
    go: trio.MemorySendChannel[None]
    go, gate = trio.open_memory_channel[None](0)

    async def stream(call: Call) -> None:
        await call.send(SSE_HEAD)
        for number in (b"1", b"2", b"3"):
            await gate.receive()
            await call.send(event(number.decode()))
        await call.send(b"0\r\n\r\n")

    proxy_env.alpha.answer = stream
    http_client = await proxy_env.connect()
    await http_client.send(post(chat(stream=True)))
    assert await http_client.until(b"\r\n\r\n") == SSE_HEAD
    sofar = SSE_HEAD
    for number in ("1", "2", "3"):
        await go.send(None)
        sofar += event(number)
        await http_client.at_least(len(sofar))
        assert http_client.buffer.removesuffix(b"0\r\n\r\n") == sofar


async def test_an_answer_that_ends_with_the_connection_comes_whole_and_ends_the_clients_too(
    proxy_env: ProxyEnv,
) -> None:
    async def answer(call: Call) -> bool:
        await call.send(b"HTTP/1.1 200 OK\r\nx: y\r\n\r\nabc")
        return False

    proxy_env.alpha.answer = answer
    http_client = await proxy_env.connect()
    await http_client.send(post(chat()))
    assert await http_client.rest() == b"HTTP/1.1 200 OK\r\nx: y\r\n\r\nabc"


async def test_an_answer_that_says_close_closes_both_connections(proxy_env: ProxyEnv) -> None:
    answer = b"HTTP/1.1 200 OK\r\nConnection: close\r\ncontent-length: 2\r\n\r\nhi"
    proxy_env.alpha.answer = answers(answer)
    http_client = await proxy_env.connect()
    await http_client.send(post(chat()))
    assert await http_client.rest() == answer
    await proxy_env.ask(post(chat()))
    assert proxy_env.alpha.calls[1].connection == 2


async def test_interim_answers_are_dropped_wherever_the_reads_cut_them(proxy_env: ProxyEnv) -> None:
    async def answer(call: Call) -> None:
        for part in (b"HTTP/1.1 10", b"3 Early Hints\r\nLink: x\r", b"\n\r\nHTTP/1.1 100 Continue\r\n\r\n" + OK[:20]):
            await call.send(part)
            await trio.testing.wait_all_tasks_blocked()
        await call.send(OK[20:])

    proxy_env.alpha.answer = answer
    assert (await proxy_env.ask(post(chat()))).raw == OK


async def test_connections_to_the_worker_are_used_again(proxy_env: ProxyEnv) -> None:
    for _ in range(10):
        await proxy_env.ask(post(chat()))
    assert {call.connection for call in proxy_env.alpha.calls} == {1}
