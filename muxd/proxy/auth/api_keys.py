"""The API key that a request shows, and what the key allows.

The proxy knows only the SHA-256 of each key's secret.  The time that a look-up takes reveals nothing of a secret:

- Digests are compared, never the secrets that clients send.  A client that guesses cannot steer the digest of its
  guess, so that knowing some bytes of a stored digest leads no nearer to the secret; a comparison that stops early is
  harmless here.
- The look-up is in a dict of digests.  Python hashes them with SipHash under a key of this process's own
  (PYTHONHASHSEED), so that the slot says nothing of the bytes, and bytes are compared only where all 64 bits of that
  hash agree.
- The digest that the look-up finds is compared once more, with hmac.compare_digest.

The time of SHA-256 itself depends on the length of the secret that was sent, which its sender knows.  Secrets made by
`muxctl keys add` have 256 random bits.  Digests are not cached by secret: SHA-256 of a secret takes 0.33 us, and the
timing of a look-up by secret would need an argument of its own.
"""

import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from hashlib import sha256
from hmac import compare_digest
from math import inf

from muxd.config.schema import Key
from muxd.http.request import Headers, Request
from muxd.pool_share import PoolShare
from muxd.proxy.answers import Refusal

from .rate_limit import TokenBucket
from .shared_rate_limit import shared_bucket

UNAUTHORIZED, FORBIDDEN = 401, 403

_AUTHORIZATION = b"authorization"
_PLAIN = (b"x-api-key", b"api-key")  # the headers of Anthropic's clients and of Azure's
_NAMES = frozenset((_AUTHORIZATION, *_PLAIN))
_LENGTHS = frozenset(map(len, _NAMES))  # the length alone, for 25 ns, rules out most headers

_CHALLENGE = ((b"www-authenticate", b"Bearer"),)  # RFC 9110, 15.5.2: a 401 must have one

_HOW_TO_SEND = "send it as 'Authorization: Bearer KEY' (or x-api-key, or api-key)"


class UnknownKey(Refusal):
    """The refusal of a key that is not configured here, and may be a guess."""


class ApiKey:
    """One configured API key, and what it allows."""

    __slots__ = (
        "_models",
        "comments",
        "digest",
        "expires",
        "is_batch",
        "keep_alive",
        "name",
        "priority",
        "rate",
        "revoked",
    )

    def __init__(self, key: Key, rate: TokenBucket | None) -> None:
        self.name = key.name
        self.priority = key.priority
        self.comments = key.comments
        self.keep_alive = key.keep_alive
        self.is_batch = key.request_class == "batch"
        self.digest = bytes.fromhex(key.secret_sha256)
        self.expires = key.expires
        self.revoked = key.revoked
        self.rate = rate  # None: no limit
        self._models = frozenset(key.models)

    def __repr__(self) -> str:
        return f"<Holder of {self.name}>"

    def may_use(self, model: str) -> bool:
        """Return whether the key is for the model; `model` is muxd's name of it."""
        return not self._models or model in self._models

    def authorize(self, model: str) -> bytes:
        """Count a request for `model`; return rate limit lines for the response's head, each with its CRLF.

        Without a rate limit nothing is returned.  Raises Refusal: 403 where the key is not for this model, which is not
        counted, and 429 for a request above the limit.
        """
        if self._models and model not in self._models:
            message = f"the API key {self.name} is not for model {model}, but for {', '.join(sorted(self._models))}"
            raise Refusal(FORBIDDEN, "model_not_allowed", message, param="model")
        return self.rate.acquire() if self.rate is not None else b""


