"""One request, and the parser that makes requests of a connection's bytes.

llhttp (through httptools) does the parsing.  It is strict by itself about most of what
request smuggling needs; what it lets through is refused here: a missing or second Host,
any Transfer-Encoding but exactly `chunked`, Transfer-Encoding on HTTP/1.0, versions other
than 1.0 and 1.1, CONNECT.  tests/http/test_request.py holds both lists.

No I/O here: who owns the socket feeds the bytes in, and keeps the time.
"""

from typing import Any
from urllib.parse import parse_qsl, unquote

import msgspec
from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser

from muxd.errors import BadRequest, BodyTooLarge, HeadTooLarge, MuxdError, TlsNotSupported

Headers = list[tuple[bytes, bytes]]

_METHODS = {name.encode(): name for name in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")}
_TELLING = frozenset(map(len, (b"host", b"expect", b"upgrade", b"content-length", b"transfer-encoding")))
_SMALL = 4096  # bytes of a head that are not worth counting
_MOST_FIELDS = 32  # of a query: thousands take milliseconds
_FRAGMENTS = 1024  # body pieces held before they are joined: one-byte chunks cost 40 bytes each until then


class Request:
    """One complete request.  `headers` are as sent: case, order and duplicates kept."""

    __slots__ = ("body", "head_size", "headers", "http_version", "keep_alive", "method", "target")

    def __init__(
        self,
        method: str,
        target: bytes,
        headers: Headers,
        body: bytes,
        http_version: str,
        keep_alive: bool,
        head_size: int = 0,
    ) -> None:
        """`head_size`: bytes of a head that is worth counting, else 0."""
        self.head_size = head_size
        self.method = method
        self.target = target
        self.headers = headers
        self.body = body
        self.http_version = http_version
        self.keep_alive = keep_alive

    def __repr__(self) -> str:
        return f"<Request {self.method} {self.target!r}>"

    @property
    def raw_path(self) -> str:
        """The target without scheme, authority and query, percent-encoding kept."""
        target = self.target.decode("latin-1")
        if not target.startswith("/") and "://" in target:
            target = "/" + target.partition("://")[2].partition("/")[2]
        return target.partition("#")[0].partition("?")[0]

    @property
    def path(self) -> str:
        """The target's path, percent-decoded; what is not UTF-8 becomes U+FFFD."""
        return unquote(self.raw_path)

    @property
    def query(self) -> dict[str, str]:
        """The query's parameters; of duplicates the last.  Raises BadRequest where they are more than any route has."""
        query = self.target.partition(b"#")[0].partition(b"?")[2]
        if not query:
            return {}
        try:
            return dict(parse_qsl(query.decode("latin-1"), keep_blank_values=True, max_num_fields=_MOST_FIELDS))
        except ValueError:
            raise BadRequest(f"the query has more than {_MOST_FIELDS} parameters") from None

    def header(self, name: bytes) -> bytes | None:
        """The first header of this name, whatever its case."""
        length, name = len(name), name.lower()
        for key, value in self.headers:
            if len(key) == length and key.lower() == name:
                return value
        return None

    def json(self) -> Any:
        """The body as JSON, {} where there is none; raises BadRequest."""
        if not self.body:
            return {}
        try:
            return msgspec.json.decode(self.body)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise BadRequest(f"the body is not JSON: {error}") from None
        except RecursionError:
            raise BadRequest("the body is not JSON that can be read: nested too deeply") from None


class RequestParser:
    """The requests of one connection; `feed` it what arrives.

    `max_head` and `max_body` are counted while receiving.  A head that is complete within
    one `feed` may not exceed `max_head`; one that is not is refused as soon as the bytes
    received for it do.
    """

    __slots__ = (
        "_ended",
        "_fed",
        "_feeding",
        "_headers",
        "_joined",
        "_max_body",
        "_max_head",
        "_method",
        "_parser",
        "_parts",
        "_ready",
        "_upgrading",
        "_url",
        "_version",
        "broken",
        "buffered",
        "expects_continue",
        "head_seen",
        "head_size",
        "mid_message",
    )

    def __init__(self, max_head: int, max_body: int) -> None:
        self._max_head = max_head
        self._max_body = max_body
        self._parser: HttpRequestParser | None = HttpRequestParser(self)
        self._ready: list[Request] = []
        self._method = ""
        self._version = "1.1"
        self._upgrading = False  # the client would rather speak another protocol; it is not asked to
        self._ended = False  # a request that closes the connection was the last
        self._feeding = 0  # bytes of the present feed
        self.broken: MuxdError | None = None  # what `feed` raises from now on
        self.expects_continue = False  # answer `100 Continue` and clear it
        self._renew()

    def _renew(self) -> None:
        """Forget the message that is complete."""
        self._url = b""
        self._headers: Headers = []
        self._parts: list[bytes] = []
        self._joined = 0
        self._fed = 0  # bytes of earlier feeds that belong to a head not yet complete
        self.buffered = 0  # body bytes held
        self.head_size = 0  # of a complete head that is worth counting
        self.head_seen = False
        self.mid_message = False  # some of a message was received, not all

    def feed(self, data: bytes | bytearray | memoryview) -> list[Request]:
        """The requests that `data` completes, pipelined ones too.

        Raises BadRequest, HeadTooLarge or BodyTooLarge; where earlier requests were completed
        by the same data these are returned first, `broken` is set, and the next `feed`
        raises.  Nothing is read after a request that closes the connection.
        """
        if self.broken is not None:
            raise self.broken
        if self._ended:
            return []
        assert self._parser is not None
        ready: list[Request] = []
        self._ready = ready
        while True:
            self._feeding = len(data)
            try:
                self._parser.feed_data(data)
            except HttpParserUpgrade as upgrade:
                data = self._decline_upgrade() + bytes(data)[upgrade.args[0] :]
                continue
            except HttpParserError as error:
                self._break(error, data)
            break
        if self.mid_message and not self.head_seen and not ready:
            self._fed += self._feeding
            if self._fed > self._max_head:
                self.broken = self.broken or self._head_too_large()
        if self.broken is not None and not ready:
            raise self.broken
        return ready

    def release(self) -> None:
        """Let go of all that is held; nothing is fed any more.

        The parser holds this object's methods, and an error the frames that it went through:
        what hangs on such cycles is freed by a full garbage collection only, which may be far.
        """
        self._parser = self.broken = None
        self._ready = []
        self._renew()

    @property
    def head_bytes(self) -> int:
        """Bytes held of a message's head, as far as they are worth counting."""
        return self.head_size if self.head_seen else self._fed

    def head(self) -> Request:
        """The message that is under way, without its body; all of it is there once `head_seen`."""
        return Request(
            self._method if self.head_seen else "", self._url, list(self._headers), b"", self._version, False
        )

    def _decline_upgrade(self) -> bytes:
        """The head to read once more, as if it had not asked for another protocol (RFC 9110, 7.8).

        llhttp stops after such a head and would take the body for the next request.  Java's
        HttpClient asks for h2c on every plain connection, so refusing is not an option.
        """
        headers = [(name, value) for name, value in self._headers if name.lower() != b"upgrade"]
        lines = [b"%b %b HTTP/%b" % (self._method.encode(), self._url, self._version.encode())]
        lines += [b"%b: %b" % header for header in headers]
        self._upgrading = False
        self._parser = HttpRequestParser(self)
        self._renew()
        return b"\r\n".join(lines) + b"\r\n\r\n"

    def _break(self, error: HttpParserError, data: bytes | bytearray | memoryview) -> None:
        """Keep what is wrong, unless it is only data after the last request."""
        if self._ended:
            return
        cause = error.__context__
        if isinstance(cause, MuxdError):
            self.broken = cause
        elif cause is not None:
            raise cause
        elif not self._url and bytes(data[:1]) == b"\x16":
            self.broken = TlsNotSupported("this port speaks plain HTTP, not TLS: use http://")
        elif "PRI" in str(error):
            self.broken = BadRequest("this port speaks HTTP/1.1, not HTTP/2")
        else:
            self.broken = BadRequest(f"malformed request: {error}")

    def _head_too_large(self) -> HeadTooLarge:
        return HeadTooLarge(f"the request's head exceeds {self._max_head} bytes")

    # What httptools calls.  An exception here comes out of feed_data as the context of another.

    def on_message_begin(self) -> None:
        self.mid_message = True

    def on_url(self, url: bytes) -> None:
        self._url = self._url + url if self._url else url

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.head_seen:
            self._headers.append((name, value))
            return
        self._fed += len(name) + len(value)  # trailers are dropped, but not without limit
        if self._fed > self._max_head:
            raise self._head_too_large()

    def on_headers_complete(self) -> None:
        if self._fed + self._feeding > min(_SMALL, self._max_head):
            self._weigh_head()
        assert self._parser is not None
        method = self._parser.get_method()
        self._method = _METHODS.get(method) or method.decode("latin-1")
        self._version = self._parser.get_http_version()
        self._check_head()
        self._fed = 0
        self.head_seen = True

    def _weigh_head(self) -> None:
        size = len(self._url) + 16 + sum(len(name) + len(value) + 4 for name, value in self._headers)
        if size > self._max_head:
            raise self._head_too_large()
        self.head_size = size if size > _SMALL else 0

    def _check_head(self) -> None:
        """Refuse what llhttp lets through, and note what decides about the body."""
        if self._version not in ("1.1", "1.0"):
            raise BadRequest(f"HTTP/{self._version} is not supported: use HTTP/1.1")
        if self._method == "CONNECT":
            raise BadRequest("CONNECT is not supported: this is not a forward proxy")
        hosts = 0
        for name, value in self._headers:
            if len(name) not in _TELLING:
                continue
            key = name.lower()
            if key == b"host":
                hosts += 1
            elif key == b"content-length":
                digits = value.lstrip(b"0")  # Python refuses to read thousands of them
                if len(digits) > 19 or int(digits or b"0") > self._max_body:
                    raise self._body_too_large()
            elif key == b"transfer-encoding":
                self._check_coding(value)
            elif key == b"upgrade":
                assert self._parser is not None
                self._upgrading = self._parser.should_upgrade()
            elif key == b"expect":
                self.expects_continue = value.lower() == b"100-continue" and self._version == "1.1"
        if hosts != 1 and (hosts or self._version == "1.1"):
            raise BadRequest("a request needs exactly one Host header")

    def _check_coding(self, value: bytes) -> None:
        if value.lower() != b"chunked":
            raise BadRequest("the only Transfer-Encoding supported is chunked")
        if self._version == "1.0":
            raise BadRequest("HTTP/1.0 has no Transfer-Encoding")

    def _body_too_large(self) -> BodyTooLarge:
        return BodyTooLarge(f"the request's body exceeds {self._max_body} bytes")

    def on_body(self, data: bytes) -> None:
        self.buffered += len(data)
        if self.buffered > self._max_body:
            raise self._body_too_large()
        parts = self._parts
        parts.append(data)
        if len(parts) - self._joined >= _FRAGMENTS:
            parts[self._joined :] = [b"".join(parts[self._joined :])]
            self._joined += 1

    def on_message_complete(self) -> None:
        if self._upgrading:
            return
        assert self._parser is not None
        keep_alive = self._parser.should_keep_alive()  # after this callback it says False
        parts = self._parts
        body = b"" if not parts else parts[0] if len(parts) == 1 else b"".join(parts)
        request = Request(self._method, self._url, self._headers, body, self._version, keep_alive, self.head_size)
        self._ready.append(request)
        self._ended = not keep_alive
        self.expects_continue = False
        self._renew()
