"""Heads that are known: the same requests as without, from any bytes, and nothing kept that could read otherwise."""

import random
from contextlib import suppress

import pytest

from muxd.errors import MuxdError
from muxd.http import known_heads
from muxd.http.known_heads import KnownHead, KnownHeads
from muxd.http.request import Request, RequestParser

from .test_request import LET_THROUGH_BY_LLHTTP, REFUSED_BY_LLHTTP

HEAD = b"POST /v1/x HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\nX-A: b\r\n\r\n"


def asked(body: bytes, head: bytes = HEAD) -> bytes:
    return head % len(body) + body


def parser(known: KnownHeads | None) -> RequestParser:
    return RequestParser(max_head=4096, max_body=4096, known_heads=known)


def fed(reader: RequestParser, pieces: list[bytes]) -> list[object]:
    """Every request, and the error in the end, of one connection's bytes."""
    seen: list[object] = []
    try:
        for piece in [*pieces, b"", b""]:
            seen += [
                (each.method, each.target, each.headers, each.body, each.http_version, each.keep_alive, each.head_size)
                for each in reader.feed(piece)
            ]
            seen.append((reader.mid_message, reader.head_seen, reader.buffered))
    except MuxdError as error:
        seen.append((type(error), str(error)))
    return seen


def is_known(head: bytes, body: bytes = b"abc") -> bool:
    """Say whether the request's head is kept."""
    heads = KnownHeads((b"x-request-id",))
    with suppress(MuxdError):
        parser(heads).feed(head + body)
    return len(heads) == 1


def test_a_head_that_comes_again_is_not_parsed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    heads = KnownHeads()
    reader = parser(heads)
    (first,) = reader.feed(asked(b"one"))
    monkeypatch.setattr(reader, "_parser", None)  # from here on nothing is parsed
    for body in (b"twelve bytes", b"", b"x" * 4096):
        (again,) = reader.feed(memoryview(asked(body)))
        assert (again.method, again.target, again.body, again.keep_alive) == ("POST", b"/v1/x", body, True)
        assert again.headers == [(b"Host", b"a"), (b"Content-Length", b"%d" % len(body)), (b"X-A", b"b")]
        assert again.known is first.known is not None
    first.headers.clear()  # each request has its own
    assert len(reader.feed(asked(b""))[0].headers) == 3


def test_connections_with_the_same_head_share_what_is_kept() -> None:
    heads = KnownHeads()
    first, second = parser(heads).feed(asked(b"a")), parser(heads).feed(asked(b"bcd"))
    assert first[0].known is second[0].known is not None
    assert len(heads) == 1
    assert parser(None).feed(asked(b"a"))[0].known is None


def test_the_first_request_of_a_connection_is_not_parsed_where_another_has_sent_its_head() -> None:
    heads = KnownHeads()
    (first,) = parser(heads).feed(asked(b"a"))
    reader = parser(heads)
    (second,) = reader.feed(asked(b"bcd"))
    assert reader._parser is None
    assert (second.method, second.target, second.body, second.known) == ("POST", b"/v1/x", b"bcd", first.known)
    parser(heads).feed(asked(b"a", HEAD.replace(b"X-A", b"X-B")))  # another program's
    (third,) = reader.feed(asked(b"a"))
    assert (third.known, reader._parser) == (first.known, None)


TRACED = b"POST /v1/x HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\nX-Request-ID: %b\r\nTraceparent: 00-%b-01\r\n\r\n"


def traced(body: bytes, id: bytes, trace: bytes = b"4bf92f35") -> bytes:
    return TRACED % (len(body), id, trace) + body


@pytest.mark.parametrize("order", [TRACED, TRACED.replace(b"Host: a\r\n", b"").replace(b"X-R", b"Host: a\r\nX-R")])
def test_an_id_of_its_own_makes_no_head_another(monkeypatch: pytest.MonkeyPatch, order: bytes) -> None:
    heads = KnownHeads((b"x-request-id",))
    reader = parser(heads)
    (first,) = reader.feed(order % (3, b"first", b"0a") + b"abc")
    monkeypatch.setattr(reader, "_parser", None)
    for id, trace in ((b"b2ea7cf5-0001", b"4bf92f3577b34da6"), (b"x" * 128, b"1")):
        (again,) = reader.feed(order % (5, id, trace) + b"hello")
        assert (again.header(b"x-request-id"), again.header(b"traceparent")) == (id, b"00-%b-01" % trace)
        assert (again.header(b"content-length"), again.body) == (b"5", b"hello")
        assert again.known is first.known is not None
        assert again.headers[again.known.id_index] == (b"X-Request-ID", id)


@pytest.mark.parametrize("id", [b"", b"a b", b"a\x00b", b"a\xffb", b"-", b'"a"', b"x" * 129, b"a,b"])
def test_an_unusual_id_is_parsed(id: bytes) -> None:
    pieces = [traced(b"abc", b"usual"), traced(b"abc", b"usual"), traced(b"abc", id)]
    assert fed(parser(KnownHeads((b"x-request-id",))), pieces) == fed(parser(None), pieces)
    assert not is_known(TRACED % (3, id, b"1"))


