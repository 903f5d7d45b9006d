"""Requests that two readers could take for different things: refused, and nothing of them reaches a worker.

Each carries a second request where one reading or the other finds the end of the first.
"""

import pytest

from tests.proxy.http_client import CHAT, HttpClient, post
from tests.proxy.worker import OK, chunk

from .recorder import Recorder
from .wire_env import WireModel

POST = b"POST %b HTTP/1.1\r\nContent-Type: application/json\r\nHost: h\r\n" % CHAT
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
BOTH = b"\r\n{chunks}0\r\n\r\n{second}"

# {size} {body}: a valid body and its length.  {chunks}: the same in a chunk, without the last one.
# {second}: another request; {rest}: the length of everything from the body on.
LENGTHS = {
    "length and chunks": POST + b"Content-Length: {rest}\r\nTransfer-Encoding: chunked\r\n" + BOTH,
    "chunks and length": POST + b"Transfer-Encoding: chunked\r\nContent-Length: {rest}\r\n" + BOTH,
    "chunks and a length of 0": POST + b"Transfer-Encoding: chunked\r\nContent-Length: 0\r\n" + BOTH,
    "length and chunks, in lower case": POST + b"content-length: {rest}\r\ntransfer-encoding: CHUNKED\r\n" + BOTH,
    "length and unknown coding": POST + b"Content-Length: {size}\r\nTransfer-Encoding: x\r\n\r\n{body}{second}",
    "two lengths": POST + b"Content-Length: {size}\r\nContent-Length: {rest}\r\n\r\n{body}{second}",
    "two lengths, the other way round": POST
    + b"Content-Length: {rest}\r\nContent-Length: {size}\r\n\r\n{body}{second}",
    "the same length twice": POST + b"Content-Length: {size}\r\nContent-Length: {size}\r\n\r\n{body}{second}",
    "a list of lengths": POST + b"Content-Length: {size}, {rest}\r\n\r\n{body}{second}",
    "a list of the same length": POST + b"Content-Length: {size},{size}\r\n\r\n{body}{second}",
    "a length with a plus": POST + b"Content-Length: +{size}\r\n\r\n{body}{second}",
    "a length with a minus": POST + b"Content-Length: -{size}\r\n\r\n{body}{second}",
    "a length with a space in it": POST + b"Content-Length: 1 {size}\r\n\r\n{body}{second}",
    "a length with a tab in it": POST + b"Content-Length: {size}\t0\r\n\r\n{body}{second}",
    "a length in hex": POST + b"Content-Length: 0x{size}\r\n\r\n{body}{second}",
    "a length with a point": POST + b"Content-Length: {size}.0\r\n\r\n{body}{second}",
    "a length with an exponent": POST + b"Content-Length: {size}e0\r\n\r\n{body}{second}",
    "a length with underscores": POST + b"Content-Length: {size}_0\r\n\r\n{body}{second}",
    "a length in Arabic digits": POST + "Content-Length: \u0663\r\n\r\n{body}{second}".encode(),
    "a length in quotes": POST + b'Content-Length: "{size}"\r\n\r\n{body}{second}',
    "an empty length": POST + b"Content-Length:\r\n\r\n{body}{second}",
    "a length beyond 64 bits": POST + b"Content-Length: 184467440737095516{size}\r\n\r\n{body}{second}",
    "a length on the next line": POST + b"Content-Length:\r\n {size}\r\n\r\n{body}{second}",
    "a length with a NUL": POST + b"Content-Length: {size}\0\r\n\r\n{body}{second}",
}
CODINGS = {
    "chunked, identity": POST + b"Transfer-Encoding: chunked, identity\r\n" + BOTH,
    "identity, chunked": POST + b"Transfer-Encoding: identity, chunked\r\n" + BOTH,
    "gzip, chunked": POST + b"Transfer-Encoding: gzip, chunked\r\n" + BOTH,
    "chunked twice": POST + b"Transfer-Encoding: chunked, chunked\r\n" + BOTH,
    "chunked in two headers": POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n" + BOTH,
    "chunked, then identity": POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n" + BOTH,
    "identity, then chunked": POST + b"Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n" + BOTH,
    "xchunked": POST + b"Transfer-Encoding: xchunked\r\n" + BOTH,
    "chunkedx": POST + b"Transfer-Encoding: chunkedx\r\n" + BOTH,
    "chunked with a parameter": POST + b"Transfer-Encoding: chunked;q=1\r\n" + BOTH,
    "chunked in quotes": POST + b'Transfer-Encoding: "chunked"\r\n' + BOTH,
    "chunked with a comma": POST + b"Transfer-Encoding: chunked,\r\n" + BOTH,
    "chunked after a comma": POST + b"Transfer-Encoding: ,chunked\r\n" + BOTH,
    "chunked on the next line": POST + b"Transfer-Encoding:\r\n chunked\r\n" + BOTH,
    "chunked continued on the next line": POST + b"Transfer-Encoding: chunked\r\n , identity\r\n" + BOTH,
    "chunked after a vertical tab": POST + b"Transfer-Encoding: \x0bchunked\r\n" + BOTH,
    "chunked and a tab": POST + b"Transfer-Encoding: chunked\t\r\n" + BOTH,
    "chunked and a no-break space": POST + b"Transfer-Encoding: chunked\xa0\r\n" + BOTH,
    "chunked and a NUL": POST + b"Transfer-Encoding: chunked\0\r\n" + BOTH,
    "an empty coding": POST + b"Transfer-Encoding:\r\n" + BOTH,
    "identity": POST + b"Transfer-Encoding: identity\r\nContent-Length: {size}\r\n\r\n{body}{second}",
    "chunked in HTTP/1.0": POST.replace(b"1.1", b"1.0") + b"Transfer-Encoding: chunked\r\n" + BOTH,
    "a space before the coding's colon": POST + b"Transfer-Encoding : chunked\r\n" + BOTH,
    "a coding in a header's value": POST + b"X: y\rTransfer-Encoding: chunked\r\n" + BOTH,
    "a coding after a bare LF": POST + b"X: y\nTransfer-Encoding: chunked\r\n" + BOTH,
    "a coding indented": POST + b"X: y\r\n Transfer-Encoding: chunked\r\n" + BOTH,
    "a coding on the first header line, indented": POST[:-9] + b" Transfer-Encoding: chunked\r\nHost: h\r\n" + BOTH,
}
LINES = {
    "bare LF after the request line": POST.replace(b"1.1\r", b"1.1") + b"Content-Length: {size}\r\n\r\n{body}{second}",
    "bare LF after a header": POST[:-2] + b"\nContent-Length: {size}\r\n\r\n{body}{second}",
    "bare LF everywhere": (POST + b"Content-Length: {size}\r\n\r\n").replace(b"\r", b"") + b"{body}{second}",
    "LF as the head's end": POST + b"Content-Length: {size}\r\n\n{body}{second}",
    "LF LF as the head's end": POST + b"Content-Length: {size}\n\n{body}{second}",
    "CR CR as the head's end": POST + b"Content-Length: {size}\r\r{body}{second}",
    "CR CR LF as a line's end": POST + b"Content-Length: {size}\r\r\n\r\n{body}{second}",
    "a space before the colon": POST + b"Content-Length : {size}\r\n\r\n{body}{second}",
    "a tab before the colon": POST + b"Content-Length\t: {size}\r\n\r\n{body}{second}",
    "a NUL in a name": POST + b"Content\0-Length: {size}\r\n\r\n{body}{second}",
    "a NUL in a value": POST + b"X: a\0b\r\nContent-Length: {size}\r\n\r\n{body}{second}",
    "a NUL in the target": POST.replace(b" HTTP", b"\0 HTTP") + b"Content-Length: {size}\r\n\r\n{body}{second}",
    "a bare CR in a value": POST + b"X: a\rb\r\nContent-Length: {size}\r\n\r\n{body}{second}",
    "a control byte in a value": POST + b"X: a\x08b\r\nContent-Length: {size}\r\n\r\n{body}{second}",
    "a DEL in a value": POST + b"X: a\x7fb\r\nContent-Length: {size}\r\n\r\n{body}{second}",
    "a header without a colon": POST + b"X\r\nContent-Length: {size}\r\n\r\n{body}{second}",
    "a header without a name": POST + b": y\r\nContent-Length: {size}\r\n\r\n{body}{second}",
    "a header folded": POST + b"X: y\r\n z\r\nContent-Length: {size}\r\n\r\n{body}{second}",
    "two hosts": POST + b"Host: i\r\nContent-Length: {size}\r\n\r\n{body}{second}",
    "no host": POST[:-9] + b"Content-Length: {size}\r\n\r\n{body}{second}",
    "a space in the target": POST.replace(b" HTTP", b" x HTTP") + b"Content-Length: {size}\r\n\r\n{body}{second}",
    "a tab after the method": POST.replace(b"POST ", b"POST\t") + b"Content-Length: {size}\r\n\r\n{body}{second}",
    "HTTP/1.2": POST.replace(b"1.1", b"1.2") + b"Content-Length: {size}\r\n\r\n{body}{second}",
    "HTTP/1.10": POST.replace(b"1.1", b"1.10") + b"Content-Length: {size}\r\n\r\n{body}{second}",
    "HTTP/0.9": b"POST %b\r\n{second}" % CHAT,
}
CHUNKS = {
    "a size with a plus": CHUNKED + b"+{hex}\r\n{body}\r\n0\r\n\r\n{second}",
    "a negative size": CHUNKED + b"-{hex}\r\n{body}\r\n0\r\n\r\n{second}",
    "a size with a prefix": CHUNKED + b"0x{hex}\r\n{body}\r\n0\r\n\r\n{second}",
    "a size with a space before it": CHUNKED + b" {hex}\r\n{body}\r\n0\r\n\r\n{second}",
    "a size with a space after it": CHUNKED + b"{hex} \r\n{body}\r\n0\r\n\r\n{second}",
    "a size with a tab after it": CHUNKED + b"{hex}\t\r\n{body}\r\n0\r\n\r\n{second}",
    "a size beyond 64 bits": CHUNKED + b"100000000000000{hex}\r\n{body}\r\n0\r\n\r\n{second}",
    "a size with an underscore": CHUNKED + b"0_{hex}\r\n{body}\r\n0\r\n\r\n{second}",
    "no size": CHUNKED + b"\r\n{body}\r\n0\r\n\r\n{second}",
    "a size that is no number": CHUNKED + b"zz\r\n{body}\r\n0\r\n\r\n{second}",
    "a size that ends with LF": CHUNKED + b"{hex}\n{body}\r\n0\r\n\r\n{second}",
    "a size that ends with CR": CHUNKED + b"{hex}\r{body}\r\n0\r\n\r\n{second}",
    "an extension that ends with LF": CHUNKED + b"{hex};a=b\n{body}\r\n0\r\n\r\n{second}",
    "an extension with a NUL": CHUNKED + b"{hex};a\0\r\n{body}\r\n0\r\n\r\n{second}",
    "a chunk longer than its size": CHUNKED + b"1\r\n{body}\r\n0\r\n\r\n{second}",
    "a chunk that ends with LF": CHUNKED + b"{hex}\r\n{body}\n0\r\n\r\n{second}",
    "a chunk that ends with CR": CHUNKED + b"{hex}\r\n{body}\r0\r\n\r\n{second}",
    "a chunk without an end": CHUNKED + b"{hex}\r\n{body}0\r\n\r\n{second}",
    "a last chunk that ends with LF": CHUNKED + b"{chunks}0\n\n{second}",
    "a last chunk and LF": CHUNKED + b"{chunks}0\r\n\n{second}",
    "a length among the trailers": CHUNKED + b"{chunks}0\r\nContent-Length: 5\r\n\r\n{second}",
    "a coding among the trailers": CHUNKED + b"{chunks}0\r\nTransfer-Encoding: chunked\r\n\r\n{second}",
    "a trailer without a colon": CHUNKED + b"{chunks}0\r\nPOST / HTTP/1.1\r\n\r\n{second}",
    "a trailer with a NUL": CHUNKED + b"{chunks}0\r\nX: \0\r\n\r\n{second}",
}
CASES = LENGTHS | CODINGS | LINES | CHUNKS


