"""What a body is said to be, before anything is switched for it."""

import gzip
from pathlib import Path

import pytest
from backports import zstd

from tests.proxy.http_client import CHAT, chat, post
from tests.proxy.proxy_env import ProxyEnv, open_proxy_env

ROUTES = (CHAT, b"/v1/completions", b"/v1/embeddings", b"/v1/messages", b"/generate", b"/rerank", b"/tokenize")
OLLAMAS = (b"/api/chat", b"/api/generate")
NO_JSON = (
    b"text/plain", b"text/plain;charset=UTF-8", b"multipart/form-data; boundary=x", b"application/octet-stream",
    b"json", b"text/json", b"application/jsonx", b"application/json-seq", b"*/*", b"text/vnd.x+json",
    b"application/xml", b"text/plain; application/json", b"application/json, text/plain",
)  # fmt: skip
FORM = b"application/x-www-form-urlencoded"


def said(kind: bytes | None, path: bytes = CHAT, more: bytes = b"", model: str = "beta") -> bytes:
    data = post(chat(model), more + b"Content-Type: K\r\n", path=path)
    return data.replace(b"Content-Type: K\r\n", b"" if kind is None else b"content-Type: %b\r\n" % kind)


async def refused(proxy_env: ProxyEnv, data: bytes) -> str:
    """Refused before muxd was asked for anything; the message."""
    reply = await proxy_env.ask(data)
    assert reply.status == 415
    assert not proxy_env.muxd.leases
    error = reply.json["error"]
    return str(error if isinstance(error, str) else error["message"])


@pytest.mark.parametrize("kind", [*NO_JSON, FORM, None, b""])
async def test_a_body_that_is_not_said_to_be_json_switches_nothing(proxy_env: ProxyEnv, kind: bytes | None) -> None:
    message = await refused(proxy_env, said(kind))
    assert "send the header 'Content-Type: application/json'" in message
    assert "no content type" in message or (kind or b"").partition(b";")[0].decode() in message


@pytest.mark.parametrize("path", ROUTES)
async def test_on_every_route(proxy_env: ProxyEnv, path: bytes) -> None:
    for kind in (b"text/plain", FORM, None):
        await refused(proxy_env, said(kind, path))


@pytest.mark.parametrize("path", OLLAMAS)
async def test_ollamas_clients_need_not_say_it_but_may_not_say_something_else(proxy_env: ProxyEnv, path: bytes) -> None:
    for kind in NO_JSON:
        await refused(proxy_env, said(kind, path))


@pytest.mark.parametrize("path", OLLAMAS)
@pytest.mark.parametrize("kind", [FORM, None, b"", b"text/plain"])
async def test_what_a_page_can_send_unasked_is_json_nowhere(
    proxy_env: ProxyEnv, path: bytes, kind: bytes | None
) -> None:
    await refused(proxy_env, said(kind, path, b"Origin: https://evil.example\r\n"))


async def test_two_types_are_none(proxy_env: ProxyEnv) -> None:
    assert "two content types" in await refused(proxy_env, said(b"application/json\r\nContent-Type: text/plain"))


@pytest.mark.parametrize(
    ("kind", "path", "seen"),
    [
        (b"application/json", CHAT, b"application/json"),
        (b"Application/JSON; charset=utf-8", CHAT, b"Application/JSON; charset=utf-8"),
        (b"application/json ; charset=utf-8", CHAT, b"application/json"),
        (b"application/vnd.api+json", CHAT, b"application/json"),
        (b"application/problem+JSON; x=y", b"/generate", b"application/json"),
        (FORM, b"/api/chat", b"application/json"),
        (FORM + b"; charset=utf-8", b"/api/generate", b"application/json"),
        (b"", b"/api/chat", b"application/json"),
        (None, b"/api/chat", b"application/json"),
        (b"application/json", b"/api/chat", b"application/json"),
    ],
)
async def test_the_worker_gets_the_only_word_that_it_knows(
    tmp_path: Path, kind: bytes | None, path: bytes, seen: bytes
) -> None:
    async with open_proxy_env(tmp_path) as proxy_env:
        assert (await proxy_env.ask(said(kind, path, model="alpha"))).status == 200
        head = proxy_env.alpha.calls[0].head
        assert head.lower().count(b"content-type") == 1
        assert b"ontent-type: " + seen.lower() in head.lower()


