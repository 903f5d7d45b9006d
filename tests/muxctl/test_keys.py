"""muxctl keys: a real configuration in a folder, with muxd down or played."""

import fcntl
import json
import os
import re
import stat
import subprocess
import sys
import time
import tomllib
from datetime import UTC, datetime, timedelta
from hashlib import sha256

import pytest

from muxd.config import load_config
from muxd.http.request import Request
from muxd.proxy.auth.api_keys import Keyring

from .conftest import ROOT

MAIN = """\
[proxy]
listen = "127.0.0.1:0"
[models.qwen]
engine = "simulator"
served_names = ["Qwen/Qwen3-14B"]
[models.llama]
engine = "simulator"
"""
HASH = "ab" * 32
RELOADED = {"applied": True, "files": ["F"], "plan": [], "settings": ["keys"], "unchanged": ["qwen"]}
SECRET = re.compile(r"muxd-[A-Za-z0-9_-]{43}\n")


@pytest.fixture
def config(elsewhere):
    """Where muxctl finds it: in the working directory."""
    path = elsewhere / "work/muxd.toml"
    path.write_text(MAIN)
    return path


@pytest.fixture
def file(config):
    return config.parent / "muxd.d/keys.toml"


@pytest.fixture
def written(file):
    return lambda: tomllib.loads(file.read_text())["keys"]


@pytest.fixture
def running(muxd, config):
    """A muxd that runs with it, and takes whatever is reloaded."""
    muxd.scripts["GET /v1/status"] = lambda talk: talk.json({"config": str(config)})
    muxd.scripts["POST /v1/reload"] = lambda talk: talk.json(RELOADED)
    return muxd


def authenticate(config, secret):
    """Who the proxy takes the secret's holder for."""
    ring = Keyring(load_config(config, dict(os.environ)).keys)
    return ring.authenticate(
        Request("POST", b"/", [(b"authorization", b"Bearer " + secret.encode())], b"", "1.1", True)
    )


# add


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


# The first one, and the last


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


# The file itself


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o600])
def test_who_may_read_the_configuration_may_read_the_keys(muxctl, config, file, mode):
    config.chmod(mode)
    config.parent.chmod(0o750)
    muxctl("keys", "add", "alice")
    assert stat.S_IMODE(file.stat().st_mode) == mode
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o750


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give a file away")
def test_whose_the_configuration_is_theirs_are_the_keys(muxctl, config, file):
    os.chown(config, 1234, 2345)
    os.chown(config.parent, 1234, 2345)
    muxctl("keys", "add", "alice")
    muxctl("keys", "add", "bob")
    assert [(path.stat().st_uid, path.stat().st_gid) for path in (file, file.parent)] == [(1234, 2345)] * 2


def test_what_everybody_may_write_is_not_followed(muxctl, config, file):
    config.chmod(0o666)
    config.parent.chmod(0o1777)
    muxctl("keys", "add", "alice")
    assert stat.S_IMODE(file.stat().st_mode) == 0o664
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o775


def test_nothing_but_the_file_is_left_in_the_folder(muxctl, config, file):
    muxctl("keys", "add", "alice")
    muxctl("keys", "add", "Alice")
    assert list(file.parent.iterdir()) == [file]


def test_a_link_that_switches_the_file_off_is_not_replaced(muxctl, config, file):
    file.parent.mkdir()
    file.symlink_to(os.devnull)
    code, out, err = muxctl("keys", "add", "alice")
    assert (code, out) == (1, "")
    assert err.splitlines()[-1] == f"muxctl: {file} is a link; put a file in its place, or remove it"


def test_a_folder_that_cannot_be_is_told(muxctl, config, file):
    file.parent.write_text("")
    code, out, err = muxctl("keys", "add", "alice")
    assert (code, out) == (2, "")
    assert f"{file.parent}: cannot be read" in err


def test_adds_at_the_same_time_come_one_after_the_other(process, config, written):
    names = [f"key{number}" for number in range(4)]
    env = {"PYTHONPATH": str(ROOT)}
    started = [process("keys", "add", name, "--config", str(config), env=env) for name in names]
    told = [child.communicate(timeout=60)[0].strip() for child in started]
    assert sorted(key["name"] for key in written()) == names
    assert len({authenticate(config, secret).name for secret in told}) == 4


