"""Thousands of mutilated requests and answers: the proxy lives, and lets through nothing but what is whole.

A failure tells the bytes that did it.
"""

import json
import random
import re
from collections import Counter
from collections.abc import Callable
from contextlib import suppress

import trio

from tests.proxy.http_client import HttpClient, get, post
from tests.proxy.record import PATIENCE
from tests.proxy.worker import OK, SSE_HEAD, Call, answer_ok, chunk, event
from tests.seeds import EVERY

from .recorder import Recorder
from .wire_env import MODELS, WireModel

REQUESTS = 2000 // EVERY
CLIENTS = 20
SEED = 4

PATHS = (b"/v1/chat/completions", b"/v1/completions", b"/v1/embeddings", b"/v1/responses?a=b%20c", b"/v1/messages")

#: What is thrown in: everything that means something to somebody.
SPICES = (
    b"\r\n", b"\n", b"\r", b"\r\n\r\n", b"\n\n", b"\0", b" ", b"\t", b":", b";", b",", b"\x7f", b"\xff", b"0\r\n\r\n",
    b"Content-Length: 0\r\n", b"Content-Length: 5\r\n", b"Content-Length: 99999999999999999999\r\n", b"Host: other\r\n",
    b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding: identity\r\n", b"Connection: close\r\n",
    b"Connection: Upgrade\r\nUpgrade: h2c\r\n", b"Expect: 100-continue\r\n", b"X: " + b"y" * 5000 + b"\r\n",
    b" HTTP/1.0\r\n", b" HTTP/1.1\r\n", b"GET / HTTP/1.1\r\n", b"\r\n folded", b"%00", b"../", b"#", b"?",
)  # fmt: skip


def seeds(chat: Callable[..., bytes]) -> list[bytes]:
    bodies = [chat(), chat(stream=True, text='h\u00e9 \\ "'), chat(pad="x" * 3000)]
    whole = [post(body, b"X-A: b\r\nAccept: */*\r\n", path) for path in PATHS for body in bodies]
    chunked = [_chunked(path, body) for path in PATHS for body in bodies]
    old = [post(body, b"Connection: keep-alive\r\n", version=b"1.0") for body in bodies]
    expecting = [post(body, b"Expect: 100-continue\r\n") for body in bodies]
    return (
        whole
        + chunked
        + old
        + expecting
        + [get(b"/health"), get(b"/v1/models/" + MODELS[1].encode()), get(b"/nowhere")]
    )


def _chunked(path: bytes, body: bytes) -> bytes:
    head = post(b"", path=path).replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
    pieces = [body[at : at + 700] for at in range(0, len(body), 700)]
    return head + b"".join(map(chunk, pieces)) + b"0\r\n\r\n"


def mutilated(rng: random.Random, known: list[bytes]) -> bytes:
    """A valid request, or the beginning of one and the end of another, with a few things wrong."""
    data = bytearray(rng.choice(known))
    if rng.random() < 0.3:
        other = rng.choice(known)
        data[rng.randrange(len(data)) :] = other[rng.randrange(len(other)) :]
    for _ in range(rng.choice((0, 1, 1, 1, 2, 5))):
        at = min(rng.randrange(len(data) + 1), rng.choice((50, 200, 10_000)))
        match rng.randrange(5):
            case 0 if at < len(data):
                data[at] ^= 1 << rng.randrange(8)
            case 1:
                data[at:at] = rng.choice(SPICES)
            case 2:
                del data[at : at + rng.choice((1, 2, 10, 1000))]
            case 3:
                data[at:at] = data[at : at + rng.randrange(200)]
            case _:
                data[at:at] = rng.choice(known)
    return bytes(data)


_ANSWER = re.compile(rb"HTTP/1\.[01] ([1-5][0-9][0-9]) [ -~]+\r\n((?:[!-9;-~]+: [ -~]*\r\n)*)\r\n")


def statuses(received: bytes) -> list[int]:
    """Of all answers, which must be whole; none of them may be to a HEAD."""
    found = []
    while received:
        answer = _ANSWER.match(received)
        assert answer, received[:500]
        status, headers = int(answer[1]), answer[2].lower()
        length = re.search(rb"(?m)^content-length: (\d+)\r$", headers)
        size = int(length[1]) if length else 0
        assert bool(length) == (status >= 200), headers
        assert len(received) >= answer.end() + size
        received = received[answer.end() + size :]
        found.append(status)
    return found


