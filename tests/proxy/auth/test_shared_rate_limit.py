"""A rate over several processes: each really is a process of its own."""

import os
import signal
import struct
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from muxd.proxy.answers import Refusal
from muxd.proxy.auth.rate_limit import TokenBucket
from muxd.proxy.auth.shared_rate_limit import SharedTokenBucket, shared_bucket


def standing() -> float:
    """A clock that stands: no share of the minute is earned meanwhile."""
    return 1000.0


def admitted(bucket: TokenBucket, tries: int) -> int:
    count = 0
    for _ in range(tries):
        try:
            bucket.acquire()
        except Refusal:
            continue
        count += 1
    return count


def forked(act: Callable[[], int]) -> int:
    """The pid of a process that ends with what `act` returns."""
    if pid := os.fork():
        return pid
    try:
        os._exit(act())
    finally:
        os._exit(255)


def exit_status(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_processes_that_ask_at_once_get_exactly_the_limit_together(tmp_path: Path) -> None:
    def ask() -> int:
        return admitted(SharedTokenBucket(tmp_path / "rate-a", "a", 150, standing), 200)

    pids = [forked(ask) for _ in range(4)]
    assert sum(exit_status(pid) for pid in pids) == 150


def test_one_that_dies_with_the_lock_holds_nobody_up_and_its_successor_goes_on(tmp_path: Path) -> None:
    bucket = SharedTokenBucket(tmp_path / "rate-a", "a", 10, standing)
    assert admitted(bucket, 4) == 4

    def hold() -> int:
        import fcntl

        own = os.open(tmp_path / "rate-a", os.O_RDWR)
        fcntl.flock(own, fcntl.LOCK_EX)
        (tmp_path / "locked").touch()
        time.sleep(60)
        return 0

    pid = forked(hold)
    while not (tmp_path / "locked").exists():
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    assert exit_status(pid) == -signal.SIGKILL
    assert admitted(SharedTokenBucket(tmp_path / "rate-a", "a", 10, standing), 20) == 6


def test_what_is_left_is_told_as_of_all_processes(tmp_path: Path) -> None:
    first, second = (SharedTokenBucket(tmp_path / "rate-a", "a", 10, standing) for _ in range(2))
    first.acquire()
    assert b"x-ratelimit-remaining-requests: 8\r\n" in second.acquire()
    assert b"x-ratelimit-remaining-requests: 8\r\n" in first.headers()


def test_another_limit_keeps_what_was_used_of_the_minute(tmp_path: Path) -> None:
    bucket = SharedTokenBucket(tmp_path / "rate-a", "a", 10, standing)
    assert admitted(bucket, 5) == 5
    assert bucket.renewed(10) is bucket
    assert admitted(bucket.renewed(4), 9) == 2


def test_where_the_file_cannot_be_made_each_process_counts_for_itself_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bucket = shared_bucket(tmp_path / "nowhere" / "rate-a", "a", 3, standing)
    assert admitted(bucket, 5) == 3
    assert "the limit of API key a holds for each process of the proxy by itself" in caplog.text


@pytest.mark.parametrize("level", [b"y" * 16, b"", b"x", struct.pack("dd", 30.0, 5000.0), struct.pack("dd", -1.0, 0.0)])
def test_a_file_that_cannot_be_right_is_as_none(tmp_path: Path, level: bytes) -> None:
    (tmp_path / "rate-a").write_bytes(level)
    assert admitted(SharedTokenBucket(tmp_path / "rate-a", "a", 3, standing), 5) == 3


def test_on_a_full_disk_each_process_counts_by_itself_and_says_so_once(tmp_path: Path, caplog) -> None:
    full, clear = os.open("/dev/full", os.O_RDWR), os.open(tmp_path / "rate-a", os.O_RDWR | os.O_CREAT)
    bucket = SharedTokenBucket(tmp_path / "rate-a", "a", 10, standing)
    os.dup2(full, bucket._file)
    assert admitted(bucket, 6) == 6
    assert [record.message for record in caplog.records] == [
        "the limit of API key a holds for each process of the proxy by itself: no space left on device"
    ]
    os.dup2(clear, bucket._file)
    assert admitted(bucket, 2) == 2
    assert admitted(SharedTokenBucket(tmp_path / "rate-a", "a", 10, standing), 20) == 2, "and with all again"
    for descriptor in (full, clear):
        os.close(descriptor)


def test_on_a_disk_that_cannot_be_read_each_process_counts_by_itself(tmp_path: Path) -> None:
    bucket = SharedTokenBucket(tmp_path / "rate-a", "a", 3, standing)
    unreadable = os.open(tmp_path / "rate-a", os.O_WRONLY)
    os.dup2(unreadable, bucket._file)
    os.close(unreadable)
    assert admitted(bucket, 6) == 3
    assert b"x-ratelimit-remaining-requests: 0\r\n" in bucket.headers()
