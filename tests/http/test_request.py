"""What the parser takes, what it refuses, and what it never does with any bytes at all."""

import random

import pytest

from muxd.errors import BadRequest, BodyTooLarge, HeadTooLarge, MuxdError, TlsNotSupported
from muxd.http.request import Request, RequestParser

GET = b"GET / HTTP/1.1\r\n"
POST = b"POST / HTTP/1.1\r\nHost: a\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"


def parser() -> RequestParser:
    return RequestParser(max_head=1024, max_body=4096)


def one(data: bytes) -> Request:
    (request,) = parser().feed(data)
    return request


def feed_all(reader: RequestParser, pieces: list[bytes]) -> None:
    for piece in pieces:
        reader.feed(piece)


def outcome(pieces: list[bytes]) -> list[object]:
    """Every request, and the error's type at the end, of one connection's bytes."""
    reader = parser()
    seen: list[object] = []
    try:
        for piece in [*pieces, b"", b""]:
            for request in reader.feed(piece):
                seen.append((request.method, request.target, request.headers, request.body, request.keep_alive))
    except MuxdError as error:
        seen.append(type(error))
    return seen


def test_a_request_is_taken_as_sent() -> None:
    request = one(
        b"POST /v1/models/Qwen%2FQwen3?a=1&b=%20&a=2#frag HTTP/1.1\r\nHost: a\r\nx-Twice: 1\r\nX-TWICE: \xff\r\n"
        b"Content-Length: 3\r\n\r\nabc"
    )
    assert request.method == "POST"
    assert request.target == b"/v1/models/Qwen%2FQwen3?a=1&b=%20&a=2#frag"
    assert request.raw_path == "/v1/models/Qwen%2FQwen3"
    assert request.path == "/v1/models/Qwen/Qwen3"
    assert request.query == {"a": "2", "b": " "}
    assert request.headers == [
        (b"Host", b"a"),
        (b"x-Twice", b"1"),
        (b"X-TWICE", b"\xff"),
        (b"Content-Length", b"3"),
    ]
    assert (request.header(b"x-twice"), request.header(b"x-none")) == (b"1", None)
    assert (request.body, request.http_version, request.keep_alive) == (b"abc", "1.1", True)


@pytest.mark.parametrize(
    ("target", "path"),
    [(b"/", "/"), (b"*", "*"), (b"http://a/b/c?d", "/b/c"), (b"http://a", "/"), (b"/%ff%zz", "/\ufffd%zz")],
)
def test_every_form_of_target_has_a_path(target: bytes, path: str) -> None:
    assert one(b"GET %b HTTP/1.1\r\nHost: a\r\n\r\n" % target).path == path


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND"])
def test_methods_are_passed_on_for_the_routes_to_judge(method: str) -> None:
    assert one(b"%b / HTTP/1.1\r\nHost: a\r\n\r\n" % method.encode()).method == method