def test_an_add_waits_for_the_one_before_it(process, config, file):
    file.parent.mkdir()
    lock = os.open(file.parent, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    child = process("keys", "add", "alice", "--config", str(config))
    try:
        _wait_until_it_waits(child.pid)
        assert not file.exists()
    finally:
        os.close(lock)
    assert child.communicate(timeout=60)[0]
    assert file.exists()


def _wait_until_it_waits(pid):
    """Until the kernel lists it as one who wants a lock that another has: proc_locks(5), "->"."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with open("/proc/locks") as locks:
            if any(" -> " in line and f" {pid} " in line for line in locks):
                return
    pytest.fail("it did not wait for the lock")


# list


def test_keys_of_every_file_are_a_table(muxctl, config, file):
    config.write_text(f'{MAIN}[[keys]]\nname = "own"\nsecret_sha256 = "{HASH}"\npriority = 2\nexpires = 2001-01-01\n')
    muxctl("keys", "add", "alice", "--models", "qwen,llama", "--requests-per-minute", "60", "--expires", "2999-01-31")
    muxctl("keys", "add", "bob", "--no-comments")
    muxctl("keys", "revoke", "bob")
    assert muxctl("keys", "list") == (
        0,
        f"""\
NAME   MODELS      RPM  PRIORITY  COMMENTS  EXPIRES                    STATE    FILE
own    all           -         2  yes       2001-01-01T00:00:00+00:00  expired  {config}
alice  qwen,llama   60         0  yes       2999-01-31T00:00:00+00:00  active   {file}
bob    all           -         0  no        never                      revoked  {file}
""",
        "",
    )


def test_keys_in_json_have_their_lines_and_no_hash(muxctl, config, file):
    muxctl("keys", "add", "alice", "--models", "qwen")
    code, out, _ = muxctl("keys", "list", "--json")
    assert (code, json.loads(out)) == (
        0,
        {
            "keys": [
                {
                    "name": "alice",
                    "models": ["qwen"],
                    "requests_per_minute": None,
                    "priority": 0,
                    "comments": True,
                    "expires": None,
                    "state": "active",
                    "file": str(file),
                    "line": 5,
                }
            ]
        },
    )


def test_without_keys_it_is_said_how_to_make_one(muxctl, config):
    assert muxctl("keys", "list") == (0, "no keys; muxctl keys add NAME makes one\n", "")


def test_what_cannot_be_read_is_told_below_what_can(muxctl, config, file):
    config.write_text(
        MAIN + '[[keys]]\nname = "a\\u001b[m"\nmodels = "qwen"\nexpires = "soon"\nrequests_per_minute = "x"\n'
    )
    file.parent.mkdir()
    (file.parent / "a.toml").write_text("=")
    (file.parent / "b.toml").write_text("keys = 1")
    code, out, err = muxctl("keys", "list")
    assert (code, out.splitlines()[1:]) == (2, [f"a [m  qwen      x         0  yes       soon     active  {config}"])
    assert "not all files can be read:" in err
    assert f"{file.parent}/a.toml:1: not TOML" in err
    assert f"{file.parent}/b.toml: keys: not an array of tables" in err


# revoke


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


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["revoke"], "muxctl keys revoke takes the name of a key"),
        (["list", "alice"], "muxctl keys list takes no name"),
        (["list", "--priority", "1"], "--priority is for muxctl keys add"),
        (["revoke", "alice", "--expires", "30d"], "--expires is for muxctl keys add"),
        (["remove", "alice"], "no such action: remove; did you mean revoke?"),
    ],
)
def test_words_that_do_not_go_together_are_told(muxctl, config, words, said):
    code, out, err = muxctl("keys", *words)
    assert (code, out) == (2, "")
    assert said in err


def test_the_verb_itself_loads_no_configuration_before_it_needs_one():
    code = "import sys, muxctl.keys; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert not {"muxd.config", "tomli_w", "trio", "secrets"} & set(loaded.split())
