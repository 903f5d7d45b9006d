"""Compressed bodies: the worker gets them plain, and none swells the proxy."""

import gc
import gzip
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import brotli
import pytest
import trio

from muxd.proxy import unpacking
from muxd.proxy.requests import encodings
from tests.proxy.conftest import bearer, key
from tests.proxy.http_client import CHAT, Reply, chat, post
from tests.proxy.proxy_env import ProxyEnv, open_proxy_env
from tests.proxy.worker import OK

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

MiB = 1 << 20
Compress = Callable[[bytes], bytes]


def raw_deflate(body: bytes) -> bytes:
    return zlib.compress(body)[2:-4]


def gzip_in_members(body: bytes) -> bytes:
    half = len(body) // 2
    return gzip.compress(body[:half]) + gzip.compress(body[half:])


def zstd_in_frames(body: bytes) -> bytes:
    half = len(body) // 2
    skipped = b"\x50\x2a\x4d\x18\x03\0\0\0abc"
    return zstd.compress(body[:half]) + skipped + zstd.compress(body[half:])


def zstd_streamed(body: bytes) -> bytes:
    """Without its size in the head."""
    compressor = zstd.ZstdCompressor()
    return compressor.compress(body) + compressor.flush()


def brotli_quickly(body: bytes) -> bytes:
    return brotli.compress(body, quality=2)


WAYS: dict[str, tuple[bytes, Compress]] = {
    "gzip": (b"gzip", gzip.compress),
    "x-gzip": (b"X-GZip", gzip.compress),
    "members": (b"gzip", gzip_in_members),
    "deflate": (b"deflate", zlib.compress),
    "raw deflate": (b"Deflate", raw_deflate),
    "zstd": (b"zstd", zstd.compress),
    "frames": (b"zstd", zstd_in_frames),
    "streamed zstd": (b"zstd", zstd_streamed),
    "br": (b"br", brotli_quickly),
    "two": (b"gzip, br", lambda body: brotli_quickly(gzip.compress(body))),
    "identity too": (b"identity, zstd", zstd.compress),
}
ways = pytest.mark.parametrize(("coding", "compress"), WAYS.values(), ids=WAYS)


def coded(coding: bytes, body: bytes, more: bytes = b"", path: bytes = CHAT) -> bytes:
    return post(body, b"Content-Encoding: %b\r\nX-Kept: 1\r\n" % coding + more, path=path)


async def refused(proxy_env: ProxyEnv, data: bytes, status: int, code: str) -> Reply:
    """Before anything was asked of muxd; and the proxy holds nothing of it."""
    reply = await proxy_env.ask(data)
    assert (reply.status, reply.code) == (status, code)
    assert not proxy_env.muxd.leases
    assert proxy_env.proxy.front.held == 0
    return reply