def made(template: bytes, wire_model: WireModel) -> bytes:
    body = wire_model.chat()
    second = post(wire_model.chat(smuggled=True), path=b"/v1/completions")
    after = chunk(body) + b"0\r\n\r\n" + second
    parts = {
        b"{body}": body,
        b"{size}": b"%d" % len(body),
        b"{hex}": b"%x" % len(body),
        b"{chunks}": chunk(body),
        b"{second}": second,
        b"{rest}": b"%d" % len(after),
    }
    for mark, part in parts.items():
        template = template.replace(mark, part)
    return template


@pytest.mark.parametrize("template", CASES.values(), ids=CASES)
async def test_an_ambiguous_request_is_refused_and_nothing_of_it_passed_on(
    wire_model: WireModel, recorder: Recorder, template: bytes
) -> None:
    """Alone, byte by byte, and in one packet behind a clean one, which alone is passed on."""
    data = made(template, wire_model)
    await _is_refused(await wire_model.connect(), [data])
    await _is_refused(await wire_model.connect(), [bytes((byte,)) for byte in data])
    http_client = await wire_model.connect()
    await http_client.send(wire_model.post(b"X-Clean: 1\r\n") + data)
    assert (await http_client.reply()).raw == OK
    await _is_refused(http_client, [])
    assert not recorder.faults
    assert [request.all(b"x-clean") for request in recorder.requests] == [[b"1"]]
    assert recorder.bytes.count(b"HTTP/1.1") == 1


