"""Who may look at the console and who may operate, by keys, cookies, hosts and origins."""

from hashlib import sha256

import pytest

from muxd.config.schema import Key
from muxd.http.request import Request
from muxd.ui.access import (
    GUESSES,
    LIFE,
    MOST_SESSIONS,
    PAUSE,
    Access,
    ConsoleDenied,
    Level,
    LoginNeeded,
    TooManyGuesses,
)

OWN = [(b"x-muxd-ui", b"1")]


def key(name, **rights):
    return Key(name=name, secret_sha256=sha256(f"secret of {name}".encode()).hexdigest(), **rights)


def request(method="GET", cookie="", host=b"localhost:30102", headers=()):
    lines = [(b"host", host), *headers, *([(b"cookie", cookie.encode())] if cookie else [])]
    return Request(method, b"/ui/api/x", lines, b"", "1.1", True)


class Clock:
    time = 1000.0

    def __call__(self):
        return self.time


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def keys():
    return [key("ann", admin=True), key("vic", view=True), key("bot")]


@pytest.fixture
def access(keys, clock):
    return Access(lambda: keys, ("gpu1.example",), at_home=True, now=clock)


def cookie_of(line):
    return line.partition(";")[0]


def log_in(access, name):
    viewer, line = access.log_in(request("POST", headers=OWN), f"secret of {name}")
    return viewer, cookie_of(line)


def test_on_loopback_anybody_is_a_guest_and_no_more(access):
    assert access.viewer(request()).level is Level.GUEST
    with pytest.raises(LoginNeeded, match=r"admin = true, or open the link that `muxctl ui` prints"):
        access.require(request("POST", headers=OWN), Level.ADMIN)
    with pytest.raises(LoginNeeded, match=r"view = true or admin = true"):
        access.require(request(), Level.VIEW)


def test_beyond_loopback_nobody_looks_without_a_key(keys, clock):
    access = Access(lambda: keys, (), at_home=False, now=clock)
    assert access.viewer(request()).level is Level.NONE
    with pytest.raises(LoginNeeded):
        access.require(request(), Level.GUEST)


@pytest.mark.parametrize(("name", "level"), [("ann", Level.ADMIN), ("vic", Level.VIEW)])
def test_a_key_is_changed_for_a_cookie_of_its_level(access, name, level):
    viewer, cookie = log_in(access, name)
    assert (viewer.level, viewer.name) == (level, name)
    assert access.viewer(request(cookie=cookie)) == viewer


def test_the_cookie_is_out_of_reach_of_scripts_and_of_other_sites(access):
    _, line = access.log_in(request("POST", headers=OWN), "secret of ann")
    assert {"HttpOnly", "SameSite=Strict", "Path=/ui"} <= set(line.split("; "))


def test_a_key_for_models_alone_opens_nothing_and_is_told_so(access):
    with pytest.raises(ConsoleDenied, match="bot is for models alone: give it view = true or admin = true"):
        log_in(access, "bot")


def test_who_may_look_is_told_that_they_may_do_no_more(access):
    _, cookie = log_in(access, "vic")
    with pytest.raises(ConsoleDenied, match="vic may look and no more"):
        access.require(request("POST", cookie, headers=OWN), Level.ADMIN)


def test_a_session_ends_with_its_key_and_with_its_time(access, keys, clock):
    _, cookie = log_in(access, "ann")
    keys[0] = key("ann", admin=True, revoked=True)
    assert access.viewer(request(cookie=cookie)).level is Level.GUEST
    keys[0] = key("ann", admin=True)
    assert access.viewer(request(cookie=cookie)).level is Level.ADMIN
    clock.time += LIFE
    assert access.viewer(request(cookie=cookie)).level is Level.GUEST


def test_a_session_ends_when_its_holder_says_so(access):
    _, cookie = log_in(access, "ann")
    assert "Max-Age=0" in access.log_out(request("POST", cookie, headers=OWN))
    assert access.viewer(request(cookie=cookie)).level is Level.GUEST


def test_a_redeemed_link_lets_operate(access):
    cookie = cookie_of(access.admit_link())
    assert access.require(request("POST", cookie, headers=OWN), Level.ADMIN).name == "link"


@pytest.mark.parametrize(
    "headers",
    [
        [],  # a form of another site can send no header of its own
        [*OWN, (b"origin", b"http://evil.example")],
        [*OWN, (b"origin", b"null")],
    ],
)
def test_what_another_sites_page_may_have_sent_changes_nothing(access, headers):
    _, cookie = log_in(access, "ann")
    with pytest.raises(ConsoleDenied):
        access.require(request("POST", cookie, headers=headers), Level.ADMIN)
    with pytest.raises(ConsoleDenied):
        access.log_in(request("POST", headers=headers), "secret of ann")


def test_the_pages_own_origin_is_right(access):
    _, cookie = log_in(access, "ann")
    own = [*OWN, (b"origin", b"http://localhost:30102")]
    assert access.require(request("POST", cookie, headers=own), Level.ADMIN).name == "ann"


@pytest.mark.parametrize(
    ("host", "is_known"), [(b"127.0.0.1:30102", True), (b"gpu1.example", True), (b"evil.example", False)]
)
def test_a_name_that_was_made_to_lead_here_is_refused(access, host, is_known):
    if is_known:
        access.viewer(request(host=host))
    else:
        with pytest.raises(ConsoleDenied, match=r"hosts = \[\"NAME\"\] under \[ui\]"):
            access.viewer(request(host=host))


def test_guesses_are_slowed_down(access, clock):
    for _ in range(GUESSES):
        with pytest.raises(LoginNeeded):
            access.log_in(request("POST", headers=OWN), "a guess")
    with pytest.raises(TooManyGuesses):
        access.log_in(request("POST", headers=OWN), "secret of ann")
    clock.time += PAUSE
    assert log_in(access, "ann")[0].name == "ann"


def test_sessions_are_bounded_and_the_oldest_gives_way(access):
    first = cookie_of(access.admit_link())
    for _ in range(MOST_SESSIONS):
        last = cookie_of(access.admit_link())
    assert access.viewer(request(cookie=first)).level is Level.GUEST
    assert access.viewer(request(cookie=last)).level is Level.ADMIN


@pytest.mark.parametrize("cookie", ["muxd_ui=", "muxd_ui=unknown", "=;=", "muxd_ui=\x00", "x" * 5000])
def test_a_cookie_that_is_none_is_a_guests(access, cookie):
    assert access.viewer(request(cookie=cookie)).level is Level.GUEST
