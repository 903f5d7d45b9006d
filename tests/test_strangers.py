"""What processes that are not muxd's have on the GPUs: told by process where that means something, else reckoned."""

import os
import subprocess

import pytest

from muxd.gpus import GpuMemory
from muxd.strangers import GiB, StrangerWatch, is_below, reckoned, strangers_among

OURS = 1
KNOWN = {OURS: True, os.getpid(): False, 999_999_999: None}


def reading(used: float, holders: dict[int, int] | None = None) -> dict[str, GpuMemory]:
    return {"0": GpuMemory("0", "a GPU", 80 * GiB, int(used * GiB), holders)}


def found(watch: StrangerWatch) -> str:
    return str(watch.found.get("0", ""))


def test_processes_that_are_not_ours_are_named():
    strangers = strangers_among({OURS: 40 * GiB, os.getpid(): 12 * GiB}, KNOWN.get, has_workers=True)
    assert strangers is not None
    assert strangers.size == 12 * GiB
    assert str(strangers) == f"12.0 GiB held by {strangers.processes[0].program} (pid {os.getpid()}), not muxd's"


def test_of_many_the_largest_are_named_and_the_others_counted():
    holders = {pid: pid * GiB for pid in range(1, 6)}
    strangers = strangers_among(holders, lambda _: False, has_workers=False)
    assert [stranger.pid for stranger in strangers.processes] == [5, 4, 3, 2, 1]
    assert "and 2 more" in str(strangers)


@pytest.mark.parametrize("holders", [None, {999_999_999: 12 * GiB}, {os.getpid(): 12 * GiB}, {}])
def test_where_pids_tell_nothing_what_no_worker_has_is_reckoned(holders):
    watch = StrangerWatch()
    watch.look(reading(52, holders), KNOWN.get, {"0": 40 * GiB})
    assert found(watch) == "about 12.0 GiB held by others than muxd"


@pytest.mark.parametrize("ours", [{"0": 40 * GiB}, {}])
def test_a_little_beyond_what_workers_had_is_nobodys(ours):
    watch = StrangerWatch()
    watch.look(reading(sum(ours.values()) / GiB + 0.5), KNOWN.get, ours)
    assert watch.found == {}
    assert reckoned(-GiB).size == 0


def test_while_a_worker_comes_or_goes_what_was_reckoned_before_holds():
    watch = StrangerWatch()
    watch.look(reading(52), KNOWN.get, {"0": 40 * GiB})
    watch.look(reading(70), KNOWN.get, {"0": None})
    assert found(watch) == "about 12.0 GiB held by others than muxd"
    watch.look(reading(40), KNOWN.get, {"0": 40 * GiB})
    assert watch.found == {}


def test_a_stranger_that_moves_a_little_is_the_same_and_another_is_another():
    watch, me = StrangerWatch(), os.getpid()
    watch.look(reading(12, {me: 12 * GiB}), lambda _: False, {})
    first = watch.found["0"]
    watch.look(reading(12, {me: 12 * GiB + 1}), lambda _: False, {})
    assert watch.found["0"] is first
    watch.look(reading(12, {me + 1: 12 * GiB}), lambda _: False, {})
    assert watch.found["0"].processes[0].pid == me + 1


def test_a_process_is_a_workers_by_its_ancestors_or_its_session():
    child = subprocess.Popen(["sleep", "60"], start_new_session=True)
    try:
        assert is_below(child.pid, {os.getpid()}, set())
        assert is_below(child.pid, set(), {child.pid})
        assert is_below(child.pid, set(), {None}) is False
        assert is_below(os.getppid(), {os.getpid()}, set()) is False
    finally:
        child.kill()
        child.wait()
    assert is_below(child.pid, {os.getpid()}, set()) is None
