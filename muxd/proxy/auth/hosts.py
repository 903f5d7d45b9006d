"""Which names requests may call the proxy by, in their Host.

A page that is open in a browser on this machine may not read what another origin answers.  DNS
rebinding gets around that: the page's own name is made to lead to 127.0.0.1, and the browser takes
the proxy for the page's server.  What is left of the page's name is the Host that it sends, which it
cannot choose.  So where nobody is asked for a key, and only this machine is to reach the socket, no
Host but loopback's own is taken, nor one that the configuration does not name.
"""

import re

from muxd.config.loopback import is_loopback
from muxd.http.request import Request
from muxd.proxy.answers import Refusal

_HOST = b"host"
_AUTHORITY = re.compile(rb"(?:\[([^\]]+)\]|([^:\[\]]*))(?::[0-9]*)?")
_MOST_KNOWN, _LONGEST_KNOWN = 64, 64


def at_home(sockname: object, *, keyed: bool) -> bool:
    """Whether only this machine reaches it, and nobody is asked for a key; `sockname` as getsockname(2) has it."""
    return isinstance(sockname, tuple) and is_loopback(sockname[0]) and not keyed


class Hosts:
    """`more` are names beside loopback's, as `hosts` in the configuration has them, but for "*"."""

    def __init__(self, more: tuple[str, ...]) -> None:
        self._names = frozenset(more)
        self._below = tuple(name.removeprefix("*") for name in more if name.startswith("*."))
        self._known: set[bytes] = set()  # as they were sent, and are taken

    def check(self, request: Request) -> None:
        """Raise the Refusal of a request to another name.  One of HTTP/1.0 may have none: no browser sends it."""
        for name, value in request.headers:
            if len(name) == 4 and name.lower() == _HOST and value not in self._known:
                self._check(value)
        if request.target[:1] != b"/" and b"://" in request.target:
            # Such a target goes before the header (RFC 9112, 3.2.2).
            self._check(request.target.partition(b"://")[2].partition(b"/")[0].rpartition(b"@")[2])

    def _check(self, value: bytes) -> None:
        host = _name_in(value)
        if not (host and self._takes(host)):
            shown = ascii(value[:100].decode("latin-1"))[1:-1]
            message = f"this proxy is not to be called {shown or 'by an empty name'}: use http://localhost"
            if host:
                message += f', or write hosts = ["{host[:100]}"] under [proxy] in its configuration'
            raise Refusal(403, "host_not_allowed", message)
        if len(value) <= _LONGEST_KNOWN and len(self._known) < _MOST_KNOWN:
            self._known.add(value)

    def _takes(self, host: str) -> bool:
        return host in self._names or host.endswith((".localhost", *self._below)) or is_loopback(host)


def _name_in(value: bytes) -> str:
    """The host of HOST[:PORT] in lower case; empty where it cannot be read as one."""
    parts = _AUTHORITY.fullmatch(value.strip(b" \t"))  # the parser leaves a tab (RFC 9110, 5.5)
    if parts is None:
        return ""
    return (parts[1] or parts[2]).decode("latin-1").lower().removesuffix(".")
