"""One-time links to the console, which `muxctl ui` has made for its user."""

import secrets
from hashlib import sha256

import trio

from muxd.errors import LinkUsed

#: Seconds that a link is good for.
LIFE = 300.0

#: Links that may be unused at a time; the oldest gives way.
MOST = 64


class ConsoleLinks:
    """The links that were made and not used; of each only a digest is kept."""

    def __init__(self) -> None:
        self._until: dict[bytes, float] = {}  # by digest

    def make(self) -> str:
        """Return the token of a new link."""
        token = secrets.token_urlsafe(32)
        if len(self._until) >= MOST:
            del self._until[next(iter(self._until))]
        self._until[_digest(token)] = trio.current_time() + LIFE
        return token

    def redeem(self, token: str) -> None:
        """Use a link up; raises LinkUsed for one that is unknown, used or too old."""
        if self._until.pop(_digest(token), 0.0) < trio.current_time():
            raise LinkUsed("this link was used already, or is older than five minutes: `muxctl ui` makes a new one")


def _digest(token: str) -> bytes:
    return sha256(token.encode(errors="surrogateescape")).digest()
