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
    before, after = around_length(request, target, authority, drop, plain=plain)
    if not after:  # no body, and no length of it
        return b"%b%b\r\n" % (before, lines)
    return b"%b%d%b%b\r\n" % (before, len(request.body), after, lines)


def around_length(
    request: Request, target: bytes, authority: bytes, drop: tuple[bytes, ...] = (), *, plain: bool
) -> tuple[bytes, bytes]:
    """Return what comes before the body's length in the head for a worker, and what comes after it.

    The second is empty where the head has no length.  Both end before `lines`.
    """
    headers = _without(request.headers, drop) if drop else request.headers
    parts = [b"%b %b HTTP/1.1\r\n" % (request.method.encode(), target)]
    before = b""
    has_host = False
    for name, value in headers:
        kind = _kind_by_spelling.get(name)
        if kind is None:
            kind = _kind(name)
        if kind:
            if kind == _Kind.HOST:
                has_host, value = True, authority
            elif kind == _Kind.LENGTH:  # edits may have changed the body's length
                if not before:
                    before, parts = b"%b%b: " % (b"".join(parts), name), [b"\r\n"]
                continue
            elif kind == _Kind.CONNECTION and value not in _NAMES_NO_OTHER:
                names = (*drop, *_connection_options(headers), b"connection")
                return around_length(request, target, authority, names, plain=plain)
            elif kind != _Kind.CODING or plain:
                continue
        parts.append(b"%b: %b\r\n" % (name, value))
    if not has_host:  # a request of HTTP/1.0
        parts.append(b"Host: %b\r\n" % authority)
    if before:
        return before, b"".join(parts)
    if request.body or request.method != "GET":  # the client sent the body in chunks
        return b"%bContent-Length: " % b"".join(parts), b"\r\n"
    return b"".join(parts), b""


def _connection_options(headers: Headers) -> list[bytes]:
    """Return the header names that the Connection headers list: they are for that connection only."""
    values = [value for name, value in headers if name.lower() == b"connection"]
    return [token.strip() for value in values for token in value.split(b",")]


def _without(headers: Headers, drop: tuple[bytes, ...]) -> Headers:
    names = {name.lower() for name in drop}
    return [header for header in headers if header[0].lower() not in names]