class Keyring:
    """All configured keys.  `now` is wall clock time, for expiry; `clock` is monotonic, for rates; in seconds.

    With a `share` this process is one of several, which count the requests of a key together.
    """

    def __init__(
        self,
        keys: Iterable[Key],
        now: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
        share: PoolShare | None = None,
    ) -> None:
        self._now = now
        self._clock = clock
        self._share = share
        self._rates: dict[str, TokenBucket] = {}
        self.by_digest = self._made_of(keys)

    def __bool__(self) -> bool:
        """Return whether any key is configured, even an expired or revoked one: then each client must show a key."""
        return bool(self.by_digest)

    def renewed(self, keys: Iterable[Key]) -> "Keyring":
        """Return a keyring of `keys`; a name that stays keeps what it used of its minute, under any secret or limit."""
        renewed = Keyring((), self._now, self._clock, self._share)
        renewed._rates = self._rates
        renewed.by_digest = renewed._made_of(keys)
        return renewed

    def _made_of(self, keys: Iterable[Key]) -> dict[bytes, ApiKey]:
        before, self._rates = self._rates, {}
        for key in (keys := tuple(keys)):
            if limit := key.requests_per_minute:
                old = before.get(key.name)
                self._rates[key.name] = old.renewed(limit) if old else self._bucket(key.name, limit)
        api_keys = (ApiKey(key, self._rates.get(key.name)) for key in keys)
        return {api_key.digest: api_key for api_key in api_keys}

    def _bucket(self, name: str, limit: int) -> TokenBucket:
        if self._share is None:
            return TokenBucket(name, limit, self._clock)
        return shared_bucket(self._share.rate(name), name, limit, self._clock)

    def authenticate(self, request: Request) -> ApiKey | None:
        """Return the key that the request shows; None where no key is configured.

        The headers with the key are removed from the request, so that no worker gets it: the worker has a key of its
        own, if any.  Credentials of another kind, such as Basic, stay.  Raises Refusal, a 401, where the request shows
        no key, two that differ, or one that is unknown, expired or revoked.
        """
        if not self.by_digest:
            return None
        headers = request.headers
        shown, indices = _find_key(headers)
        digest = sha256(shown).digest()
        api_key = self.by_digest.get(digest)
        if api_key is None or not compare_digest(api_key.digest, digest):
            message = "the API key is not known here: check it, or ask whoever runs this server for one"
            raise UnknownKey(UNAUTHORIZED, "invalid_api_key", message, headers=_CHALLENGE)
        if api_key.revoked:
            raise _refused(f"the API key {api_key.name} was revoked: ask whoever runs this server for another")
        if api_key.expires != inf and self._now() >= api_key.expires:
            when = datetime.fromtimestamp(api_key.expires, UTC).isoformat(timespec="seconds")
            raise _refused(f"the API key {api_key.name} expired at {when}: ask whoever runs this server for another")
        for index in reversed(indices):
            del headers[index]
        return api_key


def _find_key(headers: Headers) -> tuple[bytes, list[int]]:
    """Return the key, and the indices of the headers that show it; raise Refusal where no key is shown, or two."""
    shown = b""
    indices = []
    for index, (name, value) in enumerate(headers):
        if len(name) in _LENGTHS and (key := _key_in(name, value)):
            if shown and not compare_digest(shown, key):
                raise _refused(f"two different API keys in one request: {_HOW_TO_SEND}, once")
            shown = key
            indices.append(index)
    if not indices:
        raise _no_key(headers)
    return shown, indices


def _key_in(name: bytes, value: bytes) -> bytes:
    """Return the key that a header shows; empty where it shows none."""
    name = name.lower()
    if name == _AUTHORIZATION:
        return value[7:].strip() if value[:7].lower() == b"bearer " else b""
    return value.strip() if name in _PLAIN else b""


def _no_key(headers: Headers) -> Refusal:
    if any(name.lower() == _AUTHORIZATION for name, _ in headers):
        return _refused(f"the Authorization header shows no API key: {_HOW_TO_SEND}")
    return _refused(f"no API key: {_HOW_TO_SEND}")


def _refused(message: str) -> Refusal:
    return Refusal(UNAUTHORIZED, "invalid_api_key", message, headers=_CHALLENGE)