async def test_an_empty_body_is_told_that_it_is_empty(proxy_env: ProxyEnv) -> None:
    data = post(b"", b"Content-Type: K\r\n").replace(b"Content-Type: K\r\n", b"")
    assert (await proxy_env.ask(data)).status == 400


DIALOGUES = (CHAT, b"/v1/messages", b"/messages", b"/v1/messages/count_tokens")
NO_DIALOGUE = {
    "none": b'{"model": "beta"}',
    "null": b'{"messages": null, "model": "beta"}',
    "of another route": b'{"model": "beta", "prompt": "hi"}',
    "a text": b'{"messages" : "hi", "model": "beta"}',
    "a number": b'{"model": "beta", "messages": 5}',
    "an object": b'{"model": "beta", "messages":\n {"role": "user"}}',
    "a truth value": b'{"model": "beta", "messages": true}',
    "none in a long body": b'{"model": "beta", "user": "%b"}' % (b"x" * 70_000),
    "a text in a long body": b'{"model": "beta", "messages": "%b"}' % (b"x" * 70_000),
}


@pytest.mark.parametrize("body", NO_DIALOGUE.values(), ids=NO_DIALOGUE)
@pytest.mark.parametrize("path", DIALOGUES)
async def test_a_dialogue_without_messages_switches_nothing(proxy_env: ProxyEnv, path: bytes, body: bytes) -> None:
    """Every worker refuses it, which would be after its model was switched to."""
    reply = await proxy_env.ask(post(body, path=path))
    assert (reply.status, reply.json["error"]["code"]) == (400, "invalid_messages")
    assert not proxy_env.muxd.leases


@pytest.mark.parametrize("messages", [b"[]", b" [ \n]"])
async def test_an_empty_chat_switches_nothing(proxy_env: ProxyEnv, messages: bytes) -> None:
    body = b'{"model": "beta", "messages":%b}' % messages
    reply = await proxy_env.ask(post(body))
    assert (reply.status, reply.json["error"]["code"]) == (400, "invalid_messages")
    assert not proxy_env.muxd.leases
    assert (await proxy_env.ask(post(body.replace(b"beta", b"nobody")))).status == 404


async def test_a_dialogue_is_otherwise_the_workers_to_judge(proxy_env: ProxyEnv) -> None:
    for messages in (b"[5]", b"[null]", b" [ {}]", b'[{"content": "%b"}]' % (b"x" * 70_000)):
        assert (await proxy_env.ask(post(b'{"model": "alpha", "messages": %b}' % messages))).status == 200
    only_system = b'{"model": "alpha", "system": "hi", "messages": []}'
    assert (await proxy_env.ask(post(only_system, path=b"/v1/messages"))).status == 200


async def test_a_byte_order_mark_is_passed_over_as_the_worker_does(proxy_env: ProxyEnv) -> None:
    assert (await proxy_env.ask(post(b"\xef\xbb\xbf" + chat()))).status == 200
    assert proxy_env.alpha.calls[0].body == chat()


TEXT = chat().decode()
ELSE = {
    "nothing": (b"", "it is empty"),
    "blanks": (b" \r\n", "it is empty"),
    "UTF-16": (TEXT.encode("utf-16"), "UTF-16: send it as UTF-8"),
    "UTF-16 BE": (TEXT.encode("utf-16-be"), "send it as UTF-8"),
    "UTF-16 LE": (TEXT.encode("utf-16-le"), "UTF-16: send it as UTF-8"),
    "UTF-32": (TEXT.encode("utf-32"), "send it as UTF-8"),
    "gzip": (gzip.compress(chat()), "gzip, and no Content-Encoding says so"),
    "zstd": (zstd.compress(chat()), "zstd, and no Content-Encoding says so"),
}


@pytest.mark.parametrize(("body", "what"), ELSE.values(), ids=ELSE)
async def test_a_body_of_something_else_is_called_what_it_is(proxy_env: ProxyEnv, body: bytes, what: str) -> None:
    reply = await proxy_env.ask(post(body))
    assert (reply.status, reply.code) == (400, "invalid_json")
    assert what in reply.message


async def test_a_form_without_a_recording_switches_nothing(proxy_env: ProxyEnv) -> None:
    form = b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\nbeta\r\n--b--\r\n'
    said_to_be = b"Content-Type: multipart/form-data; boundary=b\r\n"
    reply = await proxy_env.ask(post(form, said_to_be, path=b"/v1/audio/transcriptions"))
    assert (reply.status, reply.code) == (400, "invalid_form")
    assert not proxy_env.muxd.leases
