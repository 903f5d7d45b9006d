"""`muxd`'s command line: what is typed a little wrong gets what was meant."""

import os
import subprocess
import sys

import pytest

from muxd import __version__
from tests.typed import run_muxd
from tests.unprivileged import closed

MODELS = "[models.a]\nengine = 'simulator'\n"


@pytest.fixture
def muxd(monkeypatch, capsys, tmp_path):
    """`muxd(*words)` in an empty directory: its exit status, its stdout and the last line of its stderr."""
    monkeypatch.chdir(tmp_path)

    def run(*words):
        status = run_muxd(*words)
        out, err = capsys.readouterr()
        return status, out, err.splitlines()[-1] if err else ""

    return run


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (["strat"], "did you mean muxd start?"),
        (["chekc", "--config", "x"], "did you mean muxd check?"),
        (["status"], "that is `muxctl status`"),
        (["reload"], "that is `muxctl reload`"),
        (["statuss"], "did you mean muxctl status?"),
        (["stop"], "`muxctl shutdown` stops muxd"),
        (["muxd.toml"], "write `muxd start muxd.toml`"),
        (["frobnicate"], "there are start, proxy, ui, sweep, router, check, init, replay, whatif, import, setup"),
        (["start", "--confg", "x"], "did you mean --config?"),
        (["check", "--listn-port=3"], "did you mean --listen-port?"),
        (["start", "--port", "30100"], "did you mean --listen-port?"),
        (["start", "--prnt"], "; there are --help, --config, "),
        (["init", "--systemd"], "muxd init has no --systemd: `muxd setup --systemd` makes muxd a service"),
        (["init", "--frob"], "; there are --help, --output, "),
        (["init", "--config", "x"], "did you mean --output?"),
        (["init", "--model", "x"], "did you mean --models?"),
        (["init", "x.toml"], "muxd init takes no name; did you mean --output x.toml?"),
        (["proxy", "x.toml"], "muxd proxy takes no name; did you mean --config x.toml?"),
        (["start", "--log-level", "loud"], "--log-level loud is not known; there are debug, info, warning, error"),
        (["start", "--version"], "muxd start has no --version: it is muxd --version, without a command"),
        (["START"], "did you mean muxd start?"),
        (["--Version"], "muxd has no --Version; did you mean --version?"),
        (["demo"], "it is `muxd start --demo`"),
        (["setup"], "muxd setup: say what for: --systemd; examples, alert rules, a dashboard"),
        (["setup", "--systemd", "--user", "--hardened"], "with --user it runs as you"),
        (["create"], "muxd has no command create: `muxd init` writes a first configuration"),
        (["install"], "`muxd init` writes a first configuration, and `muxd setup --systemd` makes muxd a service"),
        (["migrate"], "muxd has no command migrate: `muxd import` reads another program's configuration"),
        (["llmux", "config.json"], "`muxd import llmux FILE` writes a configuration from that of llmux"),
        (["config"], "`muxd init` writes a first configuration, `muxd check` says what is wrong with one"),
        (["stpo"], "did you mean muxctl stop?"),
        (["start", "--debug"], "muxd start has no --debug; did you mean --log-level debug?"),
        (["start", "--log-file=x"], "muxd start has no --log-file; did you mean --log-dir?"),
        (["start", "--socket", "x"], "no --socket: it is a key of the configuration, socket under [muxd]"),
        (
            ["start", "--model", "a/b"],
            "muxd start has no --model: a model is a table [models.NAME] of the configuration",
        ),
        (["start", "--listen", "0.0.0.0:3"], "muxd start has no --listen; did you mean --host?"),
        (
            ["start", "--mod", "3"],
            "--mod is the beginning of --model-ready-timeout-secs and --model-switch-timeout-secs; ",
        ),
        (["proxy", "--debug"], "it is a key of the configuration, log_level under [muxd]"),
        (["--socket", "x", "start"], "muxd has no --socket: it is a key of the configuration, socket under [muxd]"),
        (["--config", "x", "check"], "--config goes behind the command: muxd COMMAND --config"),
        (["serve"], "it is `muxd start`"),
        (["launch"], "it is `muxd start`"),
        (["validate"], "it is `muxd check`"),
        (["test"], "it is `muxd check`"),
        (["ps"], "that is `muxctl status`"),
        (["start", "-c", "m.toml"], "did you mean --config?"),
        (["check", "-c", "m.toml"], "did you mean --config?"),
        (["start", "-x"], "; there are --help, --config, "),
        (["start", "--daemon"], "muxd runs in the foreground; `muxd setup --systemd` makes it a service"),
        (["start", "--demo", "-d"], "muxd runs in the foreground"),
        (["run"], "it is `muxd start`"),
        (["version"], "it is `muxd --version`"),
        (["help"], "it is `muxd --help`"),
        ([], "a command is missing: start, proxy, ui, sweep, router, check, init, replay, whatif, import, setup"),
    ],
)
def test_a_slip_is_told_with_what_was_meant(muxd, words, meant):
    status, _, said = muxd(*words)
    assert status == 2
    assert meant in said


