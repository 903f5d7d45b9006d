"""Answers of a server that no engine gives, and what muxd makes of them: a probe or a call that failed."""

import errno
import gzip
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import httpx
import pytest
import trio

from muxd.config import Model
from muxd.engines.engine_client import LONGEST_ANSWER, EngineCallFailed, EngineClient, open_http
from muxd.engines.registry import engine_for
from tests.answering_client import AnsweringClient

MODEL = Model("qwen", model_path="Qwen/Qwen3-14B", served_names=("qwen",), sleep_level=2)


def http(body: bytes, *headers: str, status: str = "200 OK") -> bytes:
    lines = [f"HTTP/1.1 {status}", *headers, f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, "", ""]).encode() + body


def loads(timestamp: str) -> bytes:
    return b'{"loads": [{"timestamp": %s, "num_running_reqs": 0, "num_waiting_reqs": 0}]}' % timestamp.encode()


ENDLESS = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"10000\r\n" + b" " * 0x10000 + b"\r\n"

#: Of these httpx says what is no HTTPError.
NOWHERE = (
    "javascript:1",
    "mailto:x",
    "http://xn--a-ecp.ru",
    "http://" + "xn--" * 20,
    "http://a:" + "9" * 5000,
    "?\x7f",
)

ODD = {
    "nested deeply": http(b"[" * 200_000),
    "nested deeply and closed": http(b"[" * 200_000 + b"]" * 200_000),
    "objects nested deeply": http(b'{"loads":' * 100_000 + b"1" + b"}" * 100_000),
    "a long number": http(loads("1" + "0" * 399)),
    "a longer number": http(loads("1" * 10_000)),
    "an infinite number": http(loads("1e999")),
    "no number": http(loads("NaN")),
    "infinity": http(loads("-Infinity")),
    "half a character": http(b'{"loads": [{"timestamp": "\\ud800", "num_running_reqs": 0}]}'),
    "no JSON": http(b"\xff\xfe\x00 what"),
    "too long": http(b" " * (LONGEST_ANSWER + 1)),
    "packed": http(gzip.compress(b" " * (16 * LONGEST_ANSWER), 1), "Content-Encoding: gzip"),
    "not packed as it says": http(b"{}nothing", "Content-Encoding: gzip, br, zstd, deflate"),
    "a text of bytes": http(b"uryyb", "Content-Type: text/plain; charset=rot13", status="500 No"),
    "an unknown text": http(b"\xff", "Content-Type: text/plain; charset=nonsense", status="418 I'm a teapot"),
    "deep refusal": http(b'{"success": false, "message": ' + b"[" * 100_000, status="400 No"),
    "no HTTP": b"\x00\x01\x02" * 100 + b"\r\n\r\n",
    "a head without an end": b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 1_000_000,
    "a long reason": b"HTTP/1.1 500 " + b"x" * 90_000 + b"\r\n\r\n",
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx",
    "no length": b"HTTP/1.1 200 OK\r\nContent-Length: minus one\r\n\r\nx",
    "a redirect to itself": b"HTTP/1.1 307 No\r\nLocation: /v1/loads\r\nContent-Length: 0\r\n\r\n",
    "a redirect to nowhere": b"HTTP/1.1 307 No\r\nLocation: http://[::bad\r\nContent-Length: 0\r\n\r\n",
    **{f"a redirect to {where}": http(b"", f"Location: {where}", status="302 No") for where in NOWHERE},
    "an odd cookie": http(b"[1]", "Set-Cookie: a=b; expires=Mon, 99 Feb 99999999 00:00:00 GMT; max-age=" + "9" * 400),
    "cut": b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{",
    "nothing": b"",
}  # fmt: skip


@asynccontextmanager
async def answering(answer: bytes, *, endless: bool = False, ending: str = "") -> AsyncIterator[EngineClient]:
    """A server of which every connection gets just that, once it has asked; or none, where it is to end so."""

    async def serve(stream: trio.SocketStream) -> None:
        with suppress(trio.BrokenResourceError):
            async with stream:
                asked = b""
                while not asked.endswith(b"}" if asked.startswith(b"POST") else b"\r\n\r\n"):
                    asked += await stream.receive_some()
                if ending == "silent":
                    await trio.sleep_forever()
                elif ending == "resetting":
                    stream.socket.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                    return
                await stream.send_all(answer)
                while endless:
                    await stream.send_all(b"10000\r\n" + b" " * 0x10000 + b"\r\n")

    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    url = f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}"
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery, open_http() as client:
            if ending == "refusing":
                await listeners[0].aclose()
            else:
                nursery.start_soon(trio.serve_listeners, serve, listeners)
            timeout = 0.2 if ending == "silent" else 10.0
            yield EngineClient(client, url, "admin", lambda _: None, call_timeout=timeout, probe_timeout=timeout)
            nursery.cancel_scope.cancel()


QUESTIONS: dict[str, Callable[[EngineClient], Awaitable[object]]] = {
    "ask": lambda link: link.ask("/v1/loads"),
    "call": lambda link: link.call("reload", "/update_weights_from_disk", {}),
    "probe": lambda link: link.probe("/ready"),
    "page": lambda link: link.page("/metrics", LONGEST_ANSWER),
    "alive": lambda link: engine_for(MODEL).is_alive(link, MODEL),
    "kept": lambda link: engine_for(MODEL).kept_memory(link, "1 GiB"),
}


