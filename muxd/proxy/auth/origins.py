"""The pages that a browser may let read responses: CORS (https://fetch.spec.whatwg.org/#http-cors-protocol).

SGLang lets every origin read everything.  Where the configuration has no `allow_origins`:

- on loopback without keys, the proxy's own responses do the same as SGLang's;
- elsewhere, the proxy's own responses have no CORS headers, so that no page may read them.

In both cases a worker's response keeps the worker's CORS headers.  `allow_origins`, where it is given, holds for every
response: it replaces the worker's CORS headers, and a request from a page of another origin is refused before it can
cause a switch.  The browser alone would only keep the page from reading the response.
"""

import re

from muxd.http.request import Request
from muxd.http.response import body_response
from muxd.proxy.answers import Refusal

_ORIGIN = b"origin"
_METHODS = b"GET, HEAD, POST, OPTIONS"
_MAX_AGE = b"600"  # seconds for which a browser may keep the response to a preflight
_CORS_LINES = re.compile(rb"(?im)^access-control-[^\r\n]*\r\n")


class Origins:
    """The rules for origins.  `allowed`: the configuration's `allow_origins`; `at_home`: on loopback without keys."""

    def __init__(self, allowed: tuple[str, ...] | None, *, at_home: bool) -> None:
        self.given = allowed is not None
        self._any = at_home if allowed is None else "*" in allowed
        self._allowed = frozenset(origin.encode() for origin in allowed or ())

    def check(self, request: Request) -> None:
        """Raise Refusal for a request from a page whose origin is not in `allow_origins`."""
        if self.given and (origin := origin_of(request)) is not None and not self._is_allowed(origin, request):
            raise _refused(origin)

    def lines(self, request: Request) -> bytes:
        """Return CORS lines for the head of a response, each with its CRLF; empty where no page may read it."""
        for name, value in request.headers:
            if len(name) == 6 and name.lower() == _ORIGIN:
                return self._lines_for(value)
        return b""

    def _lines_for(self, origin: bytes) -> bytes:
        if self._any:
            return b"access-control-allow-origin: *\r\naccess-control-expose-headers: *\r\n"
        if origin.lower() not in self._allowed:
            return b"vary: Origin\r\n" if self.given else b""
        return b"access-control-allow-origin: %b\r\naccess-control-expose-headers: *\r\nvary: Origin\r\n" % origin

    def preflight(self, request: Request) -> bytes | None:
        """Return the response to a preflight, without `lines`; None for any other request.  Raises Refusal.

        A preflight needs no API key, as browsers send none with it.
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

    def _is_allowed(self, origin: bytes, request: Request) -> bool:
        """Return whether a page of `origin` may send requests; one of the proxy's own address is no other origin."""
        if self._any or origin.lower() in self._allowed:
            return True
        return origin.partition(b"://")[2].lower() == (request.header(b"host") or b"").lower() != b""


def origin_of(request: Request) -> bytes | None:
    """Return the origin of the page that sent the request; None for a request from no page."""
    for name, value in request.headers:
        if len(name) == 6 and name.lower() == _ORIGIN:
            return value
    return None


def without_rules(head: bytes) -> bytes:
    """Return the head of a worker's response without its CORS headers."""
    return _CORS_LINES.sub(b"", head)


def _refused(origin: bytes) -> Refusal:
    shown = ascii(origin[:100].decode("latin-1"))[1:-1]
    message = f"no page of {shown} may ask here: whoever runs this server can write it to allow_origins under [proxy]"
    return Refusal(403, "origin_not_allowed", message)
