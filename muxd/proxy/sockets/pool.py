"""Pool of the connections to one worker."""

import socket
from errno import EINPROGRESS
from urllib.parse import urlsplit

from .known_answers import KnownAnswer, KnownStream, known_answer, known_stream
from .reactor import Reactor
from .upstream import Upstream

_MOST_STRANGE = 64  # answers without a known head, after which none is looked for: a new one takes 0.3 ms


class Pool:
    """The idle connections to one worker, and the heads of its last whole answer and stream that had none known.

    Of `idle` the one used last is to be taken, so that surplus connections run into the worker's idle timeout.
    """

    def __init__(self, reactor: Reactor, url: str, most_idle: int = 1024) -> None:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port or 80
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)  # an address, not a name
        self.family, self.address = addresses[0][0], addresses[0][4]
        self.reactor = reactor
        self.url = url
        self.authority = parts.netloc.encode()
        self.idle: list[Upstream] = []  # the one used last is the last
        self._most_idle = most_idle
        self._open = True
        self.known_answer: KnownAnswer | None = None
        self.known_stream: KnownStream | None = None
        self._strange = self._strange_streams = 0  # answers, and streams, that had no known head

    def __len__(self) -> int:
        return len(self.idle)

    def connect(self) -> Upstream:
        """Return a new connection, which may not be established yet; raise OSError."""
        sock = socket.socket(self.family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            code = sock.connect_ex(self.address)
            if code not in (0, EINPROGRESS):
                raise OSError(code, "")
        except OSError:
            sock.close()
            raise
        return Upstream(self, sock)

    def put(self, upstream: Upstream) -> None:
        if self._open and len(self.idle) < self._most_idle:
            self.idle.append(upstream)
        else:
            upstream.close()

    def learn(self, data: bytes) -> None:
        """Keep the head of a whole answer for the next ones, unless this worker's heads differ each time."""
        if self._strange < _MOST_STRANGE:
            self._strange += 1
            self.known_answer = known_answer(data)

    def learn_stream(self, head: bytes) -> None:
        """Keep the head of a stream likewise, unless one that began at the same time has brought it already."""
        known = self.known_stream
        if self._strange_streams < _MOST_STRANGE and (known is None or not known.head_size(head)):
            self._strange_streams += 1
            self.known_stream = known_stream(head) or known  # a chunked answer that is no stream tells nothing of one

    def discard(self, upstream: Upstream) -> None:
        if upstream in self.idle:  # mostly among the first: they are idle for longest
            self.idle.remove(upstream)

    def close(self) -> None:
        """Close the idle connections now, and the others as soon as they become idle."""
        self._open = False
        while self.idle:
            self.idle.pop().close()