async def received_by(http_client: HttpClient) -> bytes:
    """Everything until the connection ends, be it by a reset."""
    try:
        return await http_client.rest()
    except trio.BrokenResourceError:
        return bytes(http_client.buffer)


async def converse(wire_model: WireModel, rng: random.Random, data: bytes) -> list[int]:
    """Send it in pieces, say that this is all, and take what comes."""
    http_client = await wire_model.wire_env.connect()
    async with http_client.stream:
        cuts = sorted(rng.randrange(len(data) + 1) for _ in range(rng.choice((0, 0, 1, 3, 10))))
        sent_all = False
        with suppress(OSError, trio.BrokenResourceError):
            for begin, end in zip([0, *cuts], [*cuts, len(data)], strict=True):
                await http_client.send(data[begin:end])
            http_client.finish_sending()
            sent_all = True
        found = statuses(await received_by(http_client))
        assert found or sent_all  # who goes on sending after a request that closes has its answer all the same
        return found


async def test_nothing_that_a_client_sends_harms_the_proxy_or_a_worker(
    wire_model: WireModel, recorder: Recorder
) -> None:
    known = seeds(wire_model.chat)
    seen: Counter[int] = Counter()

    async def client(seed: int) -> None:
        rng = random.Random(seed)
        for _ in range(REQUESTS // CLIENTS):
            data = mutilated(rng, known)
            try:
                seen.update(await converse(wire_model, rng, data))
            except (AssertionError, trio.TooSlowError) as error:
                raise AssertionError(f"after {data!r}") from error
            wire_model.wire_env.assert_alive()

    async with trio.open_nursery() as nursery:
        for number in range(CLIENTS):
            nursery.start_soon(client, SEED * 1000 + number)
    assert set(seen) <= {100, 200, 400, 404, 405, 413, 415, 417, 431}, seen
    assert min(seen[200], seen[400]) > REQUESTS // 10  # else it went wrong too early to try anything
    assert not recorder.faults
    for request in recorder.requests:
        assert request.target.partition(b"?")[0] in {path.partition(b"?")[0] for path in PATHS}
        assert json.loads(request.body.decode(errors="replace"), strict=False)["model"] == wire_model.model
    with trio.fail_after(PATIENCE):
        assert (await wire_model.ask(wire_model.post())).raw == OK


ANSWERS = (
    OK,
    SSE_HEAD + event("1") + event("2") + chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n",
    SSE_HEAD + event("1") + b"0\r\nX-Sum: 1\r\n\r\n",
    b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + chunk(b"x" * 3000) + b"0\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\n" + OK,
    b"HTTP/1.1 400 No\r\nRetry-After: 7\r\ncontent-length: 2\r\n\r\n{}",
    b"HTTP/1.1 204 No Content\r\nx: y\r\n\r\n",
    b"HTTP/1.0 200 OK\r\ncontent-type: text/plain\r\n\r\nto the end",
)
_LAST_WORDS = re.compile(rb"(?s)([0-9a-f]+\r\n)?event: error\ndata: [^\n]+\n\n(\r\n)?\Z")


async def test_nothing_that_a_worker_sends_harms_the_proxy_or_a_client(wire_model: WireModel) -> None:
    """A client gets a piece of what the worker sent, unchanged, or an error of the proxy's; and then the end."""
    rng = random.Random(SEED)
    data = b""

    async def babble(call: Call) -> bool:
        cut = rng.randrange(len(data) + 1)
        await call.send(data[:cut])
        await call.send(data[cut:])
        return False

    wire_model.worker.answer = babble
    seen: Counter[bytes] = Counter()
    # Larger than what is kept for another worker: a death is told at once.
    request = post(wire_model.chat(pad="x" * (1 << 20)), b"Connection: close\r\n")
    for _ in range(REQUESTS // 5):
        data = mutilated(rng, list(ANSWERS))
        http_client = await wire_model.wire_env.connect()
        async with http_client.stream:
            await http_client.send(request)
            received = _LAST_WORDS.sub(b"", await received_by(http_client))
        refused = received.startswith(b"HTTP/1.1 502 ") and b'"code":"worker_' in received
        assert refused or received in data, data
        seen[received[9:12]] += 1
    assert min(seen[b"200"], seen[b"502"]) > REQUESTS // 50
    wire_model.worker.answer = answer_ok
    assert (await wire_model.ask(wire_model.post())).raw == OK
