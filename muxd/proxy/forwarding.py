"""The request head that a worker gets: the client's own, less what belongs to the connection."""

from enum import IntEnum

from muxd.http.request import Headers, Request


class _Kind(IntEnum):
    PASS = 0
    HOP = 1  # about one connection
    HOST = 2
    LENGTH = 3
    CONNECTION = 4  # names further ones of the second kind
    CODING = 5  # asks for a compressed answer


# RFC 9110, 7.6.1: these speak about one connection, not about the request.  Expect is answered
# by the proxy, which has the whole body when it forwards.
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

# Header names as clients spell them, and what kind they are: a look-up costs a third of lower() and one.
_spelled: dict[bytes, int] = {}
_MOST_SPELLED, _LONGEST_SPELLED = 4096, 40


def _kind(name: bytes) -> int:
    kind = int(_KINDS.get(name.lower(), _Kind.PASS))
    if len(name) <= _LONGEST_SPELLED:
        if len(_spelled) >= _MOST_SPELLED:
            _spelled.clear()
        _spelled[name] = kind
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
    """Names, case, order and duplicates as the client sent them; `authority` replaces Host in its place.

    `lines`: further ones, each ended.  Headers of the names `drop` are left out; with `plain` the
    answer is not to be compressed.
    """
    headers = _without(request.headers, drop) if drop else request.headers
    parts = [b"%b %b HTTP/1.1" % (request.method.encode(), target)]
    has_host = has_length = False
    for name, value in headers:
        kind = _spelled.get(name)
        if kind is None:
            kind = _kind(name)
        if kind:
            if kind == _Kind.HOST:
                has_host, value = True, authority
            elif kind == _Kind.LENGTH:
                has_length, value = True, b"%d" % len(request.body)  # its model's settings may have changed it
            elif kind == _Kind.CONNECTION and value not in _NAMES_NO_OTHER:
                names = (*drop, *_named(headers), b"connection")
                return worker_head(request, target, authority, lines, names, plain=plain)
            elif kind != _Kind.CODING or plain:
                continue
        parts.append(name + b": " + value)
    if not has_host:  # HTTP/1.0
        parts.append(b"Host: " + authority)
    if not has_length and (request.body or request.method != "GET"):  # it came in chunks
        parts.append(b"Content-Length: %d" % len(request.body))
    parts.append(lines + b"\r\n")
    return b"\r\n".join(parts)


def _named(headers: Headers) -> list[bytes]:
    """What the Connection headers declare to be for that connection only."""
    values = [value for name, value in headers if name.lower() == b"connection"]
    return [token.strip() for value in values for token in value.split(b",")]


def _without(headers: Headers, drop: tuple[bytes, ...]) -> Headers:
    names = {name.lower() for name in drop}
    return [header for header in headers if header[0].lower() not in names]
