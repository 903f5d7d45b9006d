"""Responses whose head was parsed before: what `muxd.http.known_heads` does for requests.

A worker writes the same head before each of its responses, but for the figure of Content-Length, the date, and perhaps
an id.  What llhttp made of such a head is kept with the bytes around these *gaps*.  A response that came whole in one
read, with the same bytes around them, and as many bytes of body behind as the figure says, is what llhttp would make of
it; and so is the head of a stream, with nothing behind or one whole event.  Anything else goes to llhttp.

Kept is only a head of HTTP/1.1 on a connection that stays open: one with one Content-Length that is no stream's, no
server error's, and no status's without a body; or that of a stream of events in chunks, not compressed.
"""

import re
from contextlib import suppress

from httptools import HttpParserError, HttpResponseParser

from muxd.http.figures import FIGURES
from muxd.http.known_heads import LONGEST_KNOWN, TRACES, UNUSUAL, around
from muxd.http.request import Headers

from .single_events import is_event
from .stream_formats import EVENTS, kind_of

_LENGTH, _DATE, _TRANSFER = b"content-length", b"date", b"transfer-encoding"
_VARYING = frozenset((_LENGTH, _DATE, *TRACES))
_ENCODING = b"content-encoding"
_WITHOUT_BODY = frozenset((204, 304))
_NO_STREAMS = (UNUSUAL - {_TRANSFER}) | {_LENGTH, _ENCODING}  # headers that the head of a known stream has not
_MOST_DIGITS = 10
_FIGURE = rb"([0-9]{1,%d}+)" % _MOST_DIGITS
_VALUE = rb"[A-Za-z0-9 ,:_./=+-]{1,128}+"  # of a date, or an id


class KnownAnswer:
    """A response's parsed head: its status, its status line with its size, and whether the body is compressed."""

    __slots__ = ("_after", "_around", "_at", "_before", "_match", "is_encoded", "line", "line_size", "status")

    def __init__(self, status: int, pieces: tuple[bytes, ...], gaps: list[bytes], *, is_encoded: bool) -> None:
        """Take the bytes around the gaps, and the pattern of each gap; one is `_FIGURE`."""
        self.status = status
        self.is_encoded = is_encoded
        self.line, self.line_size = _status_line(pieces)
        self._match = _pattern(pieces, gaps).match
        # Of the last response, what came before the figure of Content-Length, and behind it: a date lasts a second.
        self._before, self._after = b"none", b"none"
        self._at = self._around = 0  # no bytes up to here are "none"

    def begins(self, data: bytes) -> bool:
        """Return whether `data`, of less than LISTED bytes, is one whole response with this head.

        Where the figure is all that differs from the last one's head, that takes a third of the pattern's time.
        """
        at = self._at
        if data[:at] == self._before:
            figure = FIGURES[len(data) - self._around]
            if data[at : self._around + len(figure)] == figure + self._after:
                return True
        head = self._match(data)
        if head is None:
            return False
        self._at, end = head.span(1)
        self._before, self._after = data[: self._at], data[end : head.end()]
        self._around = self._at + len(self._after)
        return head.end() + int(head[1]) == len(data)


class KnownStream:
    """The head of a stream of events, with its status line and its size."""

    __slots__ = ("_match", "line", "line_size")

    def __init__(self, pieces: tuple[bytes, ...], gaps: list[bytes]) -> None:
        """Take the bytes around the gaps, and the pattern of each gap."""
        self.line, self.line_size = _status_line(pieces)
        self._match = _pattern(pieces, gaps).match

    def head_size(self, data: bytes) -> int:
        """Return the size of this head where `data` begins with it, and with nothing or one event behind; else 0."""
        found = self._match(data)
        if found is None:
            return 0
        size = found.end()
        return size if len(data) == size or is_event(data, size) else 0


def known_answer(data: bytes) -> KnownAnswer | None:
    """Return what is kept of the head of the one whole response in `data`; None where nothing is."""
    head = data[: data.find(b"\r\n\r\n", 0, LONGEST_KNOWN) + 4]
    seen = _Seen(head)
    is_usual = 200 <= seen.status < 500 and seen.status not in _WITHOUT_BODY and kind_of(head.lower()) is None
    if not is_usual or seen.names.count(_LENGTH) != 1 or not UNUSUAL.isdisjoint(seen.names):
        return None
    found = seen.around_gaps(head)
    return None if found is None else KnownAnswer(seen.status, *found, is_encoded=_ENCODING in seen.names)


def known_stream(head: bytes) -> KnownStream | None:
    """Return what is kept of the head of a stream, which was whole; None where nothing is."""
    seen = _Seen(head if len(head) <= LONGEST_KNOWN else b"")
    if seen.status != 200 or kind_of(head.lower()) is not EVENTS or not _NO_STREAMS.isdisjoint(seen.names):
        return None
    if [value for name, value in seen.headers if name.lower() == _TRANSFER] != [b"chunked"]:
        return None
    found = seen.around_gaps(head)
    return None if found is None else KnownStream(*found)


class _Seen:
    """What llhttp makes of a response's head: a status of 0 where it is none of HTTP/1.1."""

    def __init__(self, head: bytes) -> None:
        self.headers: Headers = []
        self.status = 0
        parser = HttpResponseParser(self)
        with suppress(HttpParserError):
            parser.feed_data(head)
            if head.startswith(b"HTTP/1.1 ") and head.endswith(b"\r\n\r\n"):
                self.status = parser.get_status_code()
        self.names = [name.lower() for name, _ in self.headers]

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name, value))

    def around_gaps(self, head: bytes) -> tuple[tuple[bytes, ...], list[bytes]] | None:
        """Return the bytes around the gaps, and each gap's pattern; None where a gap is not written as usual."""
        indices = [index for index, name in enumerate(self.names) if name in _VARYING]
        pieces = around(self.headers, indices, head, _is_usual)
        if pieces is None:
            return None
        return pieces, [_FIGURE if self.names[index] == _LENGTH else _VALUE for index in indices]


def _status_line(pieces: tuple[bytes, ...]) -> tuple[bytes, int]:
    size = pieces[0].index(b"\r\n") + 2
    return pieces[0][:size], size


def _pattern(pieces: tuple[bytes, ...], gaps: list[bytes]) -> re.Pattern[bytes]:
    parts = [re.escape(pieces[0])]
    for gap, following in zip(gaps, pieces[1:], strict=True):
        parts += (gap, re.escape(following))
    return re.compile(b"".join(parts))


def _is_usual(name: bytes, value: bytes) -> bool:
    return re.fullmatch(_FIGURE if name == _LENGTH else _VALUE, value) is not None
