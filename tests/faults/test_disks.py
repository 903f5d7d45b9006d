"""The disks of the logs and of the state are full, read-only, broken (EIO), or gone: row 13 and 13.7."""

import os
import re
import shutil
import signal
from collections.abc import Callable

import pytest

from tests.end_to_end.conftest import two_models
from tests.end_to_end.muxd import Muxd, eventually

from .conftest import Disk, FailingDisk, ReadOnly, SmallDisk
from .oracles import judged

#: What the system says of a disk that is spoilt.
REFUSED = re.compile("no space left on device|operation not permitted|read-only|input/output error", re.IGNORECASE)

#: A log file of 1 MiB, and two older ones.
SMALL_LOG = 'log_max_bytes = "1MiB"\nlog_backups = 2'

NAMES = ("alpha", "beta")


def with_alpha_awake(start: Callable[..., Muxd]) -> tuple[Muxd, dict[str, int]]:
    """A muxd whose alpha is ready and whose beta sleeps, and their pids."""
    muxd = start(two_models())
    for name in ("beta", "alpha"):
        muxd.ask(name)
    muxd.until_state("beta", "asleep")
    return muxd, {name: muxd.status(name)["pid"] for name in NAMES}


def test_without_a_disk_for_its_state_models_switch_and_the_file_is_right_again_soon(
    disk: Callable[[str], Disk], start: Callable[..., Muxd]
) -> None:
    state = disk("state")
    muxd = start(two_models())
    texts = {name: muxd.ask(name) for name in NAMES}
    before = {name: muxd.status(name)["pid"] for name in NAMES}
    with judged(muxd):
        state.spoil()
        for name in ("alpha", "beta", "alpha"):
            assert muxd.ask(name) == texts[name]
        assert "cannot write the state file" in muxd.log
        state.mend()
        assert muxd.ask("beta") == texts["beta"]
    muxd.kill()
    muxd.start_again()
    assert {name: muxd.status(name)["pid"] for name in NAMES} == before, "they are taken over, as the file says"
    assert muxd.ask("alpha") == texts["alpha"]


def test_a_switch_without_a_disk_for_its_state_is_known_to_the_next_muxd(
    disk: Callable[[str], Disk], start: Callable[..., Muxd]
) -> None:
    """A switch that is on no record, and then muxd is killed: the former record has the sleeper awake."""
    state = disk("state")
    muxd, before = with_alpha_awake(start)
    state.spoil()
    muxd.ask("beta")
    muxd.until_state("alpha", "asleep")
    muxd.kill()
    state.mend()
    muxd.start_again()
    assert {name: muxd.state(name) for name in NAMES} == {"alpha": "asleep", "beta": "ready"}
    assert {name: muxd.status(name)["pid"] for name in NAMES} == before
    for name in ("alpha", "beta"):
        assert muxd.ask(name)


@pytest.mark.parametrize("disk", ["full", "mounted read-only"], indirect=True)
def test_a_muxd_that_is_started_without_a_disk_for_its_state_takes_over(
    disk: Callable[[str], Disk], start: Callable[..., Muxd]
) -> None:
    """Not even the few bytes of its pid can be written; what was awake serves, and muxd says what it cannot keep."""
    state = disk("state")
    muxd, before = with_alpha_awake(start)
    os.truncate(muxd.folder / "state" / "muxd.lock", 0)
    state.spoil()
    muxd.kill()
    muxd.start_again()
    assert {name: muxd.status(name)["pid"] for name in NAMES} == before
    assert muxd.ask("alpha")
    assert "cannot write the state file" in muxd.log
    assert "Traceback" not in muxd.log
    if isinstance(state, ReadOnly):
        state.mend()  # a simulated server that wakes writes down there what it has of its GPU
    for name in ("beta", "alpha"):
        assert muxd.ask(name)
    if isinstance(state, SmallDisk):
        state.mend()


def test_a_start_without_a_disk_for_its_state_is_told_and_is_made_again(
    disk: Callable[[str], Disk], start: Callable[..., Muxd]
) -> None:
    state = disk("state")
    muxd = start(two_models(alpha_keys="restart_limit = 2"))
    muxd.ask("beta")
    with judged(muxd):
        state.spoil()
        assert muxd.switch("alpha")["type"] == "failed"
        assert REFUSED.search(muxd.status("alpha")["last_exit"]["reason"])
        state.mend()
        assert muxd.switch("alpha")["type"] == "ready"
        assert muxd.ask("alpha")


