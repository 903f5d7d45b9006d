"""An HTTP client for servers on this host: one request after the other on a connection that is kept for a moment.

An engine is asked nine times for a switch, and each request is part of what its clients wait for.  httpx took 0.3 ms of
CPU for one, and three times that where nothing was in the processor's caches; this takes a tenth, since it has what a
call or a probe needs and no more: no cookies, redirects, compression or proxies, and no TLS.
"""

import errno
import os
import select
import socket
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Protocol, Self
from urllib.parse import quote, urlsplit

import trio
from msgspec import Struct

from .answer import AnswerParser

#: Bytes that are read at once, and bytes of a head that are read at most.
_READ, _LONGEST_HEAD = 64 << 10, 100 << 10

#: Characters that may be in a request's target as they are.
_IN_TARGET = "/?&=:@!$'()*+,;%~[]|"


HTTP = "http://"


class ExchangeFailed(Exception):
    """A request had no whole answer, for what the text says; `errno` is the system's, 0 where it has none."""

    def __init__(self, reason: str, errno: int = 0) -> None:
        super().__init__(reason)
        self.errno = errno


class ConnectFailed(ExchangeFailed):
    """There is no connection: nothing was sent."""


class OverlongAnswer(ExchangeFailed):
    """The body is longer than whoever asked wants to read."""


class HttpAnswer(Struct, frozen=True):
    """A response, its body as it was sent, and the time of trio's clock at which the first bytes of that came."""

    status: int
    body: bytes
    first_at: float | None = None


class HttpClient(Protocol):
    """Whoever sends requests and returns their answers."""

    async def exchange(
        self, method: str, url: str, headers: Mapping[bytes, bytes], content: bytes | None, most: int
    ) -> HttpAnswer:
        """Send one request and return the answer, its body at most `most` bytes; raise ExchangeFailed.

        `url`: http://HOST:PORT, and what follows.  `headers`: names in lower case; the client adds the host and what
        belongs to the content.
        """
        ...

    async def prepare(self, url: str) -> None:
        """Connect to a server, if that is not done and can be: the next request need not wait for it."""
        ...


class KeepAliveClient:
    """Connections to servers, each kept for `keep` seconds after an answer, while it is open."""

    def __init__(self, keep: float, unix: Path | None = None) -> None:
        """Take how long connections are kept, and the Unix socket to which all requests go, whatever their host."""
        self._keep = keep
        self.unix = unix
        self._idle: dict[str, list[tuple[float, trio.SocketStream]]] = {}  # by host and port, since when

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._drop(before=trio.current_time() + 1)

    async def exchange(
        self, method: str, url: str, headers: Mapping[bytes, bytes], content: bytes | None, most: int
    ) -> HttpAnswer:
        """Send one request and return the answer, as HttpClient says.

        A cancelled one closes its connection, and none is sent twice: nobody would know whether the server had it.
        """
        server, request = _request(method, url, headers, content)
        stream = self._kept(server) or await self._connected(server)
        parser = AnswerParser()
        try:
            answer = await _answer(stream, request, parser, most)
        except (trio.BrokenResourceError, OSError) as error:
            cause = error.__cause__ if isinstance(error.__cause__, OSError) else error
            raise ExchangeFailed("the connection broke", getattr(cause, "errno", None) or 0) from None
        finally:
            if parser.keeps_alive:
                self._keep_for_next(server, stream)
            else:
                stream.socket.close()
        return answer

    async def prepare(self, url: str) -> None:
        """Connect to a server, if that is not done and can be."""
        server = _server(url)
        with suppress(ConnectFailed):
            self._keep_for_next(server, self._kept(server) or await self._connected(server))

    def _keep_for_next(self, server: str, stream: trio.SocketStream) -> None:
        self._idle.setdefault(server, []).append((trio.current_time(), stream))

    def _kept(self, server: str) -> trio.SocketStream | None:
        """Return a kept connection that the server has neither closed nor sent anything on; None where there is none.

        A connection that was not used for `keep` seconds is closed: nobody would know whether a request on it reached a
        server that has died meanwhile.
        """
        self._drop(before=trio.current_time() - self._keep)
        while kept := self._idle.get(server):
            stream = kept.pop()[1]
            if _is_quiet(stream):
                return stream
            stream.socket.close()
        return None

    def _drop(self, before: float) -> None:
        for server, kept in list(self._idle.items()):
            for since, stream in kept:
                if since < before:
                    stream.socket.close()
            self._idle[server] = [each for each in kept if each[0] >= before]
            if not self._idle[server]:
                del self._idle[server]

    async def _connected(self, server: str) -> trio.SocketStream:
        """Return a new connection; raise ConnectFailed.  An address in figures needs no resolver, and no thread."""
        try:
            if self.unix is not None:
                return await trio.open_unix_socket(self.unix)
            if (numeric := _in_figures(server)) is not None:
                return await _connected_at_once(numeric)
            parts = urlsplit(f"//{server}")
            found = await trio.socket.getaddrinfo(parts.hostname, parts.port or 80, type=socket.SOCK_STREAM)
            family, kind, protocol, _, address = found[0]
            end = trio.socket.socket(family, kind, protocol)
            try:
                await end.connect(address)
                return trio.SocketStream(end)
            except BaseException:
                end.close()
                raise
        except OSError as error:
            raise ConnectFailed("there is no connection", error.errno or 0) from error


