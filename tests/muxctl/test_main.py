import os
import signal
import subprocess
import sys
from functools import partial

import pytest

from muxctl.cli import VERBS
from muxd import __version__

from .test_status import READY, STATUS

ALL = ", ".join(VERBS)
SHOWN = f"muxctl {__version__}\n"


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ((), f"say what to do: {ALL}; muxctl --help tells more"),
        (("--socket", "/x"), f"say what to do: {ALL}; muxctl --help tells more"),
        (("statsu",), "no such verb: statsu; did you mean status?"),
        (("stat",), "no such verb: stat; did you mean status?"),
        (("st",), "no such verb: st; did you mean status, start or stop?"),
        (("rel", "--dry-run"), "no such verb: rel; did you mean reload?"),
        (("ps",), "no such verb: ps; did you mean status?"),
        (("models",), "no such verb: models; did you mean status?"),
        (("run", "a"), "no such verb: run; did you mean switch or start?"),
        (("wake", "qwen"), "no such verb: wake; did you mean switch or start?"),
        (("version",), "no such verb: version; did you mean --version?"),
        (("delete", "a"), "no such verb: delete; did you mean stop, or take it out of muxd.toml and reload?"),
        (("setup",), "no such verb: setup; did you mean muxd init?"),
        (("--host", "x", "status"), "no such option: --host; muxctl talks to the muxd of this host, at --socket PATH"),
        (("--hots", "x", "status"), "no such option: --hots; there are --help, --json, --socket, --version"),
        (("--verbose",), "no such option: --verbose; muxctl status NAME tells everything about a model"),
        (("frobnicate",), f"no such verb: frobnicate; there are {ALL}"),
    ],
)
def test_what_is_no_command_is_one_line_and_exit_2(muxctl, argv, said):
    assert muxctl(*argv) == (2, "", f"muxctl: {said}\n")


def test_the_version_is_muxds(muxctl):
    for option in ("--version", "-V"):
        assert muxctl(option) == (0, f"muxctl {__version__}\n", "")


def test_a_verbs_option_may_stand_before_it_with_its_value(muxd, muxctl):
    muxd.scripts["GET /v1/models/x/logs?lines=5&follow=0&stream=both"] = lambda talk: talk.json({"lines": []})
    assert muxctl("-n", "5", "logs", "x")[0] == 0
    assert muxctl("--json", "-n", "5", "logs", "x")[0] == 0


def test_an_abbreviated_socket_before_the_verb_has_its_value(muxctl):
    for words in (("--sock", "/nowhere"), ("--sock=/nowhere",)):
        code, _, err = muxctl(*words, "status")
        assert (code, "no socket at /nowhere" in err) == (7, True)


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (("keys", "ad"), "no such action: ad; did you mean add?"),
        (("keys", "ls"), "no such action: ls; did you mean list?"),
        (("keys", "remove", "x"), "no such action: remove; did you mean revoke?"),
        (("keys", "create", "x"), "no such action: create; did you mean add?"),
        (("keys", "frob"), "no such action: frob; there are add, list, revoke"),
        (("keys",), "what of them? muxctl keys ACTION: add, list, revoke"),
        (("completion", "ksh"), "no such shell: ksh; there are bash, zsh, fish"),
        (("logs", "x", "--stream", "std"), "no such stream: std; did you mean stdout or stderr?"),
        (("stop", "--no", "x"), "--no is the beginning of --now and --no-wait; write one of them in full"),
        (
            ("events", "--grep", "x"),
            "no such option: --grep; there are --after, --follow, --help, --json, "
            "--lines, --since, --socket, --type, --until",
        ),
        (("reload", "x"), "unrecognized arguments: x; muxctl reload takes no name"),
        (
            ("shutdown", "x"),
            "unrecognized arguments: x; muxctl shutdown takes no name: muxctl stop NAME ends one model",
        ),
        (
            ("lend", "0", "sh", "-c", "x"),
            "-c is none of muxctl lend; an option of COMMAND goes behind --: muxctl lend GPU -- COMMAND",
        ),
        (("lend", "--", "true"), "on which GPU, and which command? muxctl lend GPU -- COMMAND"),
        (("lend", "0"), "on which GPU, and which command? muxctl lend GPU -- COMMAND"),
        (("reload", "--check"), "no such option: --check; did you mean --dry-run?"),
        (
            ("switch", "--model", "x", "y"),
            "no such option: --model; a model is named without an option: muxctl VERB NAME",
        ),
    ],
)
def test_a_word_that_a_verb_does_not_know_is_told_with_what_was_meant(muxctl, argv, said):
    code, _, err = muxctl(*argv)
    assert (code, err.splitlines()[-1]) == (2, f"muxctl {argv[0]}: error: {said}")


