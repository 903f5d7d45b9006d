"""The names by which requests may call the proxy, in their Host header.

A browser does not let a page read the responses of another origin.  DNS rebinding gets around that: the page's own
name is made to resolve to 127.0.0.1, and the browser takes the proxy for the page's server.  The Host header still has
the page's name, which the page cannot choose.  So where no key is asked for, and only this machine is to reach the
socket, the proxy accepts no Host but loopback's names and those that the configuration lists.
"""

import re

from muxd.config.loopback import is_loopback
from muxd.http.request import Request
from muxd.proxy.answers import Refusal

_HOST = b"host"
_AUTHORITY = re.compile(rb"(?:\[([^\]]+)\]|([^:\[\]]*))(?::[0-9]*)?")
_MOST_KNOWN, _LONGEST_KNOWN = 64, 64


def at_home(sockname: object, *, keyed: bool) -> bool:
    """Return whether only this machine reaches the socket, whose name is `sockname`, and no key is asked for."""
    return isinstance(sockname, tuple) and is_loopback(sockname[0]) and not keyed


class Hosts:
    """The allowed names.  `more`: those besides loopback's, as in the configuration's `hosts`, without "*"."""

    def __init__(self, more: tuple[str, ...]) -> None:
        self._names = frozenset(more)
        self._suffixes = tuple(name.removeprefix("*") for name in more if name.startswith("*."))
        self._known: set[bytes] = set()  # values of Host that were checked and accepted

    def check(self, request: Request) -> None:
        """Raise Refusal for a request to another name.  A request of HTTP/1.0 may lack Host: browsers send 1.1."""
        for name, value in request.headers:
            if len(name) == 4 and name.lower() == _HOST and value not in self._known:
                self._check(value)
        if request.target[:1] != b"/" and b"://" in request.target:
            # A target in absolute form takes precedence over the Host header (RFC 9112, 3.2.2).
            self._check(request.target.partition(b"://")[2].partition(b"/")[0].rpartition(b"@")[2])

    def _check(self, value: bytes) -> None:
        host = _host_of(value)
        if not (host and self._is_allowed(host)):
            shown = ascii(value[:100].decode("latin-1"))[1:-1]
            message = f"this proxy is not to be called {shown or 'by an empty name'}: use http://localhost"
            if host:
                message += f', or write hosts = ["{host[:100]}"] under [proxy] in its configuration'
            raise Refusal(403, "host_not_allowed", message)
        if len(value) <= _LONGEST_KNOWN and len(self._known) < _MOST_KNOWN:
            self._known.add(value)

    def _is_allowed(self, host: str) -> bool:
        return host in self._names or host.endswith((".localhost", *self._suffixes)) or is_loopback(host)


def _host_of(value: bytes) -> str:
    """Return the host of HOST[:PORT] in lower case; empty where `value` has another form."""
    parts = _AUTHORITY.fullmatch(value.strip(b" \t"))  # the parser leaves a tab (RFC 9110, 5.5)
    if parts is None:
        return ""
    return (parts[1] or parts[2]).decode("latin-1").lower().removesuffix(".")