@ways
@pytest.mark.parametrize("size", [0, 200_000])
async def test_the_worker_gets_it_plain_with_its_length(
    proxy_env: ProxyEnv, coding: bytes, compress: Compress, size: int
) -> None:
    body = chat(padding="".join(map(str, range(size // 5))))
    assert (await proxy_env.ask(coded(coding, compress(body)))).status == 200
    call = proxy_env.alpha.calls[0]
    assert call.body == body
    assert b"ontent-Encoding" not in call.head
    assert call.head.count(b"ontent-Length: %d" % len(body)) == 1
    assert b"X-Kept: 1" in call.head
    assert proxy_env.proxy.front.held == 0


async def test_the_same_head_says_so_each_time(proxy_env: ProxyEnv) -> None:
    client = await proxy_env.connect()
    for number in (1, 2, 30, 4):
        body = chat(pad="x" * number)
        assert (await client.ask(coded(b"gzip", gzip.compress(body)))).raw == OK
        assert proxy_env.alpha.calls[-1].body == body
    assert proxy_env.proxy.front.held == 0


async def test_codings_may_be_in_two_headers_and_the_body_in_chunks(proxy_env: ProxyEnv) -> None:
    body = gzip.compress(zlib.compress(chat()))
    head = post(b"", b"Content-Encoding: deflate\r\ncontent-encoding: gzip\r\n")
    head = head.replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
    assert (await proxy_env.ask(head + b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body))).status == 200
    assert proxy_env.alpha.calls[0].body == chat()


async def test_on_other_routes_too(proxy_env: ProxyEnv) -> None:
    await proxy_env.ask(coded(b"gzip", gzip.compress(chat()), path=b"/api/chat"))
    assert proxy_env.alpha.calls[0].body == chat()
    shown = await proxy_env.ask(coded(b"br", brotli.compress(b'{"model": "alpha"}'), path=b"/api/show"))
    assert shown.status == 200


@pytest.mark.parametrize("coding", [b"compress", b"lzma", b"gzip, snappy", b"gzip;q=1", b"aws-chunked", b"\xff"])
async def test_one_that_is_not_known_is_named_with_those_that_are(proxy_env: ProxyEnv, coding: bytes) -> None:
    reply = await refused(proxy_env, coded(coding, chat()), 415, "unsupported_content_encoding")
    assert "content-encoding" in reply.message
    assert reply.header(b"accept-encoding") == b"gzip, deflate, zstd, br"


async def test_it_is_told_before_the_body_comes(proxy_env: ProxyEnv) -> None:
    head = b"POST %b HTTP/1.1\r\nHost: muxd.test\r\nContent-Encoding: lzma\r\nContent-Length: 1000\r\n\r\n" % CHAT
    await refused(proxy_env, head, 415, "unsupported_content_encoding")


async def test_nobody_needs_them_one_within_another_many_times(proxy_env: ProxyEnv) -> None:
    await refused(proxy_env, coded(b"gzip, br, zstd", b"x"), 415, "unsupported_content_encoding")
    await refused(proxy_env, coded(b"gzip," * 1000, b"x"), 415, "unsupported_content_encoding")


@ways
async def test_what_is_not_in_it_or_not_whole_is_named(proxy_env: ProxyEnv, coding: bytes, compress: Compress) -> None:
    whole = compress(chat(padding="".join(map(str, range(5000)))))
    torn = bytearray(whole)
    torn[3 : len(torn) - 2] = b"\xff" * (len(torn) - 5)
    for body in (chat(), whole[:-1], whole[: len(whole) // 2], whole[:1], whole + b"more", bytes(torn)):
        reply = await refused(proxy_env, coded(coding, body), 400, "invalid_content_encoding")
        assert "as its content-encoding says" in reply.message


@ways
async def test_a_bomb_is_refused_as_soon_as_it_is_too_large(
    proxy_env: ProxyEnv, coding: bytes, compress: Compress
) -> None:
    bomb = compress(b" " * (16 * MiB))
    assert len(bomb) < MiB // 4
    reply = await refused(proxy_env, coded(coding, bomb), 413, "body_too_large")
    assert "decompressed" in reply.message
    assert (await proxy_env.ask(post(chat()))).status == 200


async def test_a_bomb_in_a_bomb_is_too(proxy_env: ProxyEnv) -> None:
    bomb = gzip.compress(gzip.compress(b"\0" * (64 * MiB), 9), 9)
    await refused(proxy_env, coded(b"gzip, gzip", bomb), 413, "body_too_large")


@pytest.fixture
def endless(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is sent as deflate goes on for as long as nobody ends it, and each piece is a turn."""

    def pieces(body: bytes) -> Iterator[bytes]:
        yield body
        while True:
            yield b""

    monkeypatch.setattr(unpacking, "_SLICE", 0.0)
    monkeypatch.setitem(encodings._DECODERS, b"deflate", pieces)


async def test_others_are_served_while_one_is_taken_apart(proxy_env: ProxyEnv, endless: None) -> None:
    http_client = await proxy_env.connect()
    await http_client.send(coded(b"deflate", b"x" * 100_000))
    while proxy_env.proxy.front.held < 200_000:
        await trio.lowlevel.checkpoint()
    assert (await proxy_env.ask(post(chat()))).status == 200
    await http_client.stream.aclose()
    while proxy_env.proxy.front.held:
        await trio.lowlevel.checkpoint()
    assert proxy_env.proxy.front.clients <= 1


async def test_one_that_is_taken_apart_when_the_proxy_ends_is_told(proxy_env: ProxyEnv, endless: None) -> None:
    http_client = await proxy_env.connect()
    await http_client.send(coded(b"deflate", b"x" * 100_000))
    while proxy_env.proxy.front.held < 200_000:
        await trio.lowlevel.checkpoint()
    await proxy_env.proxy.drain(0)
    reply = await http_client.reply()
    assert (reply.status, reply.code) == (503, "shutting_down")
    assert proxy_env.proxy.front.held == 0


@ways
async def test_a_turn_for_each_piece_makes_no_difference(
    proxy_env: ProxyEnv, coding: bytes, compress: Compress, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unpacking, "_SLICE", 0.0)
    body = chat(padding="".join(map(str, range(100_000))))
    http_client = await proxy_env.connect()
    whole = compress(body)
    for data, status in ((whole, 200), (whole[:-1], 400), (whole, 200)):
        assert (await http_client.ask(coded(coding, data))).status == status
        assert proxy_env.proxy.front.held == 0
    assert [call.body for call in proxy_env.alpha.calls] == [body] * 2


@ways
async def test_nothing_stays_of_a_body_that_was_taken_apart_and_refused(
    proxy_env: ProxyEnv, coding: bytes, compress: Compress, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unpacking, "_SLICE", 0.0)
    http_client = await proxy_env.connect()
    gc.collect()
    gc.freeze()  # what was there before is not looked through, here or later: an unfreeze would take in all tests
    gc.disable()
    try:
        for _ in range(3):
            assert (await http_client.ask(coded(coding, compress(chat("nobody", pad="x" * 500_000))))).status == 404
        held = [one for one in gc.get_objects() if isinstance(one, unpacking.Unpacking)]
    finally:
        gc.enable()
    assert held == []


async def test_one_that_wants_too_large_a_window_is_refused(proxy_env: ProxyEnv) -> None:
    level = {zstd.CompressionParameter.window_log: 27}
    compressor = zstd.ZstdCompressor(options=level)
    body = compressor.compress(chat()) + compressor.flush()
    await refused(proxy_env, coded(b"zstd", body), 400, "invalid_content_encoding")


@ways
async def test_what_comes_out_counts_as_held(tmp_path: Path, coding: bytes, compress: Compress) -> None:
    body = chat(padding="x" * 90_000)
    async with open_proxy_env(tmp_path, buffer_memory=80_000) as proxy_env:
        reply = await refused(proxy_env, coded(coding, compress(body)), 503, "buffer_memory_exhausted")
        assert reply.header(b"retry-after")
    async with open_proxy_env(tmp_path) as proxy_env:
        http_client = await proxy_env.connect()
        await http_client.send(coded(coding, compress(chat("beta", padding="x" * 90_000))))
        await proxy_env.lease()
        assert proxy_env.proxy.front.held > 90_000


async def test_who_has_no_key_has_nothing_taken_apart(tmp_path: Path) -> None:
    async with open_proxy_env(tmp_path, keys=(key("all", "muxd-secret"),)) as proxy_env:
        for coding in (b"gzip", b"lzma"):
            await refused(proxy_env, coded(coding, b"none"), 401, "invalid_api_key")
        data = coded(b"gzip", gzip.compress(chat()), bearer("muxd-secret"))
        assert (await proxy_env.ask(data)).status == 200