async def failure_of(question: Awaitable[object]) -> EngineCallFailed | None:
    try:
        await question
    except EngineCallFailed as error:
        return error
    return None


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("question", QUESTIONS)
async def test_an_odd_answer_is_at_most_a_failure_and_said_in_a_line(name, question):
    async with answering(ODD[name]) as link:
        failed = await failure_of(QUESTIONS[question](link))
    assert failed is None or (len(failed.message) < 500 and failed.message.isprintable())


@pytest.mark.parametrize(
    ("question", "name"),
    [
        (q, n)
        for q in ("ask", "call", "page")
        for n in (*ODD, "silent", "refusing", "resetting")
        if (q, n) != ("page", "silent")
    ],  # whose caller limits the time
)
async def test_why_there_is_no_answer_is_said_in_words(question, name):
    """No errno, no name of a class: a person reads it as the reason of a model's state."""
    async with answering(ODD.get(name, b""), ending=name) as link:
        failed = await failure_of(QUESTIONS[question](link))
    assert failed is None or not re.search(r"Errno|Error\(|_Odd|Exception", failed.message), failed


@pytest.mark.parametrize("question", QUESTIONS)
async def test_an_answer_without_an_end_is_left(question):
    async with answering(ENDLESS, endless=True) as link:
        with suppress(EngineCallFailed):
            assert not await QUESTIONS[question](link) or question == "kept"


@pytest.mark.parametrize("name", ["nested deeply", "a long number", "an infinite number", "no number", "packed", "cut"])
async def test_an_odd_answer_is_no_sign_of_life(name):
    async with answering(ODD[name]) as link:
        assert not await engine_for(MODEL).is_alive(link, MODEL)


async def test_an_engine_that_answers_oddly_while_it_falls_asleep_is_not_seen_idle(monkeypatch):
    monkeypatch.setattr("muxd.engines.sglang.engine.IDLE_TIMEOUT", 0.2)
    async with answering(http(b"[" * 200_000)) as link:
        with pytest.raises(EngineCallFailed, match="not seen idle"):
            await engine_for(MODEL).sleep(link, MODEL, 2, [])


def short_of(number: int, times: float) -> AnsweringClient:
    """A client that gets no socket so often, and then an answer."""
    left = [times]

    def answer(_: httpx.Request) -> httpx.Response:
        if left[0] > 0:
            left[0] -= 1
            raise httpx.ConnectError("no") from OSError(number, "none left")
        return httpx.Response(200, stream=httpx.ByteStream(json.dumps({"loads": []}).encode()))

    return AnsweringClient(answer)


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.EADDRNOTAVAIL, errno.ENOBUFS])
async def test_that_muxd_gets_no_socket_says_nothing_of_a_worker(number, autojump_clock):
    async with short_of(number, times=float("inf")) as client:
        link = EngineClient(client, "http://w", "", lambda _: None, call_timeout=5.0, probe_timeout=5.0)
        assert await engine_for(MODEL).is_alive(link, MODEL)
        assert await link.probe("/ready") is None
        with pytest.raises(EngineCallFailed, match="muxd cannot make a connection") as failed:
            await link.call("pause", "/pause_generation", {})
    assert not failed.value.broken


async def test_a_call_for_which_there_is_no_socket_is_sent_when_there_is_one(autojump_clock):
    async with short_of(errno.EMFILE, times=5) as client:
        link = EngineClient(client, "http://w", "", lambda _: None, call_timeout=5.0, probe_timeout=5.0)
        await link.call("pause", "/pause_generation", {})


async def test_a_call_that_was_sent_after_a_lack_is_not_told_as_never_sent(autojump_clock):
    tries = []

    async def answer(_: httpx.Request) -> httpx.Response:
        tries.append(1)
        if len(tries) == 1:
            raise httpx.ConnectError("no") from OSError(errno.EMFILE, "none left")
        await trio.sleep_forever()
        raise AssertionError

    async with AnsweringClient(answer) as client:
        link = EngineClient(client, "http://w", "", lambda _: None, call_timeout=5.0, probe_timeout=5.0)
        with pytest.raises(EngineCallFailed) as failed:
            await link.call("pause", "/pause_generation", {})
    assert "cannot make a connection" not in failed.value.message
    assert len(tries) == 2


async def test_a_worker_that_refuses_connections_is_at_fault_itself(autojump_clock):
    async with short_of(errno.ECONNREFUSED, times=float("inf")) as client:
        link = EngineClient(client, "http://w", "", lambda _: None, call_timeout=5.0, probe_timeout=5.0)
        assert not await engine_for(MODEL).is_alive(link, MODEL)


async def test_cookies_of_a_server_are_not_kept():
    shown = []

    async def answer(request: httpx.Request) -> httpx.Response:
        shown.append(request.headers.get("cookie"))
        return httpx.Response(200, headers={"Set-Cookie": "a=b"}, stream=httpx.ByteStream(b"{}"))

    link = EngineClient(AnsweringClient(answer), "http://w", "", lambda _: None, call_timeout=5.0, probe_timeout=5.0)
    for _ in range(2):
        await link.ask("/v1/loads")
    assert shown == [None, None]


@pytest.mark.parametrize("key", ["ключ", "k\udc80y", "two words", "a\nb"])
async def test_a_key_of_any_characters_is_sent_or_is_a_failure(key):
    async with answering(http(b"[1]")) as link:
        link.use(key, key)
        assert await failure_of(link.call("pause", "/pause_generation", {})) is None or "\n" in key
        assert await link.probe("/ready") in (200, None)