@pytest.mark.parametrize("flag", ["--version", "-V"])
def test_the_version_is_told(muxd, flag):
    assert muxd(flag)[:2] == (0, f"muxd {__version__}\n")


def test_a_flag_that_is_no_other_programs_may_be_abbreviated(muxd):
    status, _, said = muxd("start", "--up", "never")
    assert (status, said) == (
        2, "muxd start: error: argument --upstream-timeout-secs: 'never' is not a time; write seconds"
    )  # fmt: skip


def test_a_toml_file_among_the_scripts_is_the_configuration(muxd, tmp_path):
    (tmp_path / "mine.TOML").write_text(MODELS + "prot = 1\n")
    for command in ("check", "start"):
        status, out, said = muxd(command, "mine.TOML")
        assert (status, "did you mean port?" in out + said) == (2, True)


@pytest.mark.parametrize("words", [["a.toml", "b.toml"], ["--config", "a.toml", "b.toml"]])
def test_one_configuration_at_a_time(muxd, words):
    status, _, said = muxd("check", *words)
    assert (status, "a.toml and b.toml: one configuration" in said) == (2, True)


@pytest.mark.parametrize("name", ["muxd.conf", "muxd", "muxd.yaml"])
def test_a_configuration_of_another_name_is_known_by_its_text(muxd, tmp_path, name):
    for text in (MODELS, "# mine\n\n" + MODELS, 'a = "b"\n', "[[keys]]\n"):
        (tmp_path / name).write_text(text)
        status, _, said = muxd("check", name)
        assert (status, f"{name} looks like a configuration: --config {name}" in said) == (2, True)
    (tmp_path / name).write_text("#!/bin/sh\n[ -f x ] || exit\nA=b\n[[ -f x ]] && y\n")
    assert "looks like" not in muxd("check", name)[2]


def test_a_folder_and_a_script_are_no_configuration(muxd, tmp_path):
    (tmp_path / "k").mkdir()
    assert muxd("check", "k")[2].endswith("k is a folder: give a launch script or a configuration")
    (tmp_path / "k/muxd.toml").touch()
    for words in (("k",), ("--config", "k")):
        assert muxd("check", *words)[2].endswith("k is a folder: its configuration is k/muxd.toml")
    (tmp_path / "a.sh").write_text("#!/bin/bash\nMODEL_NAME=q\n")
    for command in ("check", "start"):
        assert muxd(command, "--config", "a.sh")[2].endswith("a.sh is a launch script: give it without --config")


@pytest.mark.parametrize(
    "words",
    [["check", "--no-host", "--config", "muxd.toml"], pytest.param(["init", "--print"], marks=pytest.mark.thorough)],
)
def test_a_reader_that_is_gone_is_no_error(tmp_path, words):
    (tmp_path / "muxd.toml").write_text("".join(f"[models.a{number}]\nengine = 'simulator'\n" for number in range(40)))
    reader, writer = os.pipe()
    os.close(reader)
    environ = {**os.environ, "HOME": str(tmp_path), "PATH": "/bin"}
    with subprocess.Popen(
        [sys.executable, "-m", "muxd", *words],
        cwd=tmp_path,
        env=environ,
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
    ) as child:
        os.close(writer)
        assert "BrokenPipe" not in child.communicate(timeout=60)[1]
    assert child.returncode == 141


@pytest.mark.parametrize("words", [("check", "--config"), ("start",), ("proxy", "--config"), ("check",)])
def test_a_path_that_this_user_may_not_follow_is_told_in_words(muxd, tmp_path, words):
    folder = tmp_path / "closed"
    folder.mkdir()
    (folder / "muxd.toml").write_text(MODELS)
    (tmp_path / "loop").symlink_to("loop")
    with closed(folder):
        code, _, err = muxd(*words, "closed/muxd.toml")
    assert code == 2
    assert "cannot be read: Permission denied: " in err
    assert "closed is d--------- " in err
    for path in ("loop", "loop/muxd.toml", "x" * 300, "x" * 300 + ".toml"):
        code, out, err = muxd(*words, path)
        assert code == 2
        assert "cannot be read: " in out + err or "has a name that makes none for a model" in out + err


def test_a_script_in_a_folder_that_may_not_be_entered_is_told_with_the_folder(muxd, tmp_path):
    (tmp_path / "closed").mkdir()
    (tmp_path / "closed/a.sh").write_text("exec ./serve")
    with closed(tmp_path / "closed"):
        code, out, _ = muxd("check", "--no-host", "closed/a.sh")
    assert code == 2
    assert "WRONG a       closed/a.sh: models.a.script: cannot be read: Permission denied: " in out
    assert "closed is d--------- " in out


def test_a_working_directory_that_is_gone_is_told(muxd, tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    code, _, err = muxd("check")
    assert (code, err) == (2, "muxd: this folder is gone (No such file or directory); cd to another one")
