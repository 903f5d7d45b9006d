"""muxctl keys add: a secret that is told once, a hash that is kept, and a muxd that takes it over."""

import json
import re
import tomllib
from datetime import UTC, datetime, timedelta
from hashlib import sha256

import pytest

from muxd.config import load_config

from .conftest import HASH, MAIN, RELOADED, authenticate

SECRET = re.compile(r"muxd-[A-Za-z0-9_-]{43}\n")


def test_a_key_is_made_its_secret_told_alone_and_only_its_hash_kept(muxctl, config, file):
    code, out, err = muxctl("keys", "add", "alice")
    assert code == 0
    assert SECRET.fullmatch(out)
    assert err == (
        "alice is the first API key: until now everybody on this host may use the models without one; "
        "with it everybody needs a key, and whoever shows none gets 401\n"
        "this is the only time that the secret is shown: put it where its holder finds it\n"
        f"alice is in {file}; muxd is not running: it works once it is started\n"
    )
    assert tomllib.loads(file.read_text()) == {
        "keys": [{"name": "alice", "secret_sha256": sha256(out.strip().encode()).hexdigest()}]
    }
    assert out.strip() not in file.read_text()
    assert authenticate(config, out.strip()).name == "alice"


def test_everything_that_can_be_said_of_a_key_is_written(muxctl, config, written):
    options = ["--models", "Qwen/Qwen3-14B, llama", "--requests-per-minute", "60", "--priority", "-3"]
    assert muxctl("keys", "add", "ci", *options, "--expires", "2999-01-31", "--no-comments")[0] == 0
    (key,) = written()
    assert {name: value for name, value in key.items() if name != "secret_sha256"} == {
        "name": "ci",
        "models": ["Qwen/Qwen3-14B", "llama"],
        "requests_per_minute": 60,
        "priority": -3,
        "expires": datetime(2999, 1, 31, tzinfo=UTC),
        "comments": False,
    }
    assert load_config(config, {}).keys[0].models == ("qwen", "llama")


@pytest.mark.parametrize(("said", "later"), [("30d", timedelta(days=30)), ("1h 30min", timedelta(minutes=90))])
def test_a_key_may_expire_so_long_from_now(muxctl, config, written, said, later):
    before = datetime.now(UTC).replace(microsecond=0)
    assert muxctl("keys", "add", "a", "--expires", said)[0] == 0
    assert before + later <= written()[0]["expires"] <= datetime.now(UTC) + later


def test_a_running_muxd_takes_it_over_at_once(muxctl, running, config, file, monkeypatch, elsewhere):
    monkeypatch.chdir(elsewhere)  # where no configuration is found: muxd says which one it is
    code, _, err = muxctl("keys", "add", "alice")
    assert (code, err.splitlines()[-1]) == (
        0,
        f"alice is in {file}; muxd has taken it over: it works from now on",
    )
    assert running.requests == [("GET /v1/status", None), ("POST /v1/reload", {"dry_run": False})]


def test_what_else_was_waiting_for_a_reload_is_told(muxctl, running, config):
    step = {"model": "qwen", "action": "restart", "changes": ["args"]}
    running.scripts["POST /v1/reload"] = lambda talk: talk.json(RELOADED | {"plan": [step]})
    err = muxctl("keys", "add", "alice")[2]
    assert "went with it" in err
    assert "qwen: restarted after its requests have finished\n" in err


def test_a_reload_that_muxd_refuses_leaves_the_key_and_tells_its_secret_all_the_same(muxctl, running, config, written):
    problems = ["muxd.toml:3: models.qwen.modle_path: unknown key"]
    running.scripts["POST /v1/reload"] = lambda talk: talk.error(400, "config_invalid", "x", problems=problems)
    code, out, err = muxctl("keys", "add", "alice")
    assert code == 2
    assert SECRET.fullmatch(out)
    assert "but muxd has not taken it over: the configuration has a problem" in err
    assert problems[0] in err
    assert [key["name"] for key in written()] == ["alice"]


def test_json_has_the_name_the_secret_and_the_file(muxctl, config, file):
    code, out, _ = muxctl("keys", "add", "alice", "--json")
    value = json.loads(out)
    assert code == 0
    assert (value["name"], value["file"]) == ("alice", str(file))
    assert authenticate(config, value["secret"]).name == "alice"


def test_a_second_key_comes_behind_the_first(muxctl, config, written):
    muxctl("keys", "add", "alice")
    muxctl("keys", "add", "bob")
    assert [key["name"] for key in written()] == ["alice", "bob"]


def test_what_somebody_wrote_into_the_file_stays(muxctl, config, file):
    file.parent.mkdir()
    file.write_text('[policy]\nwait_target = "1min"\n')
    assert muxctl("keys", "add", "alice")[0] == 0
    assert tomllib.loads(file.read_text())["policy"] == {"wait_target": "1min"}


def test_the_file_says_who_writes_it(muxctl, config, file):
    muxctl("keys", "add", "alice")
    assert file.read_text().startswith("# Written by `muxctl keys`")


def test_a_live_name_is_refused_wherever_it_is(muxctl, config, file):
    config.write_text(f'{MAIN}[[keys]]\nname = "own"\nsecret_sha256 = "{HASH}"\n')
    muxctl("keys", "add", "alice")
    before = file.read_bytes()
    for name, where in (("alice", f"{file}:5"), ("own", f"{config}:8")):
        assert muxctl("keys", "add", name) == (
            1,
            "",
            f"muxctl: there is a key {name} already, at {where}; revoke it first, or use another name\n",
        )
    assert file.read_bytes() == before


