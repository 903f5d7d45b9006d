"""Requests per minute of one key: a token bucket, and the headers that tell a client how full it is.

The headers have OpenAI's names and spelling, which OpenAI's clients read: a count, and a time as "120ms", "12s" or
"1m0s" until all of the minute's requests may be sent at once again
(platform.openai.com/docs/guides/rate-limits, "Rate limits in headers").
"""

from collections.abc import Callable
from math import ceil

from muxd.proxy.answers import Refusal

TOO_MANY_REQUESTS = 429

MINUTE = 60.0
_ROUNDING = 1e-6  # seconds; adding 60/7 seven times gives a little more than 60


class TokenBucket:
    """A bucket of `limit` requests that refills evenly within a minute.  `clock` is monotonic, in seconds.

    The bucket's level is kept as the seconds until it is full again, which clients are told.  A request adds its share
    of the minute, and is refused where that makes more than a minute.
    """

    __slots__ = ("_clock", "_full_in", "_lines", "_share", "_since", "limit", "owner")

    def __init__(self, owner: str, limit: int, clock: Callable[[], float]) -> None:
        self.owner = owner  # the key's name, for the refusal
        self.limit = limit
        self._clock = clock
        self._share = MINUTE / limit
        self._full_in = 0.0  # seconds, as of the time `_since`
        self._since = clock()
        self._lines = (
            b"x-ratelimit-limit-requests: %d\r\nx-ratelimit-remaining-requests: %%d\r\n"
            b"x-ratelimit-reset-requests: %%b\r\n" % limit
        )

    def renewed(self, limit: int) -> "TokenBucket":
        """Return this bucket with another limit: the share of the minute that was used stays used."""
        if limit == self.limit:
            return self
        renewed = TokenBucket(self.owner, limit, self._clock)
        renewed._full_in, renewed._since = self._full_in, self._since
        return renewed

    def acquire(self) -> bytes:
        """Count one request and return `headers`; raise Refusal for a request above the limit, which is not counted."""
        now = self._clock()
        until_full = self._full_in - (now - self._since)
        until_full = self._share + (until_full if until_full > 0 else 0.0)
        if until_full > MINUTE + _ROUNDING:
            raise self._too_many(until_full - self._share)
        self._full_in, self._since = until_full, now
        return self._lines % (self._remaining(until_full), show_time(until_full))

    def headers(self) -> bytes:
        """Return the lines for a response's head, each with its CRLF; count nothing."""
        until_full = max(0.0, self._full_in - (self._clock() - self._since))
        return self._lines % (self._remaining(until_full), show_time(until_full))

    def _remaining(self, until_full: float) -> int:
        return int((MINUTE - until_full + _ROUNDING) / self._share)

    def _too_many(self, until_full: float) -> Refusal:
        wait = until_full + self._share - MINUTE
        message = (
            f"the API key {self.owner} may send {self.limit} requests per minute, and has: "
            f"send the next in {show_time(wait).decode()}"
        )
        headers = (
            (b"x-ratelimit-limit-requests", b"%d" % self.limit),
            (b"x-ratelimit-remaining-requests", b"%d" % self._remaining(until_full)),
            (b"x-ratelimit-reset-requests", show_time(until_full)),
        )
        return Refusal(TOO_MANY_REQUESTS, "rate_limit_exceeded", message, retry_after=wait, headers=headers)


def show_time(seconds: float) -> bytes:
    """Return a time of at most a minute as OpenAI writes it, rounded up so that a client never retries too early."""
    if seconds < 0.999:
        return b"%dms" % ceil(seconds * 1000)
    return _WHOLE_SECONDS[ceil(seconds - _ROUNDING)]


_WHOLE_SECONDS = (*(b"%ds" % second for second in range(60)), b"1m0s")