PIECES = [
    *(traced(body, id) for body in (b"a", b"hello") for id in (b"1", b"22", b"a-b", b"a b", b"", b"x" * 200)),
    *(traced(b"a", id, trace) for id in (b"1", b"1\r\nX-Request-Id: 2") for trace in (b"1", b"\n", b"1\r\n 2")),
    traced(b"hello", b"1\r\nContent-Length: 5"),
    traced(b"hello", b"1\r\nTransfer-Encoding: chunked"),
    *(asked(body) for body in (b"", b"a", b"hello", b"x" * 99, b"x" * 4096, b"x" * 4097)),
    *(asked(body, HEAD.replace(b"ontent-L", b"ONTENT-l")) for body in (b"a", b"hello")),
    *(asked(body, HEAD.replace(b": %d", b":%d")) for body in (b"a", b"hello")),
    *(asked(body, HEAD.replace(b"%d", b"00%d")) for body in (b"a", b"hello")),
    *(asked(body, HEAD.replace(b"%d", b"%d ")) for body in (b"a", b"hello")),
    *(asked(body, HEAD.replace(b"X-A: b", b"Connection: close")) for body in (b"a", b"hello")),
    *(asked(body, HEAD.replace(b"X-A: b", b"Expect: 100-continue")) for body in (b"a", b"hello")),
    *(asked(body, HEAD.replace(b"X-A: b", b"Connection: upgrade\r\nUpgrade: h2c")) for body in (b"a", b"hello")),
    *(asked(body, HEAD.replace(b"1.1", b"1.0")) for body in (b"a", b"hello")),
    *(asked(body) + asked(body) for body in (b"a", b"hello")),
    HEAD % 5 + b"hell",
    HEAD % 5 + b"hello!",
    HEAD % 5,
    b"\r\n" + asked(b"hello"),
    b"\r\n",
    b"o",
    b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    HEAD.replace(b"%d", b"+5") + b"hello",
    HEAD.replace(b"%d", b"5, 5") + b"hello",
    HEAD.replace(b"%d", b"") + b"hello",
    HEAD.replace(b"%d", b"5\r\nContent-Length: 6") + b"hello",
    HEAD.replace(b"%d", b"5\r\n 6") + b"hello",
    HEAD.replace(b"%d", b"5\r\nTransfer-Encoding: chunked") + b"0\r\n\r\n",
    HEAD.replace(b"%d", b"99999999999999999999999") + b"hello",
    HEAD.replace(b"%d", b"0" * 30 + b"5") + b"hello",
]


@pytest.mark.parametrize("seed", range(20))
def test_any_bytes_give_the_same_requests_as_without(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """200 connections each: whole requests mostly, some cut in two, some with a byte changed."""
    chance, found, known = random.Random(seed), list[bool](), KnownHead.request

    def counted(head: KnownHead, text: bytes, most: int) -> object:
        found.append((of := known(head, text, most)) is not None)
        return of

    monkeypatch.setattr(KnownHead, "request", counted)
    heads = KnownHeads((b"x-request-id",))
    for _ in range(200):
        pieces: list[bytes] = []
        piece = chance.choice(PIECES)
        for _ in range(chance.randrange(1, 8)):
            if chance.random() < 0.5:
                piece = chance.choice(PIECES)
            sent = bytearray(piece)
            if sent and chance.random() < 0.15:
                sent[chance.randrange(len(sent))] = chance.randrange(256)
            at = chance.randrange(len(sent) + 1) if chance.random() < 0.15 else len(sent)
            pieces += [bytes(sent[:at]), bytes(sent[at:])]
        reader = parser(heads)
        assert fed(reader, pieces) == fed(parser(None), pieces), pieces
    assert found.count(True) > 20  # it is not that none was ever known


@pytest.mark.parametrize("data", [*LET_THROUGH_BY_LLHTTP.values(), *REFUSED_BY_LLHTTP.values()])
def test_what_is_refused_is_refused_behind_a_known_head_too(data: bytes) -> None:
    heads = KnownHeads()
    pieces = [asked(b"abc"), asked(b"abc"), data]
    assert fed(parser(heads), pieces) == fed(parser(None), pieces)
    assert fed(parser(heads), [data]) == fed(parser(None), [data])  # at the beginning of another connection
    assert len(heads) == 1


@pytest.mark.parametrize(
    ("head", "kept"),
    [
        (HEAD % 3, True),
        ((HEAD % 3).replace(b"X-A", b"x" * known_heads.LONGEST_KNOWN), False),
        ((HEAD % 3).replace(b"X-A: b", b"Expect: 100-continue"), False),
        ((HEAD % 3).replace(b"X-A: b", b"Trailer: x"), False),
        ((HEAD % 3).replace(b"X-A: b", b"Connection: close"), False),
        ((HEAD % 3).replace(b"Content-Length: 3", b"Content-Length:3"), False),
        (b"POST / HTTP/1.0\r\nConnection: keep-alive\r\nContent-Length: 3\r\n\r\n", False),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", False),
        (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", False),
    ],
)
def test_only_a_head_that_can_be_told_again_by_its_bytes_is_kept(head: bytes, kept: bool) -> None:
    assert is_known(head, b"abc" if b"ontent-Length" in head else b"") is kept


def test_a_head_whose_body_came_later_is_not_kept() -> None:
    heads = KnownHeads()
    reader = parser(heads)
    assert reader.feed(HEAD % 3) == []
    assert isinstance(reader.feed(b"abc")[0], Request)
    assert len(heads) == 0


def test_heads_that_differ_each_time_fill_no_memory() -> None:
    heads = KnownHeads()
    reader = parser(heads)
    for number in range(1000):
        reader.feed(asked(b"", HEAD.replace(b"X-A", b"X-%d" % number)))
    assert len(heads) < 20
    for number in range(2000):
        parser(heads).feed(asked(b"", HEAD.replace(b"X-A", b"X-%d" % number)))
        assert len(heads) <= 512
