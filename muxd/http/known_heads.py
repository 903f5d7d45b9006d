"""Heads of requests that were parsed before: the same bytes again are not parsed again.

A program sends the same head with each of its requests, but for the figure of Content-Length, and perhaps an id of the
request.  What llhttp made of such a head is kept with the bytes around these *gaps*.  A request that has the same bytes
around them, digits for the figure, letters and digits for an id, and as many bytes of body behind as the figure says,
is what llhttp would make of it, as neither changes how anything else is read: 1 us in place of 5 for eight headers.
Anything else goes to llhttp, the least difference included: nothing here reads HTTP, so that nothing is taken here
which llhttp and `request` would refuse.

Kept is only a head that arrived whole, in one read with its body, of HTTP/1.1, on a connection that stays open, with
one Content-Length and no header that changes how the bytes are read.
"""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from .figures import FIGURES

if TYPE_CHECKING:
    from .request import Headers, Request

LONGEST_KNOWN = 2048  # bytes of a head that is kept
_MOST_KNOWN = 512  # heads
_MOST_DIGITS = 10  # of a Content-Length; llhttp takes more
_LONGEST_ID = 128
_LENGTH = b"content-length"
TRACES = (b"traceparent", b"x-request-id", b"x-b3-traceid", b"x-b3-spanid")  # what gateways add, of each request's own
UNUSUAL = frozenset((b"transfer-encoding", b"upgrade", b"expect", b"trailer"))
_ID_SIGNS = b"-_.:/=+"  # beside letters and digits


class KnownHead:
    """A parsed head, and what its owner found in it: both are the same for every request with these bytes.

    `headers` are those of the first request with it.  `id_index` is where the header with the request's id is among
    them: -1 for none, or several.  `is_alike` says that Content-Length is the only gap.  The others are the owner's:
    `judged_by` and `is_plain_to`, the rules by which the head was looked through, and by which its headers need no
    check but for that id; `read`, which reads the bodies behind it; `ways`, what is kept of requests with it, by a name
    in their bodies.
    """

    __slots__ = (
        "_around",
        "_begin",
        "_begin_size",
        "_following",
        "_gaps",
        "_index",
        "_make",
        "_name",
        "headers",
        "id_index",
        "is_alike",
        "is_plain_to",
        "judged_by",
        "method",
        "read",
        "target",
        "ways",
    )

    def __init__(self, request: "Request", pieces: tuple[bytes, ...], indices: list[int], id_index: int) -> None:
        """Take the bytes around the gaps, and the indices of the headers with these, in their order."""
        self.method = request.method
        self.target = request.target
        self.judged_by: object = None
        self.is_plain_to: object = None
        self.id_index = id_index
        self.is_alike = len(indices) == 1
        self.read: Callable[[Request], Any] | None = None
        self.ways: dict[str, Any] = {}
        self._make = type(request)
        self.headers = request.headers.copy()
        self._begin, self._begin_size = pieces[0], len(pieces[0])
        names = [self.headers[index][0] for index in indices]
        figures = [name.lower() == _LENGTH for name in names]
        self._gaps = tuple(zip(indices, names, figures, pieces[1:], strict=True))
        # Of the only gap, the figure: `_parts` takes twice the time.
        self._index, self._name, self._following = indices[0], names[0], pieces[1] if self.is_alike else b""
        self._around = len(pieces[0]) + len(pieces[1])

    def request(self, text: bytes, most: int) -> "Request | None":
        """Return the one whole request in `text`, of at most LISTED bytes; None where that is not sure.

        `most`: the bytes that a body may have.
        """
        at = self._begin_size
        if text[:at] != self._begin:  # `startswith` takes twice the time
            return None
        if following := self._following:
            figure = FIGURES[len(text) - self._around]
            end = self._around + len(figure)
            if text[at:end] != figure + following:
                return None
            body = text[end:]
            if len(body) > most:
                return None
            headers = self.headers.copy()
            headers[self._index] = (self._name, figure)
        elif (parts := self._parts(text, most)) is not None:
            headers, body = parts
        else:
            return None
        return self._make(self.method, self.target, headers, body, "1.1", True, 0, self, self.is_plain_to is not None)

    def _parts(self, text: bytes, most: int) -> "tuple[Headers, bytes] | None":
        """Return headers and body of the one whole request in `text`, which has the beginning; else None."""
        at, size = self._begin_size, 0
        headers = self.headers.copy()
        for index, name, is_figure, following in self._gaps:
            end = text.find(b"\r", at, at + (_MOST_DIGITS if is_figure else _LONGEST_ID) + 1)
            value = text[at:end]
            if end < 0 or not text.startswith(following, end):
                return None
            if is_figure:
                if not value.isdigit():
                    return None
                size = int(value)
            elif not _is_id(value):
                return None
            headers[index] = (name, value)
            at = end + len(following)
        return (headers, text[at:]) if at + size == len(text) and size <= most else None


