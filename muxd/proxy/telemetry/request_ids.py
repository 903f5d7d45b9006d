"""Request ids: the client's own where it sent a usable one, else one made here.

An id made here is a random prefix, drawn once per process, and a count.  uuid4, which asks the kernel for
each, takes several times as long.
"""

from collections.abc import Iterable
from itertools import chain, count, repeat
from os import urandom

import msgspec

from muxd.http.request import Request

_LONGEST = 128
_ENDS = [b"%02d" % number for number in range(100)]
_LINE_ENDS = [end + b"\r\n" for end in _ENDS]


class RequestId(msgspec.Struct, frozen=True, gc=False):
    """The id of one request; `value` is printable ASCII, at most 128 characters."""

    value: bytes
    line: bytes  # a header line for the response's head
    is_made: bool = True  # it was made here: the worker's head gets the line, too, and else the client's own header
    drop: bytes = b""  # the client's header, as spelled, that must not reach the worker; or b""

    @property
    def text(self) -> str:
        """Return the value as a text."""
        return self.value.decode()


class RequestIds:
    """Finds or makes the id of each request; `made` has new ids without end.

    `headers`: names of headers with an id.  Of those that a request has, the first in this order counts; a request
    without any gets its id under the first name.
    """

    def __init__(self, headers: tuple[str, ...]) -> None:
        self.names = names = [name.lower().encode() for name in headers]
        self._ranks = {name: rank for rank, name in enumerate(names)}
        # Few headers have the length of one of these names: 0.035 us a header, where lower() would make it 0.06.
        self._lengths = frozenset(map(len, names))
        self._lines = {name: b"%b: %%b\r\n" % name for name in names}
        self._prefix = urandom(4).hex().encode()
        self.made = chain.from_iterable(map(self._hundred, count(1)))

    def _hundred(self, number: int) -> Iterable[RequestId]:
        """Return a hundred new ids, each of which is made when it is taken: in C, it takes half the time.

        Without `headers` ids are for the log alone, and have no line.
        """
        begin = b"%b%d" % (self._prefix, number)
        line = b"%b: %b" % (self.names[0], begin) if self.names else b""
        return map(RequestId, map(begin.__add__, _ENDS), map(line.__add__, _LINE_ENDS) if line else repeat(b""))

    def of(self, request: Request) -> RequestId:
        """Return the id of a request."""
        known = request.known
        if not request.is_plain or known is None:
            header = self._header_of(request)
        else:
            header = request.headers[known.id_index] if known.id_index >= 0 else None
        if header is None:
            return next(self.made)
        spelled, value = header
        name = spelled.lower()
        if 0 < len(value) <= _LONGEST and value.isascii() and value.decode().isprintable():
            return RequestId(value, b"%b: %b\r\n" % (name, value), is_made=False)
        value = next(self.made).value
        return RequestId(value, self._lines[name] % value, drop=spelled)

    def _header_of(self, request: Request) -> tuple[bytes, bytes] | None:
        """Return the header with the id that the client gave the request; None where it gave none."""
        best, found = len(self._ranks), None
        lengths = self._lengths
        for header in request.headers:
            if len(header[0]) in lengths:
                rank = self._ranks.get(header[0].lower(), best)
                if rank < best:
                    best, found = rank, header
        return found
