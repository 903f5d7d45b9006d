"""Ollama's requests for embeddings, on their way to a worker that knows OpenAI's."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

from muxd.proxy.embedding import Embedding

from .http_client import post
from .proxy_env import ProxyEnv, open_proxy_env
from .worker import Call, chunk

VECTORS = b'{"data":[{"embedding":[0.25],"index":0},{"embedding":[0.5],"index":1}],"usage":{"prompt_tokens":3}}'
BODY = b'{"model": "alpha:latest", "input": ["a", "b"]}'


def whole(body: bytes, status: bytes = b"200 OK") -> bytes:
    return b"HTTP/1.1 %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (status, len(body), body)


def chunked(body: bytes) -> bytes:
    pieces = [chunk(body[at : at + 7]) for at in range(0, len(body), 7)]
    return b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + b"".join(pieces) + chunk(b"")


def says(proxy_env: ProxyEnv, answer: bytes) -> None:
    async def answer_so(call: Call) -> None:
        await call.send(answer)

    proxy_env.alpha.answer = answer_so


async def embed(proxy_env: ProxyEnv, body: bytes = BODY, path: bytes = b"/api/embed", **more: Any) -> Any:
    return await proxy_env.ask(post(body, path=path, **more))


@pytest.mark.parametrize("answer", [whole(VECTORS), chunked(VECTORS)], ids=["length", "chunks"])
@pytest.mark.parametrize("version", [b"1.1", b"1.0"])
async def test_the_answer_is_told_in_ollamas_words(proxy_env: ProxyEnv, answer: bytes, version: bytes) -> None:
    says(proxy_env, answer)
    reply = await embed(proxy_env, version=version)
    assert reply.status == 200
    told = reply.json
    assert (told["model"], told["embeddings"], told["prompt_eval_count"]) == ("alpha:latest", [[0.25], [0.5]], 3)
    assert told["total_duration"] >= told["load_duration"] >= 0
    call = proxy_env.alpha.calls[0]
    assert call.head.startswith(b"POST /v1/embeddings HTTP/1.1\r\n")
    assert call.body == b'{"model":"alpha","input":["a", "b"]}'
    assert (proxy_env.proxy.front.held, Embedding.held) == (0, 0)


async def test_the_older_route_has_one_embedding(proxy_env: ProxyEnv) -> None:
    says(proxy_env, whole(VECTORS))
    reply = await embed(proxy_env, b'{"model": "alpha", "prompt": "a"}', b"/api/embeddings")
    assert reply.json == {"embedding": [0.25]}


async def test_the_next_request_goes_on_the_same_connection(proxy_env: ProxyEnv) -> None:
    says(proxy_env, whole(VECTORS))
    http_client = await proxy_env.connect()
    for _ in range(3):
        assert (await http_client.ask(post(BODY, path=b"/api/embed"))).status == 200
    assert proxy_env.alpha.connections == 1


async def test_a_models_settings_change_what_the_worker_is_told(tmp_path: Path) -> None:
    terms = {"upstream_name": "real/name", "set_params": {"user": "muxd"}, "strip_params": ("dimensions",)}
    async with open_proxy_env(tmp_path, model=terms) as proxy_env:
        says(proxy_env, whole(VECTORS))
        await embed(proxy_env, b'{"model": "alpha", "input": "a", "dimensions": 8}')
        assert msgspec.json.decode(proxy_env.alpha.calls[0].body) == {
            "model": "real/name",
            "input": "a",
            "user": "muxd",
        }


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (b'{"object":"error","message":"Input cannot be empty","code":400}', "Input cannot be empty"),
        (b'{"error":{"message":"no such thing"}}', "no such thing"),
        (b"<html>", "<html>"),
    ],
)
async def test_the_workers_errors_are_told_in_ollamas_shape(proxy_env: ProxyEnv, said: bytes, message: str) -> None:
    says(proxy_env, whole(said, b"400 Bad Request"))
    reply = await embed(proxy_env)
    assert (reply.status, reply.json) == (400, {"error": message})


async def test_an_answer_that_is_none_is_an_error(proxy_env: ProxyEnv) -> None:
    says(proxy_env, whole(b"{}"))
    reply = await embed(proxy_env)
    assert reply.status == 502
    assert "its worker cannot be understood: its answer has no embeddings" in reply.json["error"]


async def test_an_answer_that_is_too_large_is_not_kept(proxy_env: ProxyEnv, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Embedding, "MOST", 50)
    says(proxy_env, whole(VECTORS))
    reply = await embed(proxy_env)
    assert (reply.status, set(reply.json)) == (503, {"error"})
    assert "ask for fewer texts at once" in reply.json["error"]
    assert Embedding.held == 0


async def test_a_worker_that_is_lost_amid_its_answer_is_followed_by_the_next(proxy_env: ProxyEnv) -> None:
    async def broken(call: Call) -> bool | None:
        if len(proxy_env.alpha.calls) > 1:
            await call.send(whole(VECTORS))
            return None
        await call.send(whole(VECTORS)[:-20])
        return False

    proxy_env.alpha.answer = broken
    reply = await embed(proxy_env)
    assert (reply.status, reply.json["embeddings"]) == (200, [[0.25], [0.5]])
    assert len(proxy_env.alpha.calls) == 2
    assert Embedding.held == 0


async def test_a_client_that_leaves_amid_the_answer_is_not_waited_for(proxy_env: ProxyEnv) -> None:
    async def half(call: Call) -> None:
        await call.send(whole(VECTORS)[:-20])
        await call.gone.wait()

    proxy_env.alpha.answer = half
    http_client = await proxy_env.connect()
    await http_client.send(post(BODY, path=b"/api/embed"))
    call = await proxy_env.alpha.calls.nth(0)
    http_client.close()
    await call.aborted()
    with trio.fail_after(5):
        while Embedding.held or proxy_env.proxy.front.held:
            await trio.sleep(0.01)


async def test_without_a_text_the_model_is_loaded_and_asked_nothing(proxy_env: ProxyEnv) -> None:
    assert (await embed(proxy_env, b'{"model": "alpha"}')).json == {"model": "alpha", "embeddings": []}
    assert (await embed(proxy_env, b'{"model": "alpha"}', b"/api/embeddings")).json == {"embedding": []}
    assert len(proxy_env.muxd.leases) == 1
    assert not proxy_env.alpha.calls


async def test_the_model_is_let_go_at_once_or_after_its_answer(proxy_env: ProxyEnv) -> None:
    assert (await embed(proxy_env, b'{"model": "beta", "keep_alive": 0}')).json == {"model": "beta", "embeddings": []}
    assert await proxy_env.muxd.unloads.nth(0) == "beta"
    says(proxy_env, whole(VECTORS))
    assert (await embed(proxy_env, b'{"model": "alpha", "input": "a", "keep_alive": 0}')).status == 200
    assert await proxy_env.muxd.unloads.nth(1) == "alpha"


async def test_refusals_come_in_ollamas_shape_and_wake_nothing(proxy_env: ProxyEnv) -> None:
    for body in (b'{"model": "beta", "input": 7}', b'{"model": "gamma", "input": "a"}', b"{"):
        reply = await embed(proxy_env, body)
        assert reply.status in (400, 404)
        assert set(reply.json) == {"error"}
    assert not proxy_env.muxd.leases
