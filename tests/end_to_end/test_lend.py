"""GPUs that are lent to a command, and given up for a while: with real processes."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from .conftest import two_models
from .muxd import Muxd, eventually
from .test_idling import error_of


@contextmanager
def lending(muxd: Muxd, *words: str) -> Iterator[subprocess.Popen[str]]:
    """A `muxctl lend` that runs; it and its command are ended with the context."""
    argv = [sys.executable, "-m", "muxctl", "lend", "--socket", str(muxd.socket), *words]
    lender = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=muxd.folder)
    try:
        yield lender
    finally:
        lender.terminate()
        lender.communicate(timeout=30)


def loans(muxd: Muxd) -> list[dict[str, object]]:
    return muxd.control("GET", "/v1/status").json()["loans"]  # type: ignore[no-any-return]


def until_lent(muxd: Muxd) -> int:
    """The pid of the borrower, once it runs."""
    return int(eventually(lambda: loans(muxd) and loans(muxd)[0]["pid"], "the command runs on the GPU"))


def test_when_muxctl_ends_the_gpu_is_back_and_can_be_lent_again_at_once(start):
    muxd = start()
    for status in (0, 5):
        lent = muxd.muxctl("lend", "0", "--", "sh", "-c", f"exit {status}")
        assert (lent.returncode, loans(muxd)) == (status, [])


def test_a_command_has_the_gpu_while_models_sleep_and_what_waited_comes_back(start):
    muxd = start()
    text = muxd.ask("alpha")
    shows = "import os, sys; print(os.environ['CUDA_VISIBLE_DEVICES'], flush=True); sys.stdin.read()"
    argv = [
        sys.executable,
        "-m",
        "muxctl",
        "lend",
        "--socket",
        str(muxd.socket),
        "0",
        "--",
        sys.executable,
        "-c",
        shows,
    ]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as lender:
        assert lender.stdout is not None
        assert lender.stdin is not None
        assert lender.stdout.readline() == "0\n"
        until_lent(muxd)
        assert muxd.state("alpha") == "asleep"
        assert "GPU 0 is lent" in muxd.muxctl("status").stdout
        assert muxd.muxctl("switch", "alpha").returncode == 3
        with ThreadPoolExecutor(1) as client:
            waiting = client.submit(muxd.ask, "alpha")
            eventually(lambda: muxd.status("alpha")["waiting"] == 1, "it waits")
            assert muxd.status("alpha")["next"] == "waits until its GPU is given back: it is lent"
            assert muxd.state("alpha") == "asleep"
            lender.stdin.close()
            assert waiting.result() == text
        assert lender.wait(30) == 0
    assert loans(muxd) == []


@pytest.mark.thorough
def test_the_exit_status_is_the_commands_and_the_models_come_back_by_themselves(start):
    muxd = start()
    muxd.ask("beta")
    ended = muxd.muxctl("lend", "0", "--", "sh", "-c", "exit 7")
    assert ended.returncode == 7
    eventually(lambda: muxd.state("beta") == "ready", "it is back")


@pytest.mark.thorough
def test_a_crash_of_muxd_changes_nothing_for_the_borrower(start):
    muxd = start()
    muxd.ask("alpha")
    with lending(muxd, "0", "--refuse", "--", "sleep", "60"):
        pid = until_lent(muxd)
        muxd.kill()
        os.kill(pid, 0)
        muxd.start_again()
        assert [loan["pid"] for loan in loans(muxd)] == [pid]
        status, code, message = error_of(muxd, "alpha")
        assert (status, code, "GPU 0 is lent" in message) == (503, "gpu_lent", True)
        os.killpg(pid, signal.SIGTERM)
        eventually(lambda: loans(muxd) == [], "muxd has seen its end")
        assert muxd.ask("alpha").startswith("org/alpha")


@pytest.mark.thorough
def test_a_borrower_outlives_its_muxctl_and_the_loan_lasts_as_long_as_any_process_of_it(start):
    muxd = start()
    with lending(muxd, "0", "--", "sh", "-c", "sleep 60 & wait") as lender:
        pid = until_lent(muxd)
        lender.kill()
        lender.wait()
        os.kill(pid, signal.SIGKILL)  # the leader alone; its child is left in the process group
        assert [loan["pid"] for loan in loans(muxd)] == [pid]
        os.killpg(pid, signal.SIGKILL)
        eventually(lambda: loans(muxd) == [], "nothing of it is left")


@pytest.mark.thorough
def test_a_preemptible_borrower_is_ended_for_a_request_that_waits(start):
    muxd = start()
    muxd.ask("alpha")
    with lending(muxd, "0", "--preemptible", "--", "sleep", "60") as lender:
        until_lent(muxd)
        assert muxd.ask("alpha").startswith("org/alpha")
        assert lender.wait(30) == 128 + signal.SIGTERM
        assert lender.stderr is not None
        assert "the GPU is wanted back: a request waits for alpha" in lender.stderr.read()


@pytest.mark.thorough
def test_a_loan_has_a_time_also_where_no_muxctl_is_left(start):
    muxd = start()
    with lending(muxd, "0", "--for", "3s", "--", "sleep", "60") as lender:
        until_lent(muxd)
        lender.kill()
        lender.wait()
        eventually(lambda: loans(muxd) == [], "muxd itself has ended the command")


@pytest.mark.thorough
def test_a_gpu_with_a_pinned_model_and_one_that_is_not_there_are_not_lent(start):
    muxd = start(two_models(alpha_keys="pinned = true"))
    muxd.ask("alpha")
    refused = muxd.muxctl("lend", "0", "--", "true")
    assert (refused.returncode, "alpha is pinned" in refused.stderr) == (3, True)
    refused = muxd.muxctl("lend", "9", "--", "true")
    assert (refused.returncode, "no model may use GPU 9" in refused.stderr) == (1, True)
    refused = muxd.muxctl("lend", "0", "--", "/no/such/program")
    assert refused.returncode == 3


@pytest.mark.thorough
def test_all_models_sleep_for_a_while_across_a_restart_of_muxd_and_then_come_back(start):
    muxd = start(two_models(alpha_keys="pinned = true"))
    text = muxd.ask("alpha")
    given = muxd.muxctl("yield", "--refuse")
    assert (given.returncode, "every model sleeps" in given.stdout, muxd.state("alpha")) == (0, True, "asleep")
    assert error_of(muxd, "beta")[:2] == (503, "gpu_lent")
    muxd.kill()
    muxd.start_again()
    assert error_of(muxd, "beta")[:2] == (503, "gpu_lent")
    assert muxd.muxctl("yield").returncode == 3
    assert muxd.muxctl("yield", "--end").returncode == 0
    eventually(lambda: muxd.state("alpha") == "ready", "it is back")
    assert muxd.ask("alpha") == text
    assert muxd.muxctl("yield", "--end").returncode == 3


@pytest.mark.thorough
def test_a_yield_ends_by_itself(start):
    muxd = start()
    muxd.ask("alpha")
    lines = muxd.control("POST", "/v1/loans", {"borrowed": False, "for_s": 1.0}).text.splitlines()
    assert [json.loads(line)["type"] for line in lines] == ["lent"]
    eventually(lambda: muxd.state("alpha") == "ready", "it is back")
