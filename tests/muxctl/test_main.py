import os
import pty
import subprocess
import sys

import pytest

from muxctl.__main__ import VERBS
from muxd import __version__

from .test_status import READY, STATUS


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ((), "say what to do: status, switch, logs, events, shutdown; muxctl --help tells more"),
        (("statsu",), "no such verb: statsu; did you mean status?"),
        (("frobnicate",), "no such verb: frobnicate; there are status, switch, logs, events, shutdown"),
        (("--socket", "/x"), "say what to do: status, switch, logs, events, shutdown; muxctl --help tells more"),
    ],
)
def test_what_is_no_command_is_one_line_and_exit_2(muxctl, argv, said):
    assert muxctl(*argv) == (2, "", f"muxctl: {said}\n")


def test_help_names_every_verb_and_exit_code(muxctl):
    code, out, err = muxctl("--help")
    assert (code, err) == (0, "")
    assert all(f"\n  {verb} " in out for verb in VERBS)
    assert "7 muxd unreachable, 8 timed out, 9 superseded" in out


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_of_its_own(muxctl, verb):
    code, out, err = muxctl(verb, "--help")
    assert (code, err) == (0, "")
    assert out.startswith(f"usage: muxctl {verb} ")


def test_the_version_is_muxds(muxctl):
    assert muxctl("--version") == (0, f"muxctl {__version__}\n", "")


def test_an_option_nobody_knows_is_exit_2(muxctl):
    code, _, err = muxctl("status", "--fast")
    assert (code, err.splitlines()[-1]) == (2, "muxctl status: error: unrecognized arguments: --fast")


def test_a_plain_status_imports_nothing_that_is_slow(muxd):
    muxd.scripts["GET /v1/status"] = lambda talk: talk.json(STATUS)
    code = (
        "import sys; from muxctl.__main__ import main; main(['status', '--socket', sys.argv[1]]); "
        "print(*sorted({name.partition('.')[0] for name in sys.modules}), file=sys.stderr)"
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


def test_a_terminal_gets_colours(muxd, process):
    muxd.scripts["GET /v1/status"] = lambda talk: talk.json(STATUS)
    ours, theirs = pty.openpty()
    child = process("--socket", str(muxd.path), "status", stdout=theirs, env={"TERM": "xterm", "COLUMNS": "200"})
    os.close(theirs)
    with os.fdopen(ours, "rb", buffering=0) as terminal:
        shown = b""
        try:
            while piece := terminal.read(4096):
                shown += piece
        except OSError:  # how Linux says that nobody has the other end any more
            pass
    assert child.wait(20) == 0
    assert b"\x1b[32mready\x1b[0m" in shown
    assert b"\x1b[1mMODEL" in shown


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
    assert child.communicate(timeout=20)[1] == "muxctl: [Errno 28] No space left on device\n"
    assert child.returncode == 1


def test_a_muxd_of_another_version_is_one_line(muxd, muxctl):
    muxd.scripts["GET /v1/status"] = lambda talk: talk.json({"version": "9.0.0"})
    code, out, err = muxctl("status")
    assert (code, out) == (1, "")
    assert err == "muxctl: muxd's answer has no 'proxy'; are muxd and muxctl of one version?\n"
