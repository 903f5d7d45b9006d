"""The key that a request shows: who is let in, who is told what, and what is left of it."""

from datetime import UTC, datetime
from hashlib import sha256

import pytest

from muxd.config.schema import Key
from muxd.http.request import Request
from muxd.proxy.answers import Refusal
from muxd.proxy.auth.api_keys import Keyring

ALICE, BOB = b"muxd-alices-secret", b"muxd-bobs-secret"
NEW_YEAR = datetime(2027, 1, 1, tzinfo=UTC).timestamp()


def key(name="alice", secret=ALICE, **more):
    return Key(name, sha256(secret).hexdigest(), **more)


def asked(*headers):
    return Request(
        "POST", b"/v1/chat/completions", [(b"Host", b"h"), *headers, (b"Accept", b"*/*")], b"{}", "1.1", True
    )


def bearer(secret):
    return (b"Authorization", b"Bearer " + secret)


class Clock:
    def __init__(self, at=0.0):
        self.at = at

    def __call__(self):
        return self.at


def refusal(ring, *headers):
    request = asked(*headers)
    before = list(request.headers)
    with pytest.raises(Refusal) as caught:
        ring.authenticate(request)
    assert request.headers == before
    return caught.value


KEYS = [key(priority=3), key("bob", BOB)]


def test_without_any_key_configured_everybody_is_let_in_and_nothing_is_touched():
    request = asked(bearer(b"whatever"), (b"x-api-key", b"another"))
    before = list(request.headers)
    assert Keyring([]).authenticate(request) is None
    assert request.headers == before
    assert not Keyring([])


@pytest.mark.parametrize(
    "header",
    [
        (b"Authorization", b"Bearer " + ALICE),
        (b"authorization", b"bearer " + ALICE),
        (b"AUTHORIZATION", b"BEARER   " + ALICE),
        (b"x-api-key", ALICE),
        (b"X-Api-Key", ALICE),
        (b"api-key", ALICE),
        (b"Api-Key", ALICE),
    ],
)
def test_a_key_is_shown_in_any_of_three_headers_and_taken_out(header):
    request = asked((b"X-Other", b"1"), header, (b"Cache-Control", b"no-cache"))
    api_key = Keyring(KEYS).authenticate(request)
    assert (api_key.name, api_key.priority) == ("alice", 3)
    assert request.headers == [
        (b"Host", b"h"), (b"X-Other", b"1"), (b"Cache-Control", b"no-cache"), (b"Accept", b"*/*")
    ]  # fmt: skip


def test_the_same_key_twice_is_one_key_and_taken_out_twice():
    request = asked(bearer(ALICE), (b"x-api-key", ALICE))
    assert Keyring(KEYS).authenticate(request).name == "alice"
    assert [name for name, _ in request.headers] == [b"Host", b"Accept"]


def test_credentials_of_another_kind_are_somebody_elses_and_stay():
    basic = (b"Authorization", b"Basic dTpw")
    request = asked(basic, (b"api-key", BOB), (b"x-api-key", b""))
    assert Keyring(KEYS).authenticate(request).name == "bob"
    assert request.headers[1:-1] == [basic, (b"x-api-key", b"")]


@pytest.mark.parametrize(
    "headers",
    [
        [bearer(ALICE), (b"x-api-key", BOB)],
        [bearer(ALICE), (b"x-api-key", b"sk-of-somebody")],
        [bearer(b"sk-of-somebody"), bearer(ALICE)],
        [(b"api-key", BOB), (b"api-key", ALICE)],
    ],
)
def test_two_different_keys_are_refused_whichever_is_good(headers):
    refused = refusal(Keyring(KEYS), *headers)
    assert (refused.status, refused.code) == (401, "invalid_api_key")
    assert refused.message.startswith("two different API keys in one request: ")


@pytest.mark.parametrize("headers", [[], [(b"x-api-key", b"")], [(b"Cookie", b"k=v")]])
def test_without_a_key_it_is_said_how_to_send_one(headers):
    refused = refusal(Keyring(KEYS), *headers)
    assert (refused.status, refused.code) == (401, "invalid_api_key")
    assert refused.message == "no API key: send it as 'Authorization: Bearer KEY' (or x-api-key, or api-key)"
    assert refused.headers == ((b"www-authenticate", b"Bearer"),)


@pytest.mark.parametrize("value", [b"Basic dTpw", b"Bearer", b"Bearer ", ALICE, b"Bearer" + ALICE, b""])
def test_an_authorization_that_shows_no_key_is_told_so(value):
    refused = refusal(Keyring(KEYS), (b"Authorization", value))
    assert (refused.status, refused.code) == (401, "invalid_api_key")
    assert refused.message.startswith("the Authorization header shows no API key: ")


@pytest.mark.parametrize(
    "secret", [b"muxd-", ALICE[:-1], ALICE + b"x", ALICE.upper(), sha256(ALICE).hexdigest().encode(), b"\xff"]
)
def test_an_unknown_key_is_refused_and_not_repeated(secret):
    refused = refusal(Keyring(KEYS), bearer(secret))
    assert (refused.status, refused.code) == (401, "invalid_api_key")
    assert refused.message == "the API key is not known here: check it, or ask whoever runs this server for one"


