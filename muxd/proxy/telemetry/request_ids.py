"""Request ids: the client's own where it sent a usable one, else one made here.

An id made here is a random prefix, drawn once per process, and a count.  It takes 0.75 us with everything around it for
a request of four headers; uuid4 alone, which asks the kernel for each, takes 2.4 us (timeit).
"""

from itertools import count
from os import urandom

import msgspec

from muxd.http.request import Request

_LONGEST = 128


class RequestId(msgspec.Struct, frozen=True, gc=False):
    """The id of one request; `value` is printable ASCII, at most 128 characters."""

    value: bytes
    upstream: bytes  # a header line for the worker's head; b"" where the client's own header is kept
    line: bytes  # a header line for the response's head
    drop: bytes  # the client's header, as spelled, that must not reach the worker; or b""

    @property
    def text(self) -> str:
        """Return the value as a text."""
        return self.value.decode()


class RequestIds:
    """Finds or makes the id of each request.

    `headers`: names of headers with an id.  Of those that a request has, the first in this order counts; a request
    without any gets its id under the first name.
    """

    def __init__(self, headers: tuple[str, ...]) -> None:
        self.names = names = [name.lower().encode() for name in headers]
        self._ranks = {name: rank for rank, name in enumerate(names)}
        # Few headers have the length of one of these names: 0.035 us a header, where lower() would make it 0.06.
        self._lengths = frozenset(map(len, names))
        # Value and line are made with one % each: 0.09 us, where encoding and joining take 0.2.
        self._value = urandom(4).hex().encode() + b"%d"
        self._lines = {name: b"%b: %%b\r\n" % name for name in names}
        self._default = self._lines[names[0]] if names else b""  # without names ids are for the log alone
        self._numbers = count(1)

    def of(self, request: Request) -> RequestId:
        """Return the id of a request."""
        known = request.known
        if not request.is_plain or known is None:
            header = self._header_of(request)
        else:
            header = request.headers[known.id_index] if known.id_index >= 0 else None
        spelled, form = b"", self._default
        if header is not None:
            spelled, value = header
            name = spelled.lower()
            if 0 < len(value) <= _LONGEST and value.isascii() and value.decode().isprintable():
                return RequestId(value, b"", b"%b: %b\r\n" % (name, value), b"")
            form = self._lines[name]
        value = self._value % next(self._numbers)
        line = form % value if form else b""
        return RequestId(value, line, line, spelled)

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
