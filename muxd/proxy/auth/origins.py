"""Which pages a browser may let read the answers: CORS (https://fetch.spec.whatwg.org/#http-cors-protocol).

SGLang lets every origin read everything.  The configuration says nothing of it:

- on loopback without keys the proxy's own answers do as SGLang's do;
- elsewhere its own say nothing, so no page may read them.

In both cases a worker's answer has what its worker says.  Where `allow_origins` is given it holds for
every answer: what a worker says is replaced, and a request from a page of another origin is refused
before it can switch anything.  A browser would only keep the page from reading the answer.
"""

import re

from muxd.http.request import Request
from muxd.http.response import body_response
from muxd.proxy.answers import Refusal

_ORIGIN = b"origin"
_METHODS = b"GET, HEAD, POST, OPTIONS"
_MAX_AGE = b"600"  # seconds that a browser need not ask again
_WORKERS = re.compile(rb"(?im)^access-control-[^\r\n]*\r\n")


class Origins:
    """`allowed` is `allow_origins` of the configuration; `at_home`: on loopback without keys."""

    def __init__(self, allowed: tuple[str, ...] | None, *, at_home: bool) -> None:
        self.given = allowed is not None
        self._any = at_home if allowed is None else "*" in allowed
        self._allowed = frozenset(origin.encode() for origin in allowed or ())

    def check(self, request: Request) -> None:
        """Raise the Refusal of a page that `allow_origins` does not have."""
        if self.given and (origin := origin_of(request)) is not None and not self._may_ask(origin, request):
            raise _refused(origin)

    def lines(self, request: Request) -> bytes:
        """Lines for the head of an answer, each with its CRLF; empty where no page may read it."""
        origin = origin_of(request)
        if origin is None:
            return b""
        if self._any:
            return b"access-control-allow-origin: *\r\naccess-control-expose-headers: *\r\n"
        if origin.lower() not in self._allowed:
            return b"vary: Origin\r\n" if self.given else b""
        return b"access-control-allow-origin: %b\r\naccess-control-expose-headers: *\r\nvary: Origin\r\n" % origin

    def preflight(self, request: Request) -> bytes | None:
        """The answer, less `lines`, to a browser that asks whether a page may; None where none asks.  Raises Refusal.

        It has no API key: browsers send none with it.
        """
        origin = origin_of(request) if request.method == "OPTIONS" else None
        if origin is None or request.header(b"access-control-request-method") is None:
            return None
        if not (self._any or origin.lower() in self._allowed):
            raise _refused(origin)
        told = [(b"access-control-allow-methods", _METHODS), (b"access-control-max-age", _MAX_AGE)]
        if headers := request.header(b"access-control-request-headers"):
            told.append((b"access-control-allow-headers", headers))
        if self.given and request.header(b"access-control-request-private-network") is not None:
            told.append((b"access-control-allow-private-network", b"true"))
        return body_response(200, b"text/plain", b"", *told, keep_alive=request.keep_alive)

    def _may_ask(self, origin: bytes, request: Request) -> bool:
        """A page of the proxy's own address may, too: it is no other origin."""
        if self._any or origin.lower() in self._allowed:
            return True
        return origin.partition(b"://")[2].lower() == (request.header(b"host") or b"").lower() != b""


def origin_of(request: Request) -> bytes | None:
    """The origin of the page that asks; None where no page does."""
    for name, value in request.headers:
        if len(name) == 6 and name.lower() == _ORIGIN:
            return value
    return None


def without_rules(head: bytes) -> bytes:
    """A worker's head, less what it says of other origins."""
    return _WORKERS.sub(b"", head)


def _refused(origin: bytes) -> Refusal:
    shown = ascii(origin[:100].decode("latin-1"))[1:-1]
    message = f"no page of {shown} may ask here: whoever runs this server can write it to allow_origins under [proxy]"
    return Refusal(403, "origin_not_allowed", message)
