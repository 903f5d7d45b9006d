"""One file a day, with real files: midnight, logrotate, full disks, pipes."""

import os
import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Thread

import pytest

from muxd.proxy.telemetry.access_log import AccessLog
from muxd.proxy.telemetry.log_destinations import Folder

from .lines import finish, record

MONDAY, TUESDAY = "2026-03-16", "2026-03-17"
MIDNIGHT = 1_773_705_600.0  # the one between them


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Folder]:
    folder = Folder(tmp_path / "logs")
    yield folder
    folder.close()


@pytest.fixture
def umask() -> Iterator[None]:
    before = os.umask(0o077)
    yield
    os.umask(before)


def line(day: str, text: str = "x") -> bytes:
    return f"{day}T12:00:00.000Z {text}\n".encode()


def file(tmp_path: Path, day: str = MONDAY) -> Path:
    return tmp_path / "logs" / f"access-{day}.log"


def test_lines_are_appended_to_the_file_of_their_day(folder: Folder, tmp_path: Path) -> None:
    assert folder.write([line(MONDAY, "1"), line(MONDAY, "2")]) is None
    assert folder.write([line(MONDAY, "3")]) is None
    assert file(tmp_path).read_bytes() == line(MONDAY, "1") + line(MONDAY, "2") + line(MONDAY, "3")


def test_lines_before_and_after_midnight_come_into_two_files(folder: Folder, tmp_path: Path) -> None:
    assert folder.write([line(MONDAY), line(TUESDAY, "1")]) is None
    assert folder.write([line(TUESDAY, "2")]) is None
    assert file(tmp_path).read_bytes() == line(MONDAY)
    assert file(tmp_path, TUESDAY).read_bytes() == line(TUESDAY, "1") + line(TUESDAY, "2")


@pytest.mark.parametrize(("form", "west", "zone"), [("text", 5 * 3600.0, "-05:00"), ("json", 0.0, "Z")])
async def test_a_request_is_logged_on_its_day_by_the_clock_of_its_line(
    folder: Folder, tmp_path: Path, set_zone: Callable[[str], None], form: str, west: float, zone: str
) -> None:
    set_zone("EST5")
    log = AccessLog(form, folder)
    record(log, at=MIDNIGHT + west - 0.001, request_id="late")
    record(log, at=MIDNIGHT + west, request_id="early")
    await finish(log)
    assert f"2026-03-16T23:59:59.999{zone}" in (late := file(tmp_path).read_text())
    assert f"2026-03-17T00:00:00.000{zone}" in (early := file(tmp_path, TUESDAY).read_text())
    assert "late" in late
    assert "early" in early


def test_a_file_that_logrotate_moved_is_made_anew(folder: Folder, tmp_path: Path) -> None:
    folder.write([line(MONDAY, "1")])
    file(tmp_path).rename(tmp_path / "old")
    assert folder.write([line(MONDAY, "2")]) is None
    assert (tmp_path / "old").read_bytes() == line(MONDAY, "1")
    assert file(tmp_path).read_bytes() == line(MONDAY, "2")


def test_a_file_that_logrotate_put_in_its_place_is_used_as_it_is(folder: Folder, tmp_path: Path) -> None:
    folder.write([line(MONDAY, "1")])
    file(tmp_path).rename(tmp_path / "old")
    file(tmp_path).touch(0o600)
    assert folder.write([line(MONDAY, "2")]) is None
    assert file(tmp_path).read_bytes() == line(MONDAY, "2")
    assert file(tmp_path).stat().st_mode & 0o777 == 0o600


def test_a_folder_that_was_removed_is_made_again(folder: Folder, tmp_path: Path) -> None:
    folder.write([line(MONDAY, "1")])
    file(tmp_path).unlink()
    (tmp_path / "logs").rmdir()
    assert folder.write([line(MONDAY, "2")]) is None
    assert file(tmp_path).read_bytes() == line(MONDAY, "2")


@pytest.mark.usefixtures("umask")
def test_its_files_are_readable_for_the_group_only_whatever_the_umask(folder: Folder, tmp_path: Path) -> None:
    folder.prepare(MONDAY)
    assert file(tmp_path).stat().st_mode & 0o777 == 0o640


def test_a_full_disk_is_told_and_gets_over(folder: Folder, tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    file(tmp_path).symlink_to("/dev/full")
    lost = folder.write([line(MONDAY), line(MONDAY)])
    assert lost is not None
    assert (lost.lines, "no space left" in lost.why) == (2, True)
    assert str(file(tmp_path)) in lost.why
    file(tmp_path).unlink()
    assert folder.write([line(MONDAY)]) is None
    assert file(tmp_path).read_bytes() == line(MONDAY)


def test_a_day_that_cannot_be_opened_does_not_take_another_with_it(folder: Folder, tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    file(tmp_path).mkdir()
    lost = folder.write([line(MONDAY), line(TUESDAY), line(MONDAY)])
    assert lost is not None
    assert (lost.lines, "is a directory" in lost.why) == (2, True)
    assert file(tmp_path, TUESDAY).read_bytes() == line(TUESDAY)


def test_a_fifo_that_nobody_reads_is_an_error_and_no_wait(folder: Folder, tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    os.mkfifo(file(tmp_path))
    with pytest.raises(OSError, match="No such device"):
        folder.prepare(MONDAY)


def test_a_slow_pipe_is_waited_for_and_gets_every_line(folder: Folder, tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    os.mkfifo(file(tmp_path))
    reader = os.open(file(tmp_path), os.O_RDONLY | os.O_NONBLOCK)
    os.set_blocking(reader, True)
    lines = [line(MONDAY, str(number)) for number in range(20_000)]  # many times what a pipe holds
    writer = Thread(target=folder.write, args=(lines,))
    writer.start()
    received = b""
    while received.count(b"\n") < len(lines):
        received += os.read(reader, 65536)
    writer.join()
    os.close(reader)
    assert received == b"".join(lines)


@pytest.fixture
def quota() -> Iterator[Callable[[int], None]]:
    """Sets how large files may get: beyond it a write stops in its midst."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_line_that_was_cut_is_lost_and_the_next_one_is_whole(
    folder: Folder, tmp_path: Path, quota: Callable[[int], None]
) -> None:
    whole = line(MONDAY, "1")
    quota(len(whole) + 5)
    lost = folder.write([whole, line(MONDAY, "2"), line(MONDAY, "3")])
    quota(1 << 30)
    assert lost is not None
    assert (lost.lines, "too large" in lost.why) == (2, True)
    assert folder.write([line(MONDAY, "4")]) is None
    assert file(tmp_path).read_bytes().splitlines(keepends=True) == [
        whole,
        line(MONDAY, "2")[:5] + b"\n",
        line(MONDAY, "4"),
    ]
