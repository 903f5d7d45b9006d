"""A worker as strict as none is: it keeps every byte that it gets, and takes nothing but clean requests."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import trio

from tests.proxy.record import Record
from tests.proxy.worker import OK

_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_HEAD = re.compile(rb"POST (/[\x21-\x7e]*) HTTP/1\.1\r\n((?:%b: [\t\x20-\x7e\x80-\xff]*\r\n)*)\r\n" % _TOKEN)


class Unclean(Exception):
    """Bytes that a proxy must not send to anybody."""


@dataclass
class Seen:
    """One request; header names in lower case."""

    target: bytes
    headers: list[tuple[bytes, bytes]]
    body: bytes

    @property
    def path(self) -> bytes:
        return self.target.partition(b"?")[0]

    def all(self, name: bytes) -> list[bytes]:
        return [value for key, value in self.headers if key == name]


class Recorder:
    """`received` has the bytes of each connection, `requests` what they mean, `faults` what they should not be."""

    def __init__(self) -> None:
        self.received: list[bytearray] = []
        self.requests: Record[Seen] = Record()
        self.faults: list[str] = []
        self.url = ""

    @property
    def bytes(self) -> bytes:
        """All that ever came."""
        return b"".join(self.received)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with trio.open_nursery() as nursery:
            (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
            self.url = f"http://127.0.0.1:{listener.socket.getsockname()[1]}"
            nursery.start_soon(trio.serve_listeners, self._serve, [listener])
            yield
            nursery.cancel_scope.cancel()

    async def _serve(self, stream: trio.SocketStream) -> None:
        received = bytearray()
        self.received.append(received)
        begin = 0
        try:
            while data := await stream.receive_some():
                received += data
                while (taken := _take(received, begin)) is not None:
                    request, begin = taken
                    self.requests.append(request)
                    await stream.send_all(OK)
        except Unclean as fault:
            self.faults.append(str(fault))
        except trio.BrokenResourceError:
            pass


def _take(received: bytearray, begin: int) -> tuple[Seen, int] | None:
    """The request that starts there, and where it ends; None while it is not whole.  Raises Unclean."""
    end = received.find(b"\r\n\r\n", begin)
    if end < 0:
        return None
    head = bytes(received[begin : end + 4])
    found = _HEAD.fullmatch(head)
    if found is None:
        raise Unclean(f"not the head of a request: {head!r}")
    seen = Seen(found[1], [_field(line) for line in found[2].split(b"\r\n")[:-1]], b"")
    stop = end + 4 + _length(seen)
    if len(received) < stop:
        return None
    seen.body = bytes(received[end + 4 : stop])
    return seen, stop


def _field(line: bytes) -> tuple[bytes, bytes]:
    name, _, value = line.partition(b": ")
    return name.lower(), value


def _length(seen: Seen) -> int:
    lengths, codings, hosts = seen.all(b"content-length"), seen.all(b"transfer-encoding"), seen.all(b"host")
    if len(lengths) != 1 or not re.fullmatch(rb"[0-9]{1,9}", lengths[0]) or codings or len(hosts) != 1:
        raise Unclean(f"the framing is not clear: {seen.headers}")
    return int(lengths[0])
