"""The request head that a worker gets: the client's own, less what belongs to the connection."""

from enum import IntEnum

from muxd.http.request import Headers, Request


class _Kind(IntEnum):
    PASS = 0
    HOP = 1  # speaks about one connection, and is left out
    HOST = 2
    LENGTH = 3
    CONNECTION = 4  # names further headers that are of kind HOP
    CODING = 5  # asks for a compressed response


# Headers of kind HOP speak about one connection, not about the request (RFC 9110, 7.6.1).  Expect is among them because
# the proxy answers it, and has the whole body before it forwards a request.
_KINDS = {
    b"connection": _Kind.CONNECTION,
    b"keep-alive": _Kind.HOP,
    b"proxy-connection": _Kind.HOP,
    b"proxy-authorization": _Kind.HOP,
    b"te": _Kind.HOP,
    b"trailer": _Kind.HOP,
    b"transfer-encoding": _Kind.HOP,
    b"upgrade": _Kind.HOP,
    b"expect": _Kind.HOP,
    b"host": _Kind.HOST,
    b"accept-encoding": _Kind.CODING,
    b"content-length": _Kind.LENGTH,
}
_NAMES_NO_OTHER = frozenset((b"keep-alive", b"close", b"Keep-Alive", b"Close"))

# The kinds of header names, by the spellings that clients have sent: a look-up here costs a third of lower() and a
# look-up in _KINDS.
_kind_by_spelling: dict[bytes, int] = {}
_MOST_SPELLINGS, _LONGEST_SPELLING = 4096, 40


def _kind(name: bytes) -> int:
    kind = int(_KINDS.get(name.lower(), _Kind.PASS))
    if len(name) <= _LONGEST_SPELLING:
        if len(_kind_by_spelling) >= _MOST_SPELLINGS:
            _kind_by_spelling.clear()
        _kind_by_spelling[name] = kind
    return kind


def worker_head(
    request: Request,
    target: bytes,
    authority: bytes,
    lines: bytes = b"",
    drop: tuple[bytes, ...] = (),
    *,
    plain: bool = False,
) -> bytes:
    """Return the request head for a worker, with the client's header names, case, order and duplicates.

    `authority` replaces the value of Host.  `lines`: further header lines, each with its CRLF.  Headers named in `drop`
    are left out.  With `plain` Accept-Encoding is left out, so that the worker does not compress its response.
    """
    headers = _without(request.headers, drop) if drop else request.headers
    parts = [b"%b %b HTTP/1.1" % (request.method.encode(), target)]
    has_host = has_length = False
    for name, value in headers:
        kind = _kind_by_spelling.get(name)
        if kind is None:
            kind = _kind(name)
        if kind:
            if kind == _Kind.HOST:
                has_host, value = True, authority
            elif kind == _Kind.LENGTH:
                has_length, value = (
                    True,
                    b"%d" % len(request.body),
                )  # edits may have changed the body's length
            elif kind == _Kind.CONNECTION and value not in _NAMES_NO_OTHER:
                names = (*drop, *_connection_options(headers), b"connection")
                return worker_head(request, target, authority, lines, names, plain=plain)
            elif kind != _Kind.CODING or plain:
                continue
        parts.append(name + b": " + value)
    if not has_host:  # a request of HTTP/1.0
        parts.append(b"Host: " + authority)
    if not has_length and (request.body or request.method != "GET"):  # the client sent the body in chunks
        parts.append(b"Content-Length: %d" % len(request.body))
    parts.append(lines + b"\r\n")
    return b"\r\n".join(parts)


def _connection_options(headers: Headers) -> list[bytes]:
    """Return the header names that the Connection headers list: they are for that connection only."""
    values = [value for name, value in headers if name.lower() == b"connection"]
    return [token.strip() for value in values for token in value.split(b",")]


def _without(headers: Headers, drop: tuple[bytes, ...]) -> Headers:
    names = {name.lower() for name in drop}
    return [header for header in headers if header[0].lower() not in names]