async def _is_refused(http_client: HttpClient, pieces: list[bytes]) -> None:
    for piece in pieces:
        await http_client.send(piece)
    reply = await http_client.reply()
    assert (reply.status, reply.code, reply.header(b"connection")) == (400, "bad_request", b"close")
    await http_client.closed()


async def test_a_body_longer_than_its_length_is_another_request_and_refused_as_such(
    wire_model: WireModel, recorder: Recorder
) -> None:
    http_client = await wire_model.connect()
    await http_client.send(wire_model.post() + b"0\r\n\r\n" + wire_model.post(smuggled=True))
    assert (await http_client.reply()).raw == OK
    assert (await http_client.reply()).status == 400
    await http_client.closed()
    assert [request.body for request in recorder.requests] == [wire_model.chat()]


@pytest.mark.parametrize("name", [b"Content_Length", b"Content-Length-", b"X-Content-Length", b"Transfer_Encoding"])
async def test_headers_that_only_look_like_framing_frame_nothing(
    wire_model: WireModel, recorder: Recorder, name: bytes
) -> None:
    http_client = await wire_model.connect()
    await http_client.send(wire_model.post(name + b": chunked\r\n") + wire_model.post(name + b": 5\r\n"))
    assert (await http_client.reply()).raw == OK
    assert (await http_client.reply()).raw == OK
    assert [request.body for request in recorder.requests] == [wire_model.chat()] * 2


async def test_a_connection_header_cannot_take_away_what_frames_the_body(
    wire_model: WireModel, recorder: Recorder
) -> None:
    named = b"Connection: content-length, host, transfer-encoding, close\r\n"
    http_client = await wire_model.connect()
    await http_client.send(wire_model.post(named))
    assert await http_client.rest() == OK
    assert [request.body for request in recorder.requests] == [wire_model.chat()]
    assert not recorder.faults


@pytest.mark.parametrize("upgrade", [b"h2c", b"websocket", b"TLS/1.0, HTTP/1.1"])
async def test_an_upgrade_hides_no_second_request(wire_model: WireModel, recorder: Recorder, upgrade: bytes) -> None:
    """llhttp takes what follows such a head for another protocol's: it must stay this request's body."""
    head = b"Connection: Upgrade\r\nUpgrade: " + upgrade + b"\r\n"
    inner = post(wire_model.chat(smuggled=True), path=b"/v1/completions")
    http_client = await wire_model.connect()
    body = wire_model.chat(inner=inner.decode())
    await http_client.send(post(body, head))
    assert (await http_client.reply()).raw == OK
    assert [(request.path, request.body) for request in recorder.requests] == [(CHAT, body)]
