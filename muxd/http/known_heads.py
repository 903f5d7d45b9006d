"""Heads of requests that were parsed before: the same bytes again are not parsed again.

A program sends the same head with each of its requests, but for the figure of Content-Length.  What llhttp made of
such a head is kept with the bytes before the figure and after it.  A request that has both, with digits between them
and as many bytes of body behind, is what llhttp would make of it, as a figure changes nothing else: 1 us in place of 5
for eight headers.  Anything else goes to llhttp, the least difference included: nothing here reads HTTP, so that
nothing is taken here which llhttp and `request` would refuse.

Kept is only a head that arrived whole, in one read with its body, of HTTP/1.1, on a connection that stays open, with
one Content-Length and no header that changes how the bytes are read.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .request import Headers, Request

LONGEST_KNOWN = 2048  # bytes of a head that is kept
_MOST_KNOWN = 512  # heads
_MOST_DIGITS = 10  # of a Content-Length; llhttp takes more
_LENGTH = b"content-length"
_UNUSUAL = frozenset((b"transfer-encoding", b"upgrade", b"expect", b"trailer"))


class KnownHead:
    """A parsed head, and what its owner found in it: both are the same for every request with these bytes.

    `judged_by`, `is_plain_to` and `sent` are the owner's: the rules by which the head was looked through, and by which
    its headers need no check; and what was sent to a worker around the figure of Content-Length.
    """

    __slots__ = (
        "_after",
        "_before",
        "_headers",
        "_index",
        "_name",
        "is_plain_to",
        "judged_by",
        "method",
        "sent",
        "target",
    )

    def __init__(self, request: "Request", before: bytes, index: int, after: bytes) -> None:
        self.method = request.method
        self.target = request.target
        self.judged_by: object = None
        self.is_plain_to: object = None
        self.sent: dict[object, tuple[bytes, bytes]] = {}
        self._headers = tuple(request.headers)
        self._index = index  # of Content-Length among the headers
        self._name = self._headers[index][0]
        self._before = before
        self._after = after

    def parts(self, text: bytes, most: int) -> "tuple[Headers, bytes] | None":
        """Return headers and body of the one whole request in `text`; None where that is not sure.

        `most`: the bytes that a body may have.
        """
        before, after = self._before, self._after
        if not text.startswith(before):
            return None
        start = len(before)
        end = text.find(b"\r", start, start + _MOST_DIGITS + 1)
        figure = text[start:end]
        if end < 0 or not figure.isdigit() or not text.startswith(after, end):
            return None
        begin, size = end + len(after), int(figure)
        if begin + size != len(text) or size > most:
            return None
        headers = [*self._headers]
        headers[self._index] = (self._name, figure)
        return headers, text[begin:]


class KnownHeads:
    """The heads that are known to all connections of one owner; of too many all are forgotten."""

    def __init__(self) -> None:
        self._heads: dict[tuple[bytes, bytes], KnownHead] = {}

    def __len__(self) -> int:
        return len(self._heads)

    def of(self, request: "Request", text: bytes) -> KnownHead | None:
        """Return what is kept of the head of `request`, which llhttp made of `text` alone; None where nothing is."""
        end = len(text) - len(request.body)
        if end > LONGEST_KNOWN or request.http_version != "1.1" or not request.keep_alive:
            return None
        index = -1
        for number, (name, _) in enumerate(request.headers):
            lowered = name.lower()
            if lowered == _LENGTH:
                if index >= 0:
                    return None
                index = number
            elif lowered in _UNUSUAL:
                return None
        if index < 0:
            return None
        name, figure = request.headers[index]
        line = b"\r\n%b: %b\r\n" % (name, figure)
        at = text.find(line, 0, end)
        digits = at + len(line) - len(figure) - 2
        key = text[:digits], text[digits + len(figure) : end]
        if at < 0 or not key[1].endswith(b"\r\n\r\n") or key[1][2:3] in b" \t" or not figure.isdigit():
            return None
        known = self._heads.get(key)
        if known is None:
            if len(self._heads) >= _MOST_KNOWN:
                self._heads.clear()
            known = self._heads[key] = KnownHead(request, key[0], index, key[1])
        return known
