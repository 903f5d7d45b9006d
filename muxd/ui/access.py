"""Who may look at the console, and who may operate muxd by it.

A browser shows a cookie, which it was given for an API key with `view` or `admin`, or for a one-time link that `muxctl
ui` made.  On loopback whoever reaches the page may see what any user of this host may ask muxd, and
no more without one of the two: another user reaches loopback as well.

What changes something needs the header x-muxd-ui, which no form of another site can send, and an Origin that is the
page's own; the Host is one of loopback's names, or one that the configuration lists (DNS rebinding, see
muxd/proxy/auth/hosts).
"""

import secrets
import time
from collections.abc import Callable, Iterable
from enum import IntEnum
from hashlib import sha256
from hmac import compare_digest
from http.cookies import CookieError, SimpleCookie

from msgspec import Struct

from muxd.config.schema import Key
from muxd.errors import MuxdError
from muxd.http.request import Request
from muxd.proxy.answers import Refusal
from muxd.proxy.auth.hosts import Hosts

COOKIE = "muxd_ui"

#: Seconds that a cookie is good for.
LIFE = 12 * 3600.0

#: Sessions that are kept; the oldest gives way to a new one.
MOST_SESSIONS = 1024

#: Guesses of a key in a row that are answered at once, and seconds until the next one after them.
GUESSES, PAUSE = 5, 2.0


class Level(IntEnum):
    """What a viewer may do; each may do what is before it, too."""

    NONE = 0
    GUEST = 1  # see what any user of this host may ask muxd: status and events
    VIEW = 2  # see clients' requests
    ADMIN = 3  # operate, and read logs


class LoginNeeded(MuxdError):
    code = "login_needed"
    status = 401


class ConsoleDenied(MuxdError):
    code = "console_denied"
    status = 403


class TooManyGuesses(MuxdError):
    code = "too_many_guesses"
    status = 429
    retryable = True


class Viewer(Struct, frozen=True):
    """Who asks."""

    level: Level
    name: str  # the key's name; "link" for a one-time link; "" for nobody in particular


class _Ticket(Struct, frozen=True):
    viewer: Viewer
    digest: str  # of the key's secret; "" for a one-time link
    until: float


class Access:
    """The judge of requests; `keys` returns the keys as configured now, so that a revoked one loses its sessions."""

    def __init__(
        self,
        keys: Callable[[], Iterable[Key]],
        hosts: tuple[str, ...],
        *,
        at_home: bool,
        now: Callable[[], float] = time.time,
    ) -> None:
        """Take the names besides loopback's, "*" for any; `at_home`: only this machine reaches the page."""
        self._keys = keys
        self._hosts = None if "*" in hosts else Hosts(hosts)
        self._at_home = at_home
        self._now = now
        self._tickets: dict[str, _Ticket] = {}
        self._guesses = 0
        self._next_guess = 0.0

    def viewer(self, request: Request) -> Viewer:
        """Return who asks; raises ConsoleDenied for a Host that is not this page's."""
        self._check_host(request)
        ticket = self._tickets.get(_cookie(request))
        if ticket is not None and (viewer := self._holder(ticket)) is not None:
            return viewer
        return Viewer(Level.GUEST if self._at_home else Level.NONE, "")

    def require(self, request: Request, level: Level) -> Viewer:
        """Return who asks, and may do what `level` allows; raises LoginNeeded, ConsoleDenied."""
        viewer = self.viewer(request)
        if request.method not in ("GET", "HEAD"):
            self._check_own_page(request)
        if viewer.level >= level:
            return viewer
        if viewer.name:
            raise ConsoleDenied(f"the key {viewer.name} may look and no more: log in with one that has admin = true")
        which = "admin = true" if level is Level.ADMIN else "view = true or admin = true"
        raise LoginNeeded(f"log in with an API key that has {which}, or open the link that `muxctl ui` prints")

    def log_in(self, request: Request, secret: str) -> tuple[Viewer, str]:
        """Return the holder of a key, and the line of the cookie; raises LoginNeeded, ConsoleDenied, TooManyGuesses."""
        self._check_host(request)
        self._check_own_page(request)
        if self._now() < self._next_guess:
            raise TooManyGuesses("too many keys that are not known: try again in some seconds")
        digest = sha256(secret.encode(errors="surrogateescape")).hexdigest()
        viewer = self._holder_of(digest)
        if viewer is None:
            self._guesses += 1
            if self._guesses >= GUESSES:
                self._next_guess = self._now() + PAUSE
            raise LoginNeeded("no key of this muxd: `muxctl keys list` has their names, and a secret is shown once")
        self._guesses = 0
        if viewer.level is Level.NONE:
            raise ConsoleDenied(f"the key {viewer.name} is for models alone: give it view = true or admin = true")
        return viewer, self._admit(viewer, digest)

    def admit_link(self) -> str:
        """Return the line of the cookie for a one-time link, which muxd has just redeemed."""
        return self._admit(Viewer(Level.ADMIN, "link"), "")

    def log_out(self, request: Request) -> str:
        """End the session, and return the line that takes the cookie away."""
        self._check_host(request)
        self._check_own_page(request)
        self._tickets.pop(_cookie(request), None)
        return _cookie_line("", 0)

    def _admit(self, viewer: Viewer, digest: str) -> str:
        token = secrets.token_urlsafe(32)
        if len(self._tickets) >= MOST_SESSIONS:
            del self._tickets[next(iter(self._tickets))]
        self._tickets[token] = _Ticket(viewer, digest, self._now() + LIFE)
        return _cookie_line(token, LIFE)

    def _holder(self, ticket: _Ticket) -> Viewer | None:
        """Return who holds a ticket, as their key is now; None where it is over, or the key is."""
        if self._now() >= ticket.until:
            return None
        return self._holder_of(ticket.digest) if ticket.digest else ticket.viewer

    def _holder_of(self, digest: str) -> Viewer | None:
        for key in self._keys():
            if compare_digest(key.secret_sha256, digest) and not key.revoked and self._now() < key.expires:
                return Viewer(Level.ADMIN if key.admin else Level.VIEW if key.view else Level.NONE, key.name)
        return None

    def _check_host(self, request: Request) -> None:
        if self._hosts is None:
            return
        try:
            self._hosts.check(request)
        except Refusal:
            advice = 'use http://localhost, or write hosts = ["NAME"] under [ui]'
            raise ConsoleDenied(f"this console is not to be called by that name: {advice}") from None

    def _check_own_page(self, request: Request) -> None:
        """Raise ConsoleDenied for a request that another site's page may have made."""
        if request.header(b"x-muxd-ui") is None:
            raise ConsoleDenied("this request needs the header x-muxd-ui")
        origin = request.header(b"origin")
        host = request.header(b"host") or b""
        if origin is not None and origin.partition(b"://")[2] != host:
            raise ConsoleDenied("this request comes from another site's page")


def _cookie(request: Request) -> str:
    """Return the session's token, "" where there is none."""
    try:
        found = SimpleCookie((request.header(b"cookie") or b"").decode("latin-1")).get(COOKIE)
    except CookieError:
        return ""
    return found.value if found is not None else ""


def _cookie_line(token: str, life: float) -> str:
    return f"{COOKIE}={token}; Max-Age={life:.0f}; Path=/ui; HttpOnly; SameSite=Strict"