def test_a_key_is_good_until_it_expires_and_then_told_when_that_was():
    clock = Clock(NEW_YEAR - 0.001)
    ring = Keyring([key(expires=NEW_YEAR)], now=clock)
    assert ring.authenticate(asked(bearer(ALICE))).name == "alice"
    clock.at = NEW_YEAR
    refused = refusal(ring, bearer(ALICE))
    assert (refused.status, refused.code) == (401, "invalid_api_key")
    assert refused.message.startswith("the API key alice expired at 2027-01-01T00:00:00+00:00: ")


def test_a_revoked_key_opens_nothing_and_keeps_the_door_shut():
    ring = Keyring([key(revoked=True)])
    assert refusal(ring, bearer(ALICE)).message.startswith("the API key alice was revoked: ")
    assert refusal(ring).status == 401
    assert ring


def test_a_refusal_is_what_openais_clients_expect():
    head, _, body = refusal(Keyring(KEYS)).response(keep_alive=True).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 401 Unauthorized\r\n")
    assert b"\r\nwww-authenticate: Bearer" in head
    assert b'"code":"invalid_api_key"' in body


# What a key is for


def test_a_key_without_models_is_for_all():
    api_key = Keyring(KEYS).authenticate(asked(bearer(ALICE)))
    assert api_key.may_use("qwen")
    assert api_key.authorize("qwen") == b""


def test_a_key_is_for_its_models_alone():
    api_key = Keyring([key(models=("qwen", "llama"))]).authenticate(asked(bearer(ALICE)))
    assert [api_key.may_use(model) for model in ("qwen", "llama", "big")] == [True, True, False]
    assert api_key.authorize("llama") == b""
    with pytest.raises(Refusal) as caught:
        api_key.authorize("big")
    refused = caught.value
    assert (refused.status, refused.code, refused.param) == (403, "model_not_allowed", "model")
    assert refused.message == "the API key alice is not for model big, but for llama, qwen"


def test_neither_a_secret_nor_its_hash_is_in_a_repr():
    api_key = Keyring(KEYS).authenticate(asked(bearer(ALICE)))
    assert repr(api_key) == "<Holder of alice>"


# How often it may ask


def limited(clock, limit=2, **more):
    return Keyring([key(requests_per_minute=limit, **more), key("bob", BOB)], clock=clock)


def test_a_limited_keys_answers_say_what_is_left():
    api_key = limited(Clock()).authenticate(asked(bearer(ALICE)))
    assert api_key.authorize("m") == (
        b"x-ratelimit-limit-requests: 2\r\nx-ratelimit-remaining-requests: 1\r\nx-ratelimit-reset-requests: 30s\r\n"
    )
    assert b"remaining-requests: 0\r\nx-ratelimit-reset-requests: 1m0s\r\n" in api_key.authorize("m")
    with pytest.raises(Refusal) as caught:
        api_key.authorize("m")
    assert (caught.value.status, caught.value.code) == (429, "rate_limit_exceeded")
    assert "alice" in caught.value.message


def test_a_request_for_a_model_that_is_not_allowed_does_not_count():
    api_key = limited(Clock(), limit=1, models=("qwen",)).authenticate(asked(bearer(ALICE)))
    for _ in range(3):
        with pytest.raises(Refusal, match="not for model"):
            api_key.authorize("big")
    assert api_key.authorize("qwen")


def test_one_keys_requests_are_not_counted_for_another():
    ring = limited(Clock(), limit=1)
    ring.authenticate(asked(bearer(ALICE))).authorize("m")
    assert ring.authenticate(asked(bearer(BOB))).authorize("m") == b""


# A reload


def test_what_a_key_has_used_of_its_minute_stays_used_after_a_reload():
    clock = Clock()
    ring = limited(clock)
    for _ in range(2):
        ring.authenticate(asked(bearer(ALICE))).authorize("m")
    again = ring.renewed([key(secret=BOB, requests_per_minute=2)])
    with pytest.raises(Refusal, match="send the next in 30s"):
        again.authenticate(asked(bearer(BOB))).authorize("m")


def test_another_limit_begins_with_what_was_used_of_the_old_one():
    clock = Clock()
    ring = limited(clock, limit=4)
    for _ in range(2):
        ring.authenticate(asked(bearer(ALICE))).authorize("m")
    again = ring.renewed([key(requests_per_minute=60)])
    assert b"remaining-requests: 29\r\n" in again.authenticate(asked(bearer(ALICE))).authorize("m")


def test_a_key_that_gets_its_first_limit_begins_with_all_of_it():
    ring = Keyring([key()], clock=Clock()).renewed([key(requests_per_minute=2)])
    assert b"remaining-requests: 1\r\n" in ring.authenticate(asked(bearer(ALICE))).authorize("m")


def test_a_key_that_went_is_unknown_and_one_that_came_is_known():
    ring = Keyring([key()]).renewed([key("bob", BOB)])
    assert "not known" in refusal(ring, bearer(ALICE)).message
    assert ring.authenticate(asked(bearer(BOB))).name == "bob"


def test_a_request_that_was_let_in_before_the_reload_still_counts_after_it():
    ring = limited(Clock(), limit=1)
    api_key = ring.authenticate(asked(bearer(ALICE)))
    again = ring.renewed([key(requests_per_minute=1)])
    api_key.authorize("m")
    with pytest.raises(Refusal, match="may send 1 requests per minute"):
        again.authenticate(asked(bearer(ALICE))).authorize("m")
