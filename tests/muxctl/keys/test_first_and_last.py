"""The first key shuts out who has none, and without the last nobody gets in: a person is told, and asked."""

import pytest

from muxd.config import load_config
from muxd.proxy.auth.api_keys import Keyring

from .conftest import MAIN


def test_the_first_key_says_whom_it_shuts_out_and_the_next_does_not(muxctl, config):
    config.write_text(MAIN.replace("127.0.0.1:0", "0.0.0.0:30100") + "[muxd]\n")
    assert "until now everybody who reaches 0.0.0.0:30100 may use" in muxctl("keys", "add", "alice", "--yes")[2]
    assert "first API key" not in muxctl("keys", "add", "bob")[2]
    muxctl("keys", "revoke", "alice")
    muxctl("keys", "revoke", "bob")
    assert "first API key" not in muxctl("keys", "add", "carol")[2]  # the door was shut already


def test_a_person_is_asked_before_the_first_key(config, file, terminal):
    socket = str(config.parent / "none.sock")
    for answer, code in (("\n", 1), ("n\n", 1), ("\x04", 1), ("y\n", 0)):
        shown = terminal("--socket", socket, "keys", "add", "alice", "--config", str(config))
        shown.until("make it? [y/N] ")
        assert not file.exists()
        shown.type(answer)
        assert shown.ended() == code
        assert ("nothing was changed" in shown.text) == (code == 1)
    assert file.exists()


def test_a_person_is_asked_before_the_last_key_is_revoked(config, file, terminal, muxctl):
    socket = str(config.parent / "none.sock")
    muxctl("keys", "add", "alice")
    for answer, code in (("\n", 1), ("y\n", 0)):
        shown = terminal("--socket", socket, "keys", "revoke", "alice", "--config", str(config))
        shown.until("revoke it? [y/N] ")
        assert "alice is the last API key that works: without it every request" in shown.text
        assert "revoked = true" not in file.read_text()
        shown.type(answer)
        assert shown.ended() == code
    assert "revoked = true" in file.read_text()


def test_a_person_who_says_yes_beforehand_is_not_asked(config, file, terminal):
    socket = str(config.parent / "none.sock")
    shown = terminal("--socket", socket, "keys", "add", "alice", "--yes", "--config", str(config))
    assert shown.ended() == 0
    assert "make it?" not in shown.text


def test_a_key_that_cannot_be_made_is_told_before_anything_is_asked(config, terminal):
    socket = str(config.parent / "none.sock")
    shown = terminal("--socket", socket, "keys", "add", "Alice", "--config", str(config))
    assert shown.ended() == 2
    assert "make it?" not in shown.text


@pytest.mark.parametrize(
    ("proxy", "meaning"),
    [
        ("127.0.0.1:0", "everybody on this host may use the models again after muxctl reload\n"),
        ("[::1]:1", "everybody on this host may use the models again after muxctl reload\n"),
        ("10.0.0.1:1", "muxd neither starts nor reloads: 10.0.0.1 lets other machines in"),
        (
            '10.0.0.1:1"\nallow_anonymous = true\n#"',
            "everybody who reaches 10.0.0.1:1 may use the models again after muxctl reload\n",
        ),
        (
            '127.0.0.1:1"\nmanaged = false\n#"',
            "everybody on this host may use the models again after muxctl reload, but where systemd's socket lets",
        ),
    ],
)
def test_revoking_the_last_key_says_that_nobody_gets_in_and_what_no_key_at_all_means(
    muxctl, config, file, proxy, meaning
):
    config.write_text(MAIN.replace("127.0.0.1:0", proxy))
    muxctl("keys", "add", "alice")
    muxctl("keys", "add", "bob")
    assert "no API key is left" not in muxctl("keys", "revoke", "alice")[2]
    last = muxctl("keys", "revoke", "bob")[2]
    assert "no API key is left that works: every request to the proxy gets 401 until muxctl keys add NAME" in last
    assert f"without any [[keys]] in {file}, {meaning}" in last


def test_what_is_said_of_the_last_key_is_true(muxctl, config, file):
    """Revoked, it keeps the door shut; taken out, it opens it on this host, and is a problem beyond."""
    muxctl("keys", "add", "alice")
    muxctl("keys", "revoke", "alice")
    assert Keyring(load_config(config, {}).keys)
    file.unlink()
    assert not Keyring(load_config(config, {}).keys)
    config.write_text(MAIN.replace("127.0.0.1", "0.0.0.0"))
    with pytest.raises(Exception, match=r"0\.0\.0\.0 lets other machines in"):
        load_config(config, {})
