"""muxctl keys revoke: the key stays in the file and opens nothing; what does not hear of it is told."""

import json
from hashlib import sha256

import pytest

from .conftest import HASH, MAIN, authenticate


def test_a_revoked_key_stays_in_the_file_and_opens_nothing(muxctl, running, config, file, written):
    secret = muxctl("keys", "add", "alice", "--models", "qwen")[1].strip()
    hashed = sha256(secret.encode()).hexdigest()
    code, out, err = muxctl("keys", "revoke", "alice")
    assert (code, out, err.splitlines()[0]) == (
        0,
        "",
        f"alice is revoked in {file}; muxd has taken it over: it is refused from now on",
    )
    assert written() == [{"name": "alice", "secret_sha256": hashed, "models": ["qwen"], "revoked": True}]
    with pytest.raises(Exception, match="alice was revoked"):
        authenticate(config, secret)
    assert [line for line, _ in running.requests] == ["GET /v1/status", "POST /v1/reload"] * 2


def test_with_muxd_down_a_proxy_that_outlives_it_has_not_heard_of_it(muxctl, config, file):
    muxctl("keys", "add", "alice")
    assert muxctl("keys", "revoke", "alice")[2].splitlines()[0] == (
        f"alice is revoked in {file}; muxd is not running: it is refused once it is started; "
        "a proxy that still runs takes it until then, or until it is restarted"
    )


def test_revoking_twice_tells_muxd_once_more(muxctl, running, config, file):
    muxctl("keys", "add", "alice")
    muxctl("keys", "revoke", "alice")
    before = file.stat().st_ino
    code, out, err = muxctl("keys", "revoke", "alice", "--json")
    assert (code, json.loads(out)) == (0, {"name": "alice", "revoked": True, "file": str(file)})
    assert err.startswith(f"alice was revoked before, in {file}; ")
    assert file.stat().st_ino == before
    assert running.requests[-1] == ("POST /v1/reload", {"dry_run": False})


def test_a_muxd_that_does_not_take_it_over_makes_that_loud(muxctl, running, config, written):
    muxctl("keys", "add", "alice")
    running.scripts["POST /v1/reload"] = lambda talk: talk.error(409, "needs_restart", "proxy.listen needs a restart")
    code, _, err = muxctl("keys", "revoke", "alice")
    assert code == 1
    assert "but muxd has not taken it over: proxy.listen needs a restart\n" in err
    assert written()[0]["revoked"]


def test_a_key_of_somebodys_own_file_is_pointed_at(muxctl, config):
    text = f'{MAIN}[[keys]]\nname = "own"\nsecret_sha256 = "{HASH}"\n'
    config.write_text(text)
    assert muxctl("keys", "revoke", "own") == (
        1,
        "",
        "muxctl: muxctl did not write the key own, and changes no file of yours: "
        f"write revoked = true below [[keys]] in line 8 of {config}, then muxctl reload\n",
    )
    assert config.read_text() == text


def test_a_key_that_is_not_there_may_have_been_another(muxctl, config):
    muxctl("keys", "add", "alice")
    assert muxctl("keys", "revoke", "alcie") == (1, "", "muxctl: no key alcie; did you mean alice?\n")


def test_a_broken_file_of_somebody_else_keeps_no_key_alive(muxctl, config, file, written):
    muxctl("keys", "add", "alice")
    (file.parent / "z.toml").write_text("=")
    assert muxctl("keys", "revoke", "alice")[0] == 0
    assert written()[0]["revoked"]
    code, _, err = muxctl("keys", "revoke", "bob")
    assert code == 2
    assert "z.toml:1: not TOML" in err