def _is_id(value: bytes) -> bool:
    return value.isalnum() or value.translate(None, _ID_SIGNS).isalnum()


class KnownHeads:
    """The heads that are known to all connections of one owner; of too many all are forgotten."""

    def __init__(self, ids: Iterable[bytes] = ()) -> None:
        """Take the names of headers with an id of the request, in lower case."""
        self._ids = frozenset(ids)
        self._varying = (self._ids | frozenset(TRACES)) - UNUSUAL - {_LENGTH, b"host", b"connection"}
        self._heads: dict[tuple[bytes, ...], KnownHead] = {}
        self.latest: KnownHead | None = None  # that was looked for

    def __len__(self) -> int:
        return len(self._heads)

    def of(self, request: "Request", text: bytes) -> KnownHead | None:
        """Return what is kept of the head of `request`, which llhttp made of `text` alone; None where nothing is."""
        end = len(text) - len(request.body)
        names = [name.lower() for name, _ in request.headers]
        if end > LONGEST_KNOWN or request.http_version != "1.1" or not request.keep_alive:
            return None
        if names.count(_LENGTH) != 1 or not UNUSUAL.isdisjoint(names):
            return None
        indices = [index for index, name in enumerate(names) if name == _LENGTH or name in self._varying]
        pieces = around(request.headers, indices, text[:end], _is_usual)
        if pieces is None:
            return None
        known = self._heads.get(pieces)
        if known is None:
            if len(self._heads) >= _MOST_KNOWN:
                self._heads.clear()
            ids = [index for index, name in enumerate(names) if name in self._ids]
            known = self._heads[pieces] = KnownHead(request, pieces, indices, ids[0] if len(ids) == 1 else -1)
        self.latest = known
        return known


def _is_usual(name: bytes, value: bytes) -> bool:
    return value.isdigit() if name == _LENGTH else _is_id(value) and len(value) <= _LONGEST_ID


def around(
    headers: "Headers", indices: list[int], head: bytes, is_usual: Callable[[bytes, bytes], bool]
) -> tuple[bytes, ...] | None:
    """Return the bytes around the values of these headers; None where one is not written as `NAME: VALUE`, or unusual.

    `is_usual` is asked with each name, in lower case, and its value.
    """
    pieces, begin = [], 0
    for index in indices:
        name, value = headers[index]
        line = b"\r\n%b: %b\r\n" % (name, value)
        at = head.find(line, begin)
        if at < 0 or not is_usual(name.lower(), value):
            return None
        start = at + len(line) - len(value) - 2
        pieces.append(head[begin:start])
        begin = start + len(value)
    pieces.append(head[begin:])
    is_whole = head.endswith(b"\r\n\r\n") and not any(piece[2:3] in (b" ", b"\t") for piece in pieces[1:])
    return tuple(pieces) if is_whole else None