@pytest.mark.parametrize(
    ("head", "keeps"),
    [
        (b"GET / HTTP/1.1\r\nHost: a\r\n", True),
        (b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n", False),
        (b"GET / HTTP/1.1\r\nHost: a\r\nConnection: x, Close\r\n", False),
        (b"GET / HTTP/1.0\r\n", False),
        (b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n", True),
    ],
)
def test_who_closes_is_read_from_version_and_connection(head: bytes, keeps: bool) -> None:
    assert one(head + b"\r\n").keep_alive is keeps


LET_THROUGH_BY_LLHTTP = {
    "no host": GET + b"X: a\r\n\r\n",
    "two hosts": GET + b"Host: a\r\nhost: a\r\n\r\n",
    "two hosts in 1.0": b"GET / HTTP/1.0\r\nHost: a\r\nHost: a\r\n\r\n",
    "gzip, chunked": POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "chunked in 1.0": b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "HTTP/0.9": b"GET /\r\n\r\n",
    "HTTP/0.9 by name": b"GET / HTTP/0.9\r\nHost: a\r\n\r\n",
    "HTTP/2.0 by name": b"GET / HTTP/2.0\r\nHost: a\r\n\r\n",
    "CONNECT": b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n",
}
REFUSED_BY_LLHTTP = {
    "CL and TE": POST + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "TE and CL": POST + b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n",
    "two CL that differ": POST + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabc",
    "two equal CL": POST + b"Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
    "CL list": POST + b"Content-Length: 3, 3\r\n\r\nabc",
    "CL with a sign": POST + b"Content-Length: +3\r\n\r\nabc",
    "negative CL": POST + b"Content-Length: -3\r\n\r\nabc",
    "empty CL": POST + b"Content-Length: \r\n\r\n",
    "hex CL": POST + b"Content-Length: 0x3\r\n\r\nabc",
    "CL that overflows": POST + b"Content-Length: 99999999999999999999999\r\n\r\nabc",
    "CL of two numbers": POST + b"Content-Length: 3 4\r\n\r\nabc",
    "folded CL": POST + b"Content-Length:\r\n 3\r\n\r\nabc",
    "space before colon": POST + b"Content-Length : 3\r\n\r\nabc",
    "chunked, gzip": POST + b"Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
    "two TE": POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "TE identity": POST + b"Transfer-Encoding: identity\r\n\r\n0\r\n\r\n",
    "TE xchunked": POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "TE after a vertical tab": POST + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
    "TE and a non-breaking space": POST + b"Transfer-Encoding: chunked\xa0\r\n\r\n0\r\n\r\n",
    "TE and a tab": POST + b"Transfer-Encoding: chunked\t \r\n\r\n0\r\n\r\n",
    "empty TE": POST + b"Transfer-Encoding:\r\n\r\n0\r\n\r\n",
    "bare LF after the request line": b"GET / HTTP/1.1\nHost: a\r\n\r\n",
    "bare LF after a header": GET + b"Host: a\nX: b\r\n\r\n",
    "bare LF at the end": GET + b"Host: a\r\n\n",
    "bare CR": GET + b"Host: a\rX: b\r\n\r\n",
    "obs-fold": GET + b"Host: a\r\nX: b\r\n c\r\n\r\n",
    "obs-fold with a tab": GET + b"Host: a\r\nX: b\r\n\tc\r\n\r\n",
    "space before the first header": GET + b" Host: a\r\n\r\n",
    "NUL in a value": GET + b"Host: a\r\nX: b\0c\r\n\r\n",
    "NUL in a name": GET + b"Host: a\r\nX\0: b\r\n\r\n",
    "NUL in the target": b"GET /\0 HTTP/1.1\r\nHost: a\r\n\r\n",
    "control byte in a value": GET + b"Host: a\r\nX: \x01\r\n\r\n",
    "control byte in the target": b"GET /\x01 HTTP/1.1\r\nHost: a\r\n\r\n",
    "tab before the colon": GET + b"Host\t: a\r\n\r\n",
    "space in a name": GET + b"Host: a\r\nX Y: a\r\n\r\n",
    "empty name": GET + b"Host: a\r\n: a\r\n\r\n",
    "no colon": GET + b"Host: a\r\nfoo\r\n\r\n",
    "tabs in the request line": b"GET\t/\tHTTP/1.1\r\nHost: a\r\n\r\n",
    "space after the version": b"GET / HTTP/1.1 \r\nHost: a\r\n\r\n",
    "space before the method": b" GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    "HTTP/1.2": b"GET / HTTP/1.2\r\nHost: a\r\n\r\n",
    "HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "method unknown": b"FOO / HTTP/1.1\r\nHost: a\r\n\r\n",
    "method in lower case": b"get / HTTP/1.1\r\nHost: a\r\n\r\n",
    "chunk size ends with LF": CHUNKED + b"3\nabc\r\n0\r\n\r\n",
    "chunk ends with LF": CHUNKED + b"3\r\nabc\n0\r\n\r\n",
    "chunk extension ends with LF": CHUNKED + b"3;a=b\nabc\r\n0\r\n\r\n",
    "chunk size and a space": CHUNKED + b"3 \r\nabc\r\n0\r\n\r\n",
    "chunk size with a prefix": CHUNKED + b"0x3\r\nabc\r\n0\r\n\r\n",
    "negative chunk size": CHUNKED + b"-1\r\nabc\r\n0\r\n\r\n",
    "chunk size that overflows": CHUNKED + b"ffffffffffffffffff\r\nabc\r\n0\r\n\r\n",
    "CL among the trailers": CHUNKED + b"0\r\nContent-Length: 5\r\n\r\n",
}
REFUSED = LET_THROUGH_BY_LLHTTP | REFUSED_BY_LLHTTP


@pytest.mark.parametrize("data", REFUSED.values(), ids=REFUSED)
def test_ambiguous_requests_are_refused(data: bytes) -> None:
    with pytest.raises(BadRequest):
        parser().feed(data)


@pytest.mark.parametrize("data", REFUSED.values(), ids=REFUSED)
def test_they_are_refused_byte_by_byte_too(data: bytes) -> None:
    assert outcome([data[i : i + 1] for i in range(len(data))]) in ([BadRequest], [TlsNotSupported])


def test_a_refused_connection_stays_refused() -> None:
    reader = parser()
    for data in (b"rubbish", GET + b"Host: a\r\n\r\n", b""):
        with pytest.raises(BadRequest):
            reader.feed(data)


def test_the_message_names_the_usual_mistakes() -> None:
    for data, word in (("TLS", "http://"), ("HTTP/2 preface", "HTTP/1.1"), ("no host", "Host")):
        with pytest.raises(BadRequest, match=word):
            parser().feed(REFUSED[data])


def test_pipelined_requests_come_in_order_with_their_own_bodies() -> None:
    data = POST + b"Content-Length: 1\r\n\r\nA" + CHUNKED + b"1\r\nB\r\n0\r\n\r\n" + GET + b"Host: c\r\n\r\n"
    requests = parser().feed(data)
    assert [(request.body, request.header(b"host")) for request in requests] == [
        (b"A", b"a"),
        (b"B", b"a"),
        (b"", b"c"),
    ]


def test_requests_before_an_error_are_given_out_first() -> None:
    reader = parser()
    assert len(reader.feed(GET + b"Host: a\r\n\r\n" + b"rubbish")) == 1
    assert isinstance(reader.broken, BadRequest)
    with pytest.raises(BadRequest):
        reader.feed(b"")


def test_nothing_is_read_after_the_request_that_closes() -> None:
    reader = parser()
    (request,) = reader.feed(GET + b"Host: a\r\nConnection: close\r\n\r\n" + GET + b"Host: b\r\n\r\n")
    assert request.header(b"host") == b"a"
    assert (reader.feed(GET + b"Host: c\r\n\r\n"), reader.broken) == ([], None)


def test_chunks_are_joined_and_extensions_and_trailers_dropped() -> None:
    request = one(CHUNKED + b"3;a=b\r\nabc\r\nA\r\n0123456789\r\n0\r\nX-Sum: 1\r\n\r\n")
    assert request.body == b"abc0123456789"
    assert request.header(b"x-sum") is None


def test_a_body_of_one_byte_chunks_costs_no_object_per_byte() -> None:
    reader = RequestParser(1024, 1 << 20)
    reader.feed(CHUNKED)
    for _ in range(40):
        reader.feed(b"1\r\nx\r\n" * 500)
    assert reader.buffered == 20_000
    assert len(reader._parts) < 1100
    (request,) = reader.feed(b"0\r\n\r\n")
    assert request.body == b"x" * 20_000


def test_the_next_request_starts_afresh() -> None:
    reader = parser()
    reader.feed(POST + b"Expect: 100-continue\r\nContent-Length: 3\r\n\r\n")
    assert (reader.head_seen, reader.mid_message, reader.expects_continue) == (True, True, True)
    reader.feed(b"ab")
    assert reader.buffered == 2
    reader.feed(b"c")
    assert (reader.head_seen, reader.mid_message, reader.expects_continue, reader.buffered) == (False, False, False, 0)
    reader.feed(b"G")
    assert reader.mid_message


def test_an_http_1_0_client_expects_nothing() -> None:
    reader = parser()
    reader.feed(b"POST / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n")
    assert not reader.expects_continue


UPGRADE = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMA\r\n"


@pytest.mark.parametrize(
    "body", [b"Content-Length: 3\r\n\r\nabc", b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"]
)
def test_an_asked_upgrade_is_declined_and_the_body_still_read(body: bytes) -> None:
    data = POST + UPGRADE + body + GET + b"Host: next\r\n\r\n"
    first, second = parser().feed(data)
    assert (first.method, first.body, first.header(b"upgrade")) == ("POST", b"abc", None)
    assert first.header(b"http2-settings") == b"AAMA"
    assert second.header(b"host") == b"next"
    assert outcome([data[i : i + 1] for i in range(len(data))]) == outcome([data])


SESSION = GET + b"Host: a\r\nConnection: upgrade\r\nUpgrade: Session\r\n\r\n"


def test_an_upgrade_that_is_accepted_ends_the_requests_and_keeps_what_follows() -> None:
    reader = RequestParser(1000, 1000, (b"session",))
    (request,) = reader.feed(SESSION + b"no request\r\n\r\n")
    assert (request.header(b"upgrade"), request.keep_alive) == (b"Session", False)
    assert reader.rest == b"no request\r\n\r\n"
    assert reader.feed(b"nor this") == []


def test_an_upgrade_is_accepted_however_its_bytes_come_and_no_other_is() -> None:
    reader = RequestParser(1000, 1000, (b"session",))
    found = [request for byte in SESSION for request in reader.feed(bytes([byte]))]
    assert [(request.method, request.header(b"upgrade")) for request in found] == [("GET", b"Session")]
    other = RequestParser(1000, 1000, (b"session",))
    (declined,) = other.feed(GET + b"Host: a\r\n" + UPGRADE + b"\r\n")
    assert (declined.header(b"upgrade"), other.rest) == (None, b"")


def test_a_thousand_asked_upgrades_in_one_read_are_declined() -> None:
    assert len(parser().feed((GET + b"Host: a\r\n" + UPGRADE + b"\r\n") * 1000)) == 1000


def test_an_upgrade_does_not_hide_what_is_refused() -> None:
    with pytest.raises(BadRequest):
        parser().feed(POST + UPGRADE + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n")
    assert len(parser().feed(GET + b"Host: a\r\n\r\n" + POST + UPGRADE + b"\r\nrubbish")) == 2


@pytest.mark.parametrize("step", [1, 7, 4096])
def test_a_head_over_the_limit_is_refused_while_it_comes(step: int) -> None:
    data = GET + b"Host: a\r\nX: " + b"x" * 2000 + b"\r\n\r\n"
    reader = parser()
    with pytest.raises(HeadTooLarge):
        feed_all(reader, [data[i : i + step] for i in range(0, len(data), step)])
    if step < 10:
        assert reader._fed <= 1024 + step


def test_a_head_without_an_end_is_refused() -> None:
    reader = parser()
    reader.feed(b"GET /")
    with pytest.raises(HeadTooLarge):
        feed_all(reader, [b"x"] * 1025)


def test_heads_within_the_limit_are_taken_however_much_is_pipelined() -> None:
    data = (GET + b"Host: a\r\nX: " + b"x" * 900 + b"\r\n\r\n") * 5
    assert len(parser().feed(data)) == 5
    assert len(outcome([data[i : i + 1000] for i in range(0, len(data), 1000)])) == 5


def test_a_head_is_weighed_while_it_comes_and_when_it_is_whole() -> None:
    reader = RequestParser(max_head=1 << 17, max_body=4096)
    reader.feed(POST + b"X: " + b"x" * 9000)
    assert 9000 < reader.head_bytes < 9100
    reader.feed(b"\r\nContent-Length: 2\r\n\r\na")
    assert 9000 < reader.head_bytes < 9200
    (request,) = reader.feed(b"b")
    assert 9000 < request.head_size < 9200
    assert reader.head_bytes == 0


def test_a_head_that_many_have_is_not_worth_counting() -> None:
    reader = RequestParser(max_head=1 << 17, max_body=4096)
    (request,) = reader.feed(POST + b"X: " + b"x" * 900 + b"\r\n\r\n")
    assert (request.head_size, reader.head_bytes) == (0, 0)


def test_trailers_are_limited_like_a_head() -> None:
    with pytest.raises(HeadTooLarge):
        parser().feed(CHUNKED + b"0\r\n" + b"X: 0123456789\r\n" * 1000 + b"\r\n")


def test_a_declared_body_over_the_limit_is_refused_at_once() -> None:
    with pytest.raises(BodyTooLarge):
        parser().feed(POST + b"Content-Length: 4097\r\n\r\n")
    assert parser().feed(POST + b"Content-Length: 4096\r\n\r\n") == []


@pytest.mark.parametrize("step", [1, 1000, 100_000])
def test_a_length_behind_thousands_of_zeros_is_read(step: int) -> None:
    """Python's int() refuses more than 4300 digits."""
    data = POST + b"Content-Length: %b2\r\n\r\nab" % (b"0" * 5000)
    reader = RequestParser(max_head=1 << 17, max_body=4096)
    requests = [request for at in range(0, len(data), step) for request in reader.feed(data[at : at + step])]
    assert [request.body for request in requests] == [b"ab"]
    with pytest.raises(BodyTooLarge):
        RequestParser(1 << 17, 4096).feed(POST + b"Content-Length: %b4097\r\n\r\n" % (b"0" * 5000))
    (empty,) = RequestParser(1 << 17, 4096).feed(POST + b"Content-Length: %b\r\n\r\n" % (b"0" * 5000))
    assert empty.body == b""


def test_a_length_that_fits_19_digits_and_no_memory_is_refused() -> None:
    with pytest.raises(BodyTooLarge):
        parser().feed(POST + b"Content-Length: 9223372036854775807\r\n\r\n")


def test_chunks_over_the_limit_are_refused_while_they_come() -> None:
    reader = parser()
    reader.feed(CHUNKED + b"fffffff\r\n" + b"x" * 4096)
    with pytest.raises(BodyTooLarge):
        reader.feed(b"x")


def test_json_bodies() -> None:
    def body(data: bytes) -> Request:
        return one(POST + b"Content-Length: %d\r\n\r\n%b" % (len(data), data))

    assert body(b"").json() == {}
    assert body(b'{"a": [1, null]}').json() == {"a": [1, None]}
    for wrong in (b"{", b"\xff", b'"\xff"', b'"\\ud800"', b"NaN", b"1e999", b"[" * 4000, b"{1:2}", b"{} {}"):
        with pytest.raises(BadRequest):
            body(wrong).json()


def test_how_the_bytes_arrive_changes_nothing() -> None:
    """Some thousands of mutated requests, each whole and in random pieces."""
    seeds = [*REFUSED.values(), CHUNKED + b"3;x\r\nabc\r\n0\r\nT: 1\r\n\r\n", POST + b"Content-Length: 5\r\n\r\nabcde"]
    seeds += [POST + UPGRADE + b"Content-Length: 2\r\n\r\nok", GET + b"Host: a\r\nConnection: close\r\n\r\n"]
    chance = random.Random(20240607)
    alphabet = b"\r\n\t\0 :;,0123abcHTP/\xff"
    for _ in range(4000):
        data = bytearray(b"".join(chance.choices(seeds, k=chance.randint(1, 3))))
        for _ in range(chance.randint(0, 3)):
            at = chance.randrange(len(data))
            data[at : at + chance.randint(0, 2)] = bytes(chance.choices(alphabet, k=chance.randint(0, 2)))
        cuts = sorted(chance.randrange(len(data) + 1) for _ in range(chance.randint(1, 6)))
        pieces = [bytes(data[a:b]) for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]
        assert outcome([bytes(data)]) == outcome(pieces), bytes(data)


def test_random_bytes_never_cause_another_error() -> None:
    chance = random.Random(7)
    for _ in range(2000):
        outcome([chance.randbytes(chance.randint(1, 300)) for _ in range(3)])
        outcome([GET + chance.randbytes(chance.randint(1, 300))])