def test_without_a_disk_for_its_log_a_model_answers_and_what_is_lost_is_counted(
    disk: Callable[[str], Disk], start: Callable[..., Muxd]
) -> None:
    logs = disk("logs")
    muxd = start(two_models(alpha='faults = ["log-flood=2000000"]', alpha_keys=SMALL_LOG))
    text = muxd.ask("alpha")
    with judged(muxd):
        logs.spoil()
        eventually(lambda: muxd.status("alpha")["dropped_log_now"], "that its log is lost is told")
        dropped = muxd.status("alpha")
        assert dropped["dropped_log_bytes"] > 0
        assert REFUSED.search(dropped["dropped_log_reason"])
        assert muxd.ask("alpha") == text
        logs.mend()
        eventually(lambda: not muxd.status("alpha")["dropped_log_now"], "and that it is written again")
        assert muxd.ask("alpha") == text
    sizes = [file.stat().st_size for file in (muxd.folder / "logs").glob("alpha.*")]
    assert max(sizes) <= (1 << 20) + (1 << 17)


@pytest.mark.parametrize("name", ["logs", "state/state.json", "state/children"])
def test_a_folder_that_is_removed_under_it_costs_no_request(start: Callable[..., Muxd], name: str) -> None:
    muxd = start(two_models())
    texts = {model: muxd.ask(model) for model in NAMES}
    removed = muxd.folder / name
    with judged(muxd):
        shutil.rmtree(removed) if removed.is_dir() else removed.unlink()
        for model in ("alpha", "beta", "alpha"):
            assert muxd.ask(model) == texts[model]
        os.kill(muxd.status("alpha")["pid"], signal.SIGKILL)
        assert muxd.ask("alpha") == texts["alpha"], "it is started again"
    assert removed.exists()


def test_a_flood_in_the_log_delays_nobody_and_keeps_to_its_bound(start: Callable[..., Muxd]) -> None:
    muxd = start(two_models(alpha='faults = ["log-flood=50000000"]', alpha_keys=SMALL_LOG))
    text = muxd.ask("alpha")
    with judged(muxd) as witness:
        for _ in range(5):
            assert muxd.ask("alpha") == text
        eventually(lambda: len(list((muxd.folder / "logs").glob("alpha.stdout*"))) == 3, "its log was rotated")
        assert muxd.muxctl("logs", "alpha", "--lines", "5").returncode == 0
        sizes = [file.stat().st_size for file in (muxd.folder / "logs").glob("alpha.stdout*")]
        assert max(sizes) <= (1 << 20) + (1 << 17)
    print(f"the status took {1000 * witness.slowest:.0f} ms at the most")


def test_a_broken_disk_for_its_state_costs_no_request(
    failing_disk: Callable[[str], FailingDisk], start: Callable[..., Muxd]
) -> None:
    """Every write there fails with EIO, and the disk is lost with it: who is awake answers, muxd answers and ends well.

    The simulated GPUs' memory is on record there, too, so that nobody can be woken.
    """
    state = failing_disk("state")
    muxd = start(two_models())
    text = muxd.ask("alpha")
    with judged(muxd):
        state.spoil()
        for _ in range(5):
            assert muxd.ask("alpha") == text
        assert muxd.muxctl("stop", "alpha").returncode == 0, "an operator is obeyed"
        eventually(lambda: "input/output error" in muxd.log, "the reason is told")
        assert muxd.muxctl("status").returncode == 0
    assert "Traceback" not in muxd.log


def test_a_broken_disk_for_its_logs_costs_no_request(
    failing_disk: Callable[[str], FailingDisk], start: Callable[..., Muxd]
) -> None:
    logs = failing_disk("logs")
    muxd = start(two_models(alpha='faults = ["log-flood=200000"]', alpha_keys=SMALL_LOG))
    texts = {name: muxd.ask(name) for name in ("beta", "alpha")}
    with judged(muxd):
        logs.spoil()
        eventually(lambda: muxd.status("alpha")["dropped_log_now"], "that its log is lost is told")
        for name in ("alpha", "beta", "alpha"):
            assert muxd.ask(name) == texts[name]
        assert muxd.status("alpha")["dropped_log_bytes"] > 0
        assert REFUSED.search(muxd.status("alpha")["dropped_log_reason"])