def test_a_verb_without_a_model_names_those_that_there_are(muxd, muxctl):
    muxd.scripts["GET /v1/status"] = lambda talk: talk.json(STATUS)
    names = ", ".join(model["name"] for model in STATUS["models"])
    assert names
    assert muxctl("stop")[2].endswith(f"error: of which model? muxctl stop NAME: {names}\n")
    for socket in (("--socket", "/nowhere"), ("--socket=/nowhere",)):
        code, _, err = muxctl("switch", *socket)
        assert (code, err.splitlines()[-1]) == (
            2, "muxctl switch: error: of which model? muxctl switch NAME; muxctl status lists them"
        )  # fmt: skip


def test_an_option_nobody_knows_is_exit_2(muxctl):
    code, _, err = muxctl("status", "--fast")
    there_are = "there are --help, --json, --socket, --watch"
    assert (code, err.splitlines()[-1]) == (2, f"muxctl status: error: no such option: --fast; {there_are}")
    assert "unrecognized arguments: beta; one model at a time" in muxctl("switch", "alpha", "beta")[2]


@pytest.mark.parametrize(
    ("argv", "meant"),
    [
        (("status", "--wacth"), "--watch"),
        (("reload", "--dryrun"), "--dry-run"),
        (("stop", "x", "--nowait"), "--no-wait"),
    ],
)
def test_a_misspelled_option_is_told_from_the_right_one(muxctl, argv, meant):
    code, _, err = muxctl(*argv)
    assert code == 2
    assert err.endswith(f"no such option: {argv[-1]}; did you mean {meant}?\n")


#: A module of the standard library that takes until a line on stdin to load.
SLOW = """
import sys
print("loading", flush=True)
sys.stdin.readline()
sys.path.remove({!r})
del sys.modules["argparse"]
import argparse
"""


@pytest.mark.parametrize(("at_start", "ended"), [(signal.SIG_DFL, (-signal.SIGINT, "")), (signal.SIG_IGN, (0, SHOWN))])
def test_an_interrupt_while_muxctl_is_loaded_ends_it_without_a_word_unless_it_is_ignored(
    process, short_dir, at_start, ended
):
    (short_dir / "argparse.py").write_text(SLOW.format(str(short_dir)))
    child = process(
        "--version",
        env={"PYTHONPATH": str(short_dir)},
        stdin=subprocess.PIPE,
        preexec_fn=partial(signal.signal, signal.SIGINT, at_start),
    )
    assert child.stdout.readline() == "loading\n"
    child.send_signal(signal.SIGINT)
    out, err = child.communicate("\n", timeout=20)
    assert ((child.returncode, out), err) == (ended, "")


def test_a_plain_status_imports_nothing_that_is_slow(muxd):
    muxd.scripts["GET /v1/status"] = lambda talk: talk.json(STATUS)
    code = (
        "import sys; from muxctl.cli import main; main(['status', '--socket', sys.argv[1]]); "
        "print(*sorted({name.partition('.')[0] for name in sys.modules if sys.modules[name]}), file=sys.stderr)"
    )
    command = [
        sys.executable,
        "-I",
        "-S",
        "-c",
        f"import sys; sys.path.insert(0, {os.getcwd()!r}); {code}",
        str(muxd.path),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    assert done.stdout.startswith("muxd 0.1.0, pid 4242")
    loaded = set(done.stderr.split())
    assert not loaded & {"rich", "http", "trio", "httpx", "typing_extensions", "dataclasses", "tomllib", "pathlib"}


def test_a_terminal_gets_colours(muxd, terminal):
    muxd.scripts["GET /v1/status"] = lambda talk: talk.json(STATUS)
    shown = terminal("--socket", str(muxd.path), "status", columns=200)
    assert shown.ended() == 0
    assert "\x1b[32mready\x1b[0m" in shown.text
    assert "\x1b[1mMODEL" in shown.text


def test_a_reader_that_is_gone_is_no_error(muxd, process):
    muxd.scripts["GET /v1/models/qwen"] = lambda talk: talk.json(READY)
    reader, writer = os.pipe()
    os.close(reader)
    child = process("--socket", str(muxd.path), "status", "qwen", stdout=writer)
    os.close(writer)
    assert child.communicate(timeout=20)[1] == ""
    assert child.returncode == 141


def test_a_full_disk_is_one_line(muxd, process):
    muxd.scripts["GET /v1/models/qwen"] = lambda talk: talk.json(READY)
    with open("/dev/full", "w") as full:
        child = process("--socket", str(muxd.path), "status", "qwen", stdout=full)
    assert child.communicate(timeout=20)[1] == "muxctl: cannot go on: no space left on device\n"
    assert child.returncode == 1


def test_a_muxd_of_another_version_is_one_line(muxd, muxctl):
    muxd.scripts["GET /v1/status"] = lambda talk: talk.json({"version": "9.0.0"})
    code, out, err = muxctl("status")
    assert (code, out) == (1, "")
    assert err == "muxctl: muxd's answer has no 'proxy'; are muxd and muxctl of one version?\n"
