"""Whole responses whose head was parsed before: what `muxd.http.known_heads` does for requests.

A worker writes the same head before each of its responses, but for the figure of Content-Length, the date, and perhaps
an id.  What llhttp made of such a head is kept with the bytes around these *gaps*.  A response that came whole in one
read, with the same bytes around them, and as many bytes of body behind as the figure says, is what llhttp would make of
it.  Anything else goes to llhttp.

Kept is only a head of HTTP/1.1 with one Content-Length, on a connection that stays open, that is no stream's, no server
error's, and no status's without a body.
"""

import re

from httptools import HttpParserError, HttpResponseParser

from muxd.http.known_heads import LONGEST_KNOWN, TRACES, UNUSUAL, around
from muxd.http.request import Headers

from .stream_formats import kind_of

_LENGTH, _DATE = b"content-length", b"date"
_VARYING = frozenset((_LENGTH, _DATE, *TRACES))
_WITHOUT_BODY = frozenset((204, 304))
_FIGURE = rb"([0-9]{1,10}+)"
_VALUE = rb"[A-Za-z0-9 ,:_./=+-]{1,128}+"  # of a date, or an id


class KnownAnswer:
    """A response's parsed head: its status, the size of its status line, and whether the body is compressed."""

    __slots__ = ("_match", "is_encoded", "line_size", "status")

    def __init__(self, status: int, pieces: tuple[bytes, ...], gaps: list[bytes], *, is_encoded: bool) -> None:
        """Take the bytes around the gaps, and the pattern of each gap; one is `_FIGURE`."""
        self.status = status
        self.is_encoded = is_encoded
        self.line_size = pieces[0].index(b"\r\n") + 2
        parts = [re.escape(pieces[0])]
        for gap, following in zip(gaps, pieces[1:], strict=True):
            parts += (gap, re.escape(following))
        self._match = re.compile(b"".join(parts)).match

    def begins(self, data: bytes) -> bool:
        """Return whether `data` is one whole response with this head."""
        found = self._match(data)
        return found is not None and found.end() + int(found[1]) == len(data)


def known_answer(data: bytes) -> KnownAnswer | None:
    """Return what is kept of the head of the one whole response in `data`; None where nothing is."""
    size = data.find(b"\r\n\r\n", 0, LONGEST_KNOWN) + 4
    head = data[:size]
    seen = _Seen()
    parser = HttpResponseParser(seen)
    try:
        parser.feed_data(head)
    except HttpParserError:
        return None
    status, names = parser.get_status_code(), [name.lower() for name, _ in seen.headers]
    is_usual = size >= 4 and 200 <= status < 500 and status not in _WITHOUT_BODY and head.startswith(b"HTTP/1.1 ")
    if not is_usual or names.count(_LENGTH) != 1 or not UNUSUAL.isdisjoint(names) or kind_of(head.lower()) is not None:
        return None
    indices = [index for index, name in enumerate(names) if name in _VARYING]
    pieces = around(seen.headers, indices, head, _is_usual)
    if pieces is None:
        return None
    gaps = [_FIGURE if names[index] == _LENGTH else _VALUE for index in indices]
    return KnownAnswer(status, pieces, gaps, is_encoded=b"content-encoding" in names)


class _Seen:
    """What llhttp tells of a response's head."""

    def __init__(self) -> None:
        self.headers: Headers = []

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name, value))


def _is_usual(name: bytes, value: bytes) -> bool:
    return re.fullmatch(_FIGURE if name == _LENGTH else _VALUE, value) is not None
