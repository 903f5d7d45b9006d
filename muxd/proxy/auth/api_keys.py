"""Who asks: the API key that a request shows, and what its holder may do.

A key is known by the SHA-256 of its secret alone.  How long a look-up takes tells nobody
anything of a secret:

- What is compared are digests, never what was sent.  Whoever guesses cannot steer the digest
  of a guess, so nothing that is learnt of one digest's bytes leads nearer to the secret; a hash
  that stops early, and a comparison that does, both lose what makes them dangerous elsewhere.
- The look-up is a dict of digests.  Python hashes them with SipHash under a key of this
  process's own (PYTHONHASHSEED), so which slot is looked at says nothing of the bytes, and
  bytes are compared only where all 64 bits of that hash agree.
- What was found is compared once more, with hmac.compare_digest.

The time of SHA-256 itself depends on the length of what was sent, which the sender knows.
Secrets that `muxctl keys add` makes have 256 random bits.  No cache of what was sent: SHA-256
of a key takes 0.33 us, and a look-up among what was sent would have to be argued for instead.
"""

import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from hashlib import sha256
from hmac import compare_digest
from math import inf

from muxd.config.schema import Key
from muxd.http.request import Headers, Request
from muxd.proxy.answers import Refusal

from .rate_limit import TokenBucket

UNAUTHORIZED, FORBIDDEN = 401, 403

_AUTHORIZATION = b"authorization"
_PLAIN = (b"x-api-key", b"api-key")  # Anthropic's clients; Azure's
_NAMES = frozenset((_AUTHORIZATION, *_PLAIN))
_LENGTHS = frozenset(map(len, _NAMES))  # most headers are none of these, which their length tells for 25 ns

_CHALLENGE = ((b"www-authenticate", b"Bearer"),)  # RFC 9110, 15.5.2: a 401 must have one

_HOW = "send it as 'Authorization: Bearer KEY' (or x-api-key, or api-key)"


class UnknownKey(Refusal):
    """Of a key that is none here: it may be a guess."""


class ApiKey:
    """Whoever has shown one key."""

    __slots__ = ("_models", "comments", "digest", "expires", "name", "priority", "rate", "revoked")

    def __init__(self, key: Key, rate: TokenBucket | None) -> None:
        self.name = key.name
        self.priority = key.priority
        self.comments = key.comments
        self.digest = bytes.fromhex(key.secret_sha256)
        self.expires = key.expires
        self.revoked = key.revoked
        self.rate = rate  # None: no limit
        self._models = frozenset(key.models)

    def __repr__(self) -> str:
        return f"<Holder of {self.name}>"

    def may_use(self, model: str) -> bool:
        """`model` is a model's own name."""
        return not self._models or model in self._models

    def authorize(self, model: str) -> bytes:
        """Count a request for `model`: lines for its answer's head, each with its CRLF; empty without a limit.

        Raises a Refusal: 403 where the key is not for this model, which counts nothing, 429 where
        it is one request too many.
        """
        if self._models and model not in self._models:
            message = f"the API key {self.name} is not for model {model}, but for {', '.join(sorted(self._models))}"
            raise Refusal(FORBIDDEN, "model_not_allowed", message, param="model")
        return self.rate.acquire() if self.rate is not None else b""


class Keyring:
    """All configured keys.  `now` is wall clock time, for expiry; `clock` is monotonic, for rates; in seconds."""

    def __init__(
        self,
        keys: Iterable[Key],
        now: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._now = now
        self._clock = clock
        self._rates: dict[str, TokenBucket] = {}
        self._api_keys = self._filled(keys)

    def __bool__(self) -> bool:
        """Keys are configured, be they expired or revoked: the door is shut to whoever shows none."""
        return bool(self._api_keys)

    def renewed(self, keys: Iterable[Key]) -> "Keyring":
        """One with these keys; a name that stays keeps what it has used of its minute, under any secret or limit."""
        renewed = Keyring((), self._now, self._clock)
        renewed._rates = self._rates
        renewed._api_keys = renewed._filled(keys)
        return renewed

    def _filled(self, keys: Iterable[Key]) -> dict[bytes, ApiKey]:
        before, self._rates = self._rates, {}
        for key in (keys := tuple(keys)):
            if limit := key.requests_per_minute:
                old = before.get(key.name)
                self._rates[key.name] = old.renewed(limit) if old else TokenBucket(key.name, limit, self._clock)
        api_keys = (ApiKey(key, self._rates.get(key.name)) for key in keys)
        return {api_key.digest: api_key for api_key in api_keys}

    def authenticate(self, request: Request) -> ApiKey | None:
        """Whose key it shows; None where no key is configured, and anybody may ask.

        The key is taken out of the request's headers, so that no worker gets it: the worker has a
        key of its own, if any.  Credentials of another kind, such as Basic, stay.  Raises the Refusal,
        a 401, of a request that shows no key, one that is unknown, has expired or was revoked, or two
        that differ.
        """
        if not self._api_keys:
            return None
        headers = request.headers
        shown, places = _shown(headers)
        digest = sha256(shown).digest()
        api_key = self._api_keys.get(digest)
        if api_key is None or not compare_digest(api_key.digest, digest):
            message = "the API key is not known here: check it, or ask whoever runs this server for one"
            raise UnknownKey(UNAUTHORIZED, "invalid_api_key", message, headers=_CHALLENGE)
        if api_key.revoked:
            raise _refused(f"the API key {api_key.name} was revoked: ask whoever runs this server for another")
        if api_key.expires != inf and self._now() >= api_key.expires:
            when = datetime.fromtimestamp(api_key.expires, UTC).isoformat(timespec="seconds")
            raise _refused(f"the API key {api_key.name} expired at {when}: ask whoever runs this server for another")
        for place in reversed(places):
            del headers[place]
        return api_key


def _shown(headers: Headers) -> tuple[bytes, list[int]]:
    """The key that they show, and which of them do; raises the Refusal of those that show none, or two."""
    shown = b""
    places = []
    for place, (name, value) in enumerate(headers):
        if len(name) in _LENGTHS and (key := _key_in(name, value)):
            if shown and not compare_digest(shown, key):
                raise _refused(f"two different API keys in one request: {_HOW}, once")
            shown = key
            places.append(place)
    if not places:
        raise _missing(headers)
    return shown, places


def _key_in(name: bytes, value: bytes) -> bytes:
    """The key that a header shows; empty where it shows none."""
    name = name.lower()
    if name == _AUTHORIZATION:
        return value[7:].strip() if value[:7].lower() == b"bearer " else b""
    return value.strip() if name in _PLAIN else b""


def _missing(headers: Headers) -> Refusal:
    if any(name.lower() == _AUTHORIZATION for name, _ in headers):
        return _refused(f"the Authorization header shows no API key: {_HOW}")
    return _refused(f"no API key: {_HOW}")


def _refused(message: str) -> Refusal:
    return Refusal(UNAUTHORIZED, "invalid_api_key", message, headers=_CHALLENGE)