def test_the_name_of_a_revoked_key_may_be_given_again(muxctl, config, written):
    first = muxctl("keys", "add", "alice")[1].strip()
    muxctl("keys", "add", "bob")
    muxctl("keys", "revoke", "alice")
    second = muxctl("keys", "add", "alice")[1].strip()
    assert [key["name"] for key in written()] == ["alice", "bob"]
    assert authenticate(config, second).name == "alice"
    with pytest.raises(Exception, match="not known"):
        authenticate(config, first)


def test_a_revoked_key_in_somebodys_own_file_is_in_the_way(muxctl, config):
    config.write_text(f'{MAIN}[[keys]]\nname = "own"\nsecret_sha256 = "{HASH}"\nrevoked = true\n')
    code, _, err = muxctl("keys", "add", "own")
    assert (code, err) == (
        1,
        f"muxctl: own is the name of a key that is revoked, at {config}:8; remove it there, or use another\n",
    )


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["Alice"], 2, 'name: "Alice" is not a key\'s name'),
        (["a", "--models", "lama"], 4, "--models: no model lama; did you mean llama?"),
        (["a", "--models", ""], 2, '--models: "" is not usable'),
        (["a", "--requests-per-minute", "0"], 2, "--requests-per-minute: 0 is out of range; use 1 to 1000000"),
        (["a", "--priority", "11"], 2, "--priority: 11 is out of range; use -10 to 10"),
        (["a", "--priority", "high"], 2, "argument --priority: 'high' is not a whole number"),
        (
            ["a", "--expires", "soon"],
            2,
            '--expires: "soon" is not a date; write 2027-01-31, or 2027-01-31T18:00:00Z, or',
        ),
        (["a", "--expires", "2001-01-01"], 2, "--expires: 2001-01-01 is over already"),
        (["a", "--expires", "inf"], 2, "--expires: inf is too far away; leave it out for a key that stays"),
        ([], 2, "muxctl keys add takes the name of a key"),
    ],
)
def test_what_makes_no_key_is_told_and_nothing_written(muxctl, config, file, options, code, said):
    ended, out, err = muxctl("keys", "add", *options)
    assert (ended, out) == (code, "")
    assert said in err
    assert not file.exists()


def test_what_would_make_a_problem_is_taken_back(muxctl, config, file, monkeypatch):
    muxctl("keys", "add", "alice")
    before = file.read_bytes()
    monkeypatch.setattr("secrets.token_urlsafe", lambda size: "the-same-again")
    assert muxctl("keys", "add", "bob")[0] == 0
    code, out, err = muxctl("keys", "add", "carol")
    assert (code, out) == (2, "")
    assert "nothing was changed" in err
    assert "keys.carol.secret_sha256: the key at" in err
    assert file.read_bytes().startswith(before)
    assert "carol" not in file.read_text()


def test_the_first_key_that_would_make_a_problem_leaves_no_file(muxctl, config, file, monkeypatch):
    monkeypatch.setattr("secrets.token_urlsafe", lambda size: "x")
    config.write_text(f'{MAIN}[[keys]]\nname = "own"\nsecret_sha256 = "{sha256(b"muxd-x").hexdigest()}"\n')
    assert muxctl("keys", "add", "alice")[0] == 2
    assert list(file.parent.iterdir()) == []


def test_problems_that_were_there_before_keep_nobody_from_his_key(muxctl, config, written):
    # A secret that only the service's environment has, and a door that only a key may open.
    config.write_text(MAIN.replace("127.0.0.1", "0.0.0.0") + '[[keys]]\nname = "own"\nsecret_env = "NOT_HERE"\n')
    assert muxctl("keys", "add", "alice")[0] == 0
    assert muxctl("keys", "revoke", "alice")[0] == 0
    assert [key["name"] for key in written()] == ["alice"]


def test_a_configuration_that_is_not_toml_is_told_and_left_alone(muxctl, config, file):
    config.write_text("=")
    code, out, err = muxctl("keys", "add", "alice")
    assert (code, out) == (2, "")
    assert f"{config}:1: not TOML" in err
    assert not file.exists()


def test_without_any_configuration_the_places_that_were_tried_are_told(muxctl, elsewhere):
    code, _, err = muxctl("keys", "list")
    assert code == 2
    assert "no configuration: tried" in err


def test_another_configuration_may_be_named_and_a_muxd_with_this_one_is_left_alone(muxctl, running, config, elsewhere):
    other = elsewhere / "other.toml"
    other.write_text(MAIN)
    code, _, err = muxctl("keys", "add", "alice", "--config", str(other))
    assert (code, err.splitlines()[-1]) == (
        0,
        f"alice is in {elsewhere}/muxd.d/keys.toml; muxd runs with {config}, so nothing changes for it",
    )
    assert running.requests == [("GET /v1/status", None)]


def test_the_configuration_that_muxd_runs_with_may_be_named_in_another_way(muxctl, running, config):
    assert muxctl("keys", "add", "alice", "--config", f"../{config.parent.name}/muxd.toml")[0] == 0
    assert running.requests[-1] == ("POST /v1/reload", {"dry_run": False})


def test_a_muxd_without_a_file_has_no_place_for_keys(muxctl, running):
    running.scripts["GET /v1/status"] = lambda talk: talk.json({"config": None})
    code, out, err = muxctl("keys", "add", "alice")
    assert (code, out) == (1, "")
    assert err == "muxctl: muxd runs without a configuration file, which keys need: start it with --config\n"


def test_a_muxd_that_lets_us_ask_nothing_is_not_gone_around(muxctl, running, file):
    running.scripts["GET /v1/status"] = lambda talk: talk.error(403, "permission_denied", "you may not")
    assert muxctl("keys", "add", "alice")[0] == 5
    assert not file.exists()
