"""`muxd start --validate MODEL`: what llmux has, a muxd for the length of one validation."""

import signal
import subprocess
import sys

import pytest

from tests.ports import free_port
from tests.seeds import thorough

from .conftest import two_models
from .muxd import CONFIG, DEADLINE, Muxd, eventually


@pytest.fixture
def muxd(tmp_path):
    """`muxd(*words)`: a started `muxd start` with two simulated models, all of whose processes end with it."""
    started = []

    def muxd(*words, models=None):
        text = CONFIG.format(folder=tmp_path, port=free_port(), models=models or two_models(), daemon="", proxy="")
        (tmp_path / "muxd.toml").write_text(text)
        argv = [sys.executable, "-m", "muxd", "start", "--config", str(tmp_path / "muxd.toml"), *words]
        started.append(subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
        return started[-1]

    yield muxd
    watcher = Muxd.__new__(Muxd)
    watcher.folder = tmp_path
    try:
        eventually(lambda: not watcher.left_behind(), f"nothing left behind, but: {watcher.left_behind()}")
    finally:
        watcher.sweep()
        for process in started:
            process.kill()
            process.communicate()


def test_a_model_is_validated_and_muxd_is_gone_again(muxd, tmp_path):
    process = muxd("--validate", "org/alpha", "--levels", "1,2")
    out, err = process.communicate(timeout=DEADLINE)
    assert process.returncode == 0, err
    rows = [line.split() for line in out.splitlines()]
    assert [(row[0], row[-1]) for row in rows if row[0].isdigit()] == [
        ("1", "ok"),
        ("1", "ok"),
        ("2", "ok"),
        ("2", "ok"),
    ]
    assert err == "", "muxd's own log is for --verbose"
    assert not (tmp_path / "muxd.sock").exists()


@pytest.mark.thorough
def test_verbose_shows_muxds_own_log(muxd):
    process = muxd("--validate", "alpha", "--levels", "1", "--verbose")
    _, err = process.communicate(timeout=DEADLINE)
    assert process.returncode == 0
    assert "muxd.supervisor.commands: alpha: " in err


@pytest.mark.thorough
def test_a_level_that_fails_is_status_1(muxd):
    process = muxd(
        "--validate", "alpha", "--levels", "2", models=two_models(alpha='faults = ["wake-wrong"]', levels=(2, 2))
    )
    out, err = process.communicate(timeout=DEADLINE)
    assert process.returncode == 1, (out, err)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--validate", "alpah"], "muxd start: no model alpah; did you mean alpha?"),
        (["--levels", "1"], "muxd start: --levels goes with --validate MODEL"),
        *thorough(
            (
                ["--validate", "alpha", "--levels", "9"],
                "muxd start: argument --levels: levels are 0 to 3, with commas between them, not '9'\n",
            ),
            (["--validate", "alpha", "--levels", ""], "muxd start: argument --levels: levels are 0 to 3, "),
            (["--verbose"], "muxd start: --verbose goes with --validate MODEL; did you mean --log-level debug?"),
        ),
    ],
)
def test_what_is_wrong_is_told_before_anything_is_started(muxd, words, told):
    process = muxd(*words)
    out, err = process.communicate(timeout=DEADLINE)
    assert (process.returncode, out) == (2, "")
    assert told in err
    assert "muxctl" not in err


def test_beside_a_muxd_that_runs_it_is_told_to_ask_that_one(muxd, tmp_path):
    first = muxd()
    eventually(lambda: (tmp_path / "muxd.sock").exists(), "the first is up")
    second = muxd("--validate", "alpha")
    _, err = second.communicate(timeout=DEADLINE)
    assert second.returncode == 1
    assert f"a muxd runs already at {tmp_path}/muxd.sock: ask it, with muxctl validate alpha" in err
    first.terminate()
    assert first.wait(DEADLINE) == 0


@pytest.mark.parametrize("signum", [signal.SIGTERM, *thorough(signal.SIGINT)])
def test_told_to_end_it_ends_its_muxd(muxd, tmp_path, signum):
    process = muxd("--validate", "alpha", models=two_models(alpha='faults = ["load-time=60"]'))
    eventually(lambda: (tmp_path / "muxd.sock").exists(), "it is up")
    process.send_signal(signum)
    assert process.wait(DEADLINE) in (128 + signum, 130)
