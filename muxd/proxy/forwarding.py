"""The request head that a worker gets: the client's own, less what belongs to the connection."""

from muxd.http.request import Headers, Request

# RFC 9110, 7.6.1: these speak about one connection, not about the request.  Expect is answered
# by the proxy, which has the whole body when it forwards.
_HOP_BY_HOP = frozenset(
    (
        b"connection",
        b"keep-alive",
        b"proxy-connection",
        b"proxy-authorization",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
        b"expect",
    )
)


def worker_head(request: Request, target: bytes, authority: bytes) -> bytes:
    """Names, case, order and duplicates as the client sent them; `authority` replaces Host in its place."""
    named = _named_by_connection(request.headers)
    lines = [b"%b %b HTTP/1.1" % (request.method.encode(), target)]
    has_host = has_length = False
    for name, value in request.headers:
        key = name.lower()
        if key in _HOP_BY_HOP or key in named:
            continue
        if key == b"host":
            has_host, value = True, authority
        elif key == b"content-length":
            has_length = True
        lines.append(b"%b: %b" % (name, value))
    if not has_host:  # HTTP/1.0
        lines.append(b"Host: " + authority)
    if not has_length:  # it came in chunks
        lines.append(b"Content-Length: %d" % len(request.body))
    lines.append(b"\r\n")
    return b"\r\n".join(lines)


def _named_by_connection(headers: Headers) -> set[bytes]:
    """What the client's Connection header declares to be for this connection only."""
    named: set[bytes] = set()
    for name, value in headers:
        if len(name) == 10 and name.lower() == b"connection":
            named.update(token.strip().lower() for token in value.split(b","))
    return named
