"""One HTTP request, and the parser that turns a connection's bytes into requests.

llhttp (through httptools) does the parsing.  llhttp itself refuses most of what request
smuggling needs; this module refuses what llhttp lets through: a missing or second Host,
any Transfer-Encoding but exactly `chunked`, Transfer-Encoding on HTTP/1.0, versions other
than 1.0 and 1.1, CONNECT.  tests/http/test_request.py holds both lists.

This module does no I/O: the owner of the socket feeds the bytes in, and keeps the deadlines.
"""

from collections.abc import Collection
from typing import Any
from urllib.parse import parse_qsl, unquote

import msgspec
from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser

from muxd.errors import BadRequest, BodyTooLarge, HeadTooLarge, MuxdError, TlsNotSupported
from muxd.plain_stores import plain_stores

from .figures import LISTED
from .known_heads import LONGEST_KNOWN, KnownHead, KnownHeads

Headers = list[tuple[bytes, bytes]]

_METHODS = {name.encode(): name for name in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")}
_CHECKED_LENGTHS = frozenset(map(len, (b"host", b"expect", b"upgrade", b"content-length", b"transfer-encoding")))
_SMALL_HEAD = 4096  # bytes: a head of up to so many is not counted against head_memory
_MAX_PARAMETERS = 32  # parameters of a query: to parse thousands takes milliseconds
_MOST_STRANGE = 8  # requests of a connection without a known head, after which none is looked for
_MAX_PIECES = 1024  # pieces of a body that are held before they are joined: until then a one-byte chunk costs 40 bytes


@plain_stores
class Request(msgspec.Struct, eq=False, gc=False):
    """One complete request.  `headers` are as the client sent them, with case, order and duplicates.

    `head_size` is the head's size in bytes where it is over 4 KiB, else 0.  `known` is what is kept of its head, or
    None.  `is_plain` is the owner's: no header needs a check of its own; it is true from the start where that was so of
    `known` the last time that it was looked through.  A struct is made in a third of the time.
    """

    method: str
    target: bytes
    headers: Headers
    body: bytes
    http_version: str
    keep_alive: bool
    head_size: int = 0
    known: KnownHead | None = None
    is_plain: bool = False

    def __repr__(self) -> str:
        return f"<Request {self.method} {self.target!r}>"

    @property
    def raw_path(self) -> str:
        """Return the target without scheme, authority and query, still percent-encoded."""
        target = self.target.decode("latin-1")
        if not target.startswith("/") and "://" in target:
            target = "/" + target.partition("://")[2].partition("/")[2]
        return target.partition("#")[0].partition("?")[0]

    @property
    def path(self) -> str:
        """Return the target's path, percent-decoded; bytes that are not UTF-8 become U+FFFD."""
        return unquote(self.raw_path)

    @property
    def query(self) -> dict[str, str]:
        """Return the query's parameters, the last one of duplicates; raise BadRequest where there are more than 32."""
        query = self.target.partition(b"#")[0].partition(b"?")[2]
        if not query:
            return {}
        try:
            return dict(parse_qsl(query.decode("latin-1"), keep_blank_values=True, max_num_fields=_MAX_PARAMETERS))
        except ValueError:
            raise BadRequest(f"the query has more than {_MAX_PARAMETERS} parameters") from None

    def header(self, name: bytes) -> bytes | None:
        """Return the first header named `name`, in any case; None where there is none."""
        length, name = len(name), name.lower()
        for key, value in self.headers:
            if len(key) == length and key.lower() == name:
                return value
        return None

    def json(self) -> Any:
        """Return the body, decoded from JSON, {} where it is empty; raise BadRequest where it is not JSON."""
        if not self.body:
            return {}
        try:
            return msgspec.json.decode(self.body)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise BadRequest(f"the body is not JSON: {error}") from None
        except RecursionError:
            raise BadRequest("the body is not JSON that can be read: nested too deeply") from None


class RequestParser:
    """Parser of the requests of one connection; `feed` it the bytes that arrive.

    `max_head` and `max_body`, in bytes, are enforced while a request arrives.  A head that is
    complete within one `feed` may not exceed `max_head`; a head that takes several is refused
    as soon as the bytes received for it exceed `max_head`.

    `known` is the head that the next request is likely to have.  Between two messages, of which the last does not close
    the connection, bytes that are a request to it may pass by the parser.
    """

    __slots__ = (
        "_accepted",
        "_ended",
        "_fed",
        "_feeding",
        "_headers",
        "_joined",
        "_known_heads",
        "_max_body",
        "_max_head",
        "_method",
        "_parser",
        "_parts",
        "_ready",
        "_strange",
        "_upgrade",
        "_upgrading",
        "_url",
        "_version",
        "broken",
        "buffered",
        "expects_continue",
        "head_seen",
        "head_size",
        "known",
        "mid_message",
        "rest",
    )

    def __init__(
        self, max_head: int, max_body: int, upgrades: Collection[bytes] = (), known_heads: KnownHeads | None = None
    ) -> None:
        """Take the limits in bytes, and the protocols, in lower case, to which a request without a body may upgrade.

        `known_heads`: those of all connections, where the same heads are likely to come again.
        """
        self._known_heads = known_heads if max_head > LONGEST_KNOWN else None
        # That of the last request; before the first, that of the owner's last new one: clients that make a connection
        # for each request send much the same.
        self.known = self._known_heads.latest if self._known_heads is not None else None
        self._strange = 0  # requests that did not have it
        self._max_head = max_head
        self._max_body = max_body
        self._parser: HttpRequestParser | None = None  # made when a head is not known
        self._ready: list[Request] = []
        self._method = ""
        self._version = "1.1"
        self._accepted = upgrades
        self._upgrading = False  # the client asked for another protocol, which is declined unless it is accepted
        self._upgrade = b""  # that protocol
        self.rest = b""  # bytes that came behind a request whose upgrade is accepted
        self._ended = False  # a request that closes the connection was complete: no further one is read
        self._feeding = 0  # bytes that the current `feed` was given
        self.broken: MuxdError | None = None  # the error that `feed` raises from now on
        self.expects_continue = False  # the owner sends `100 Continue`, and clears this flag
        self._reset_message()

    def _reset_message(self) -> None:
        """Reset what is kept of one message, for the next one."""
        self._url = b""
        self._headers: Headers = []
        self._parts: list[bytes] = []
        self._joined = 0
        self._fed = 0  # bytes of earlier feeds that belong to a head not yet complete
        self.buffered = 0  # bytes of the body that are held
        self.head_size = 0  # bytes of a complete head over 4 KiB, else 0
        self.head_seen = False
        self.mid_message = False  # part of a message was received, and not all of it

    def feed(self, data: bytes | bytearray | memoryview) -> list[Request]:
        """Parse `data`, and return the requests that it completes, pipelined ones too.

        Raise BadRequest, HeadTooLarge or BodyTooLarge; where the same data completed earlier
        requests, return these first and set `broken`, which the next `feed` raises.  Nothing
        is read after a request that closes the connection.
        """
        if self.broken is not None:
            raise self.broken
        if self._ended:
            return []
        text = b""
        if self._known_heads is not None and not self.mid_message and len(data) <= LISTED:
            text = data if type(data) is bytes else bytes(data)
            known = self.known
            if known is not None and (request := known.request(text, self._max_body)) is not None:
                return [request]
        if self._parser is None:
            self._parser = HttpRequestParser(self)
        ready: list[Request] = []
        self._ready = ready
        while True:
            self._feeding = len(data)
            try:
                self._parser.feed_data(data)
            except HttpParserUpgrade as upgrade:
                rest = bytes(data)[upgrade.args[0] :]
                if self._upgrade in self._accepted:
                    self._accept_upgrade(rest)
                    break
                data = self._decline_upgrade() + rest
                continue
            except HttpParserError as error:
                self._set_broken(error, data)
            break
        if self.mid_message and not self.head_seen and not ready:
            self._fed += self._feeding
            if self._fed > self._max_head:
                self.broken = self.broken or self._head_too_large()
        if self.broken is not None and not ready:
            raise self.broken
        if text and len(ready) == 1 and not self.mid_message and self.broken is None:
            self._know(ready[0], text)
        return ready

    def _know(self, request: Request, text: bytes) -> None:
        """Keep the head of the one request in `text`, for the next, unless this client's heads differ each time."""
        assert self._known_heads is not None
        if self._strange < _MOST_STRANGE:
            self._strange += 1
            self.known = request.known = self._known_heads.of(request, text)

    def release(self) -> None:
        """Free all that is held; `feed` may not be called after this.

        llhttp's parser holds this object's methods, and an error holds the frames that it was
        raised through: objects on such cycles are freed only by a full garbage collection,
        which may be long in coming.
        """
        self._parser = self.broken = None
        self._ready = []
        self._reset_message()

    @property
    def head_bytes(self) -> int:
        """Return the bytes held of the current message's head; of a complete head of up to 4 KiB, 0."""
        return self.head_size if self.head_seen else self._fed

    def head(self) -> Request:
        """Return the current message without its body; the method is empty until `head_seen`."""
        return Request(
            self._method if self.head_seen else "", self._url, list(self._headers), b"", self._version, False
        )

    def _accept_upgrade(self, rest: bytes) -> None:
        """Return the request with its Upgrade header; what follows it is of another protocol, and kept in `rest`."""
        self._ready.append(Request(self._method, self._url, self._headers, b"", self._version, False, self.head_size))
        self.rest = rest
        self._ended = True
        self._reset_message()

    def _decline_upgrade(self) -> bytes:
        """Return the head without its Upgrade header, to be parsed once more (RFC 9110, 7.8).

        llhttp stops after such a head and would take the body for the next request.  Java's
        HttpClient asks for h2c on every plain connection, so refusing is not an option.
        """
        headers = [(name, value) for name, value in self._headers if name.lower() != b"upgrade"]
        lines = [b"%b %b HTTP/%b" % (self._method.encode(), self._url, self._version.encode())]
        lines += [b"%b: %b" % header for header in headers]
        self._upgrading = False
        self._parser = HttpRequestParser(self)
        self._reset_message()
        return b"\r\n".join(lines) + b"\r\n\r\n"

    def _set_broken(self, error: HttpParserError, data: bytes | bytearray | memoryview) -> None:
        """Set `broken` to the error, unless the bytes come after the last request; raise any other exception again."""
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

    # httptools calls these methods.  feed_data raises its own exception for one raised in them, with that as context.

    def on_message_begin(self) -> None:
        self.mid_message = True

    def on_url(self, url: bytes) -> None:
        self._url = self._url + url if self._url else url

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.head_seen:
            self._headers.append((name, value))
            return
        self._fed += len(name) + len(value)  # trailers are dropped, and count towards max_head
        if self._fed > self._max_head:
            raise self._head_too_large()

    def on_headers_complete(self) -> None:
        if self._fed + self._feeding > min(_SMALL_HEAD, self._max_head):
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
        self.head_size = size if size > _SMALL_HEAD else 0

    def _check_head(self) -> None:
        """Raise an error for a head that llhttp lets through, and note what it says of the body and of upgrades."""
        if self._version not in ("1.1", "1.0"):
            raise BadRequest(f"HTTP/{self._version} is not supported: use HTTP/1.1")
        if self._method == "CONNECT":
            raise BadRequest("CONNECT is not supported: this is not a forward proxy")
        hosts = 0
        for name, value in self._headers:
            if len(name) not in _CHECKED_LENGTHS:
                continue
            key = name.lower()
            if key == b"host":
                hosts += 1
            elif key == b"content-length":
                digits = value.lstrip(b"0")  # without leading zeros, as int() raises for thousands of digits
                if len(digits) > 19 or int(digits or b"0") > self._max_body:
                    raise self._body_too_large()
            elif key == b"transfer-encoding":
                self._check_transfer_encoding(value)
            elif key == b"upgrade":
                assert self._parser is not None
                self._upgrading = self._parser.should_upgrade()
                self._upgrade = value.lower()
            elif key == b"expect":
                self.expects_continue = value.lower() == b"100-continue" and self._version == "1.1"
        if hosts != 1 and (hosts or self._version == "1.1"):
            raise BadRequest("a request needs exactly one Host header")

    def _check_transfer_encoding(self, value: bytes) -> None:
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
        if len(parts) - self._joined >= _MAX_PIECES:
            parts[self._joined :] = [b"".join(parts[self._joined :])]
            self._joined += 1

    def on_message_complete(self) -> None:
        if self._upgrading:
            return
        assert self._parser is not None
        keep_alive = self._parser.should_keep_alive()  # llhttp returns False after this callback
        parts = self._parts
        body = b"" if not parts else parts[0] if len(parts) == 1 else b"".join(parts)
        request = Request(self._method, self._url, self._headers, body, self._version, keep_alive, self.head_size)
        self._ready.append(request)
        self._ended = not keep_alive
        self.expects_continue = False
        self._reset_message()