def _in_figures(server: str) -> tuple[str, int] | None:
    """Return the address of HOST:PORT where the host is four numbers."""
    host, _, port = server.rpartition(":")
    try:
        socket.inet_pton(socket.AF_INET, host)
        return (host, int(port)) if 0 < int(port) < 1 << 16 else None
    except (OSError, ValueError):
        return None


async def _connected_at_once(address: tuple[str, int]) -> trio.SocketStream:
    """Connect without a turn of trio's loop where the other end is on this host, for a fourth of the CPU.

    The kernel has the connection then when connect(2) returns, though it calls it in progress.  Raise OSError.
    """
    end = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        end.setblocking(False)
        error = end.connect_ex(address)
        if error == errno.EINPROGRESS:
            if not _is_ready(end, select.POLLOUT):
                await trio.lowlevel.wait_writable(end)
            error = end.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            raise OSError(error, os.strerror(error))
        return trio.SocketStream(trio.socket.from_stdlib_socket(end))
    except BaseException:
        end.close()
        raise


def _server(url: str) -> str:
    """Return HOST:PORT of a URL."""
    return url.removeprefix(HTTP).partition("/")[0]


def _request(method: str, url: str, headers: Mapping[bytes, bytes], content: bytes | None) -> tuple[str, bytes]:
    """Return the server of a request as HOST:PORT, and its bytes; raise ExchangeFailed for a header of two lines."""
    server = _server(url)
    path = url[len(HTTP + server) :] or "/"
    fields = {b"host": server.encode(), b"accept": b"*/*", b"accept-encoding": b"identity"}
    if content is not None:
        fields[b"content-type"] = b"application/json"
    fields.update(headers)
    if content is not None or method != "GET":
        fields[b"content-length"] = b"%d" % len(content or b"")
    lines = [f"{method} {quote(path, _IN_TARGET)} HTTP/1.1".encode("ascii")]
    lines += [b"%b: %b" % field for field in fields.items()]
    if any(b"\r" in line or b"\n" in line or b"\0" in line for line in lines):
        raise ExchangeFailed("a header has more than one line, and was not sent")
    return server, b"\r\n".join([*lines, b"", content or b""])


async def _answer(stream: trio.SocketStream, request: bytes, parser: AnswerParser, most: int) -> HttpAnswer:
    """Send a request and read its answer; raise ExchangeFailed, BrokenResourceError and OSError."""
    with suppress(trio.BrokenResourceError):  # a server may refuse a request before it has read all, and says why
        await stream.send_all(request)
    body, came, first_at = bytearray(), 0, None
    while not parser.complete:
        data = await stream.receive_some(_READ)
        came += len(data)
        try:
            body += parser.feed(data) if data else b""
        except ValueError as error:
            raise ExchangeFailed(f"it does not speak HTTP: {error}") from None
        if not data:
            parser.end()
            if not parser.complete:
                raise ExchangeFailed("the connection was closed")
        if body and first_at is None:
            first_at = trio.current_time()
        if len(body) > most:
            raise OverlongAnswer(f"the answer is longer than {most} bytes")
        if not parser.status and came > _LONGEST_HEAD:
            raise OverlongAnswer(f"the answer's head is longer than {_LONGEST_HEAD} bytes")
    return HttpAnswer(parser.status, bytes(body), first_at)


def _is_quiet(stream: trio.SocketStream) -> bool:
    """Say whether a connection on which nothing is due is open, and has nothing to be read."""
    return not _is_ready(stream.socket, select.POLLIN)


def _is_ready(end: socket.socket | trio.socket.SocketType, event: int) -> bool:
    poll = select.poll()
    poll.register(end.fileno(), event)
    return bool(poll.poll(0))
