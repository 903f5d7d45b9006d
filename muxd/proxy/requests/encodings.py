"""Decompression of request bodies, as their Content-Encoding says: the model is named inside, and workers accept no
compressed bodies.

The decompressed bytes are counted as they come out: a few KiB can decompress to as many GiB.
"""

import sys
import zlib
from collections.abc import Callable, Iterator

from muxd.http.request import Request
from muxd.proxy.answers import Refusal

_NAME = b"content-encoding"
_STEP = 256 << 10  # bytes that are put in, and asked for, at once: smaller pieces fragment the heap
_MAX_CODINGS = 2  # codings of one body, one within another
_ZSTD_WINDOW = 23  # log2 of 8 MiB, the most that a server has to accept (RFC 9659)


class _Broken(Exception):
    """The body is not in the coding that its Content-Encoding names."""


def codings(request: Request) -> list[bytes]:
    """Return the names of the body's codings, the outermost last; raise Refusal for one that is not known."""
    for name, _ in request.headers:
        if len(name) == 16 and name.lower() == _NAME:
            return _codings(request)
    return []


def _codings(request: Request) -> list[bytes]:
    values = [value for name, value in request.headers if name.lower() == _NAME]
    names = [token.strip().lower() for value in values for token in value.split(b",")]
    names = [name for name in names if name not in (b"", b"identity")]
    if unknown := next((name for name in names if name not in _DECODERS), None):
        raise _unsupported(f"content-encoding {ascii(unknown[:100].decode('latin-1'))[1:-1]} is not known here")
    if len(names) > _MAX_CODINGS:
        raise _unsupported(f"a content-encoding of {len(names)}, one within another, is not taken apart")
    return names


def decoding(request: Request, names: list[bytes], grown: Callable[[int, int], None]) -> Iterator[None]:
    """Replace the request's body by the decompressed one, in steps of at most a millisecond.

    `grown(size, more)` is called as decompressed bytes are held: a body has grown by `more` bytes to `size` bytes; it
    may raise.  Raise Refusal where the body is not in these codings, and leave the request as it was.
    """
    body = request.body
    for name in reversed(names):
        kept, size = [], 0
        try:
            for piece in _DECODERS[name](body):
                size += len(piece)
                grown(size, len(piece))
                kept.append(piece)
                yield
        except _Broken as error:
            said = name.decode()
            message = f"the body is not {said}, as its content-encoding says: {error}; send it whole, or send it plain"
            raise Refusal(400, "invalid_content_encoding", message) from None
        if body is not request.body:
            grown(0, -len(body))
        body = b"".join(kept)
    request.body = body
    request.headers = [header for header in request.headers if header[0].lower() != _NAME]


def _parts(body: bytes) -> Iterator[bytes]:
    return (body[at : at + _STEP] for at in range(0, len(body), _STEP))


def _gzip(body: bytes) -> Iterator[bytes]:
    """Decompress the members of a gzip file, one after the other (RFC 1952, 2.2)."""
    return _inflated(body, zlib.MAX_WBITS | 16, several=True)


def _deflate(body: bytes) -> Iterator[bytes]:
    """Decompress deflate with zlib's header (RFC 9110, 8.4.1.2), or without it, as many clients send it."""
    has_header = len(body) > 1 and body[0] & 15 == 8 and int.from_bytes(body[:2], "big") % 31 == 0
    return _inflated(body, zlib.MAX_WBITS if has_header else -zlib.MAX_WBITS, several=False)


def _inflated(body: bytes, bits: int, *, several: bool) -> Iterator[bytes]:
    decoder = zlib.decompressobj(bits)
    try:
        for part in _parts(body):
            more = True
            while part or more:
                if decoder.eof:
                    if not part:
                        break
                    if not several:
                        raise _Broken("something follows its end")
                    decoder = zlib.decompressobj(bits)
                piece = decoder.decompress(part, _STEP)
                part, more = decoder.unconsumed_tail or decoder.unused_data, len(piece) == _STEP
                yield piece
    except zlib.error as error:
        raise _Broken(str(error)) from None
    if not decoder.eof:
        raise _Broken("it breaks off")


def _zstd(body: bytes) -> Iterator[bytes]:
    """Decompress zstd, one frame after the other (RFC 8878, 3.1)."""
    if sys.version_info >= (3, 14):
        from compression import zstd
    else:
        from backports import zstd

    options = {int(zstd.DecompressionParameter.window_log_max): _ZSTD_WINDOW}
    decoder = zstd.ZstdDecompressor(options=options)
    try:
        for part in _parts(body):
            while part or not (decoder.eof or decoder.needs_input):
                if decoder.eof:
                    decoder = zstd.ZstdDecompressor(options=options)
                piece = decoder.decompress(part, _STEP)
                part = decoder.unused_data if decoder.eof else b""
                yield piece
    except zstd.ZstdError as error:
        raise _Broken(str(error)) from None
    if not decoder.eof:
        raise _Broken("it breaks off")


def _brotli(body: bytes) -> Iterator[bytes]:
    import brotli

    decoder = brotli.Decompressor()
    try:
        for part in _parts(body):
            piece = decoder.process(part, output_buffer_limit=_STEP)
            while not decoder.is_finished() and (piece or not decoder.can_accept_more_data()):
                yield piece  # a decoder that can accept more data may have more output, too
                piece = decoder.process(b"", output_buffer_limit=_STEP)
            yield piece
    except brotli.error:
        raise _Broken("what is in it cannot be read") from None
    if not decoder.is_finished():
        raise _Broken("it breaks off")


_DECODERS: dict[bytes, Callable[[bytes], Iterator[bytes]]] = {
    b"gzip": _gzip,
    b"x-gzip": _gzip,
    b"deflate": _deflate,
    b"zstd": _zstd,
    b"br": _brotli,
}
_ACCEPTED = b"gzip, deflate, zstd, br"


def _unsupported(problem: str) -> Refusal:
    """Return a refusal with the header that lists the codings accepted here (RFC 9110, 12.5.3)."""
    message = f"{problem}: send the body plain, or in one of {_ACCEPTED.decode()}"
    return Refusal(415, "unsupported_content_encoding", message, headers=((b"accept-encoding", _ACCEPTED),))
