"""Logs are read without a lost or a doubled line, whatever their writer does meanwhile."""

import os
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from muxd import logfiles
from muxd.logfiles import GAP, MAX_LINE, MAX_TAIL, LogReader, tail
from tests.seeds import EVERY


def rotate(path: Path, backups: int = 3) -> None:
    for index in range(backups - 1, 0, -1):
        older = path.with_name(f"{path.name}.{index}")
        if older.exists():
            older.rename(path.with_name(f"{path.name}.{index + 1}"))
    path.rename(path.with_name(f"{path.name}.1"))


def texts(reader: LogReader) -> list[str]:
    return [line.text for line in reader.read()]


def append(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "qwen.stderr.log"


def test_the_tail_of_nothing_is_nothing(log: Path) -> None:
    assert tail(log, 10) == []
    log.touch()
    assert tail(log, 10) == []
    assert tail(log.parent / "no" / "such", 10) == []


@pytest.mark.parametrize("end", [b"", b"\n"])
def test_the_tail_counts_a_line_without_an_end(log: Path, end: bytes) -> None:
    append(log, b"one\n\nthree" + end)
    for lines, expected in ((0, []), (1, ["three"]), (2, ["", "three"]), (9, ["one", "", "three"])):
        assert tail(log, lines) == expected


def test_the_tail_goes_back_over_rotated_parts(log: Path) -> None:
    for part in (b"1\n2\n3\n", b"4\n5\n6", b"\n7\n"):
        append(log, part)
        rotate(log)
    append(log, b"8\n")
    assert tail(log, 5) == ["4", "5", "6", "7", "8"]
    assert tail(log, 100) == list("12345678")


def test_the_tail_is_right_for_every_count_and_layout(log: Path) -> None:
    """Random lines over random parts, many longer than a block; checked against all of the text."""
    chance = random.Random(3)
    for round_number in range(60):
        where = log.with_name(f"log{round_number}")
        text = b""
        for _ in range(chance.randint(1, 4)):
            part = b"".join(
                chance.randbytes(chance.choice((0, 1, 50, 9000))).replace(b"\n", b"") + b"\n"
                for _ in range(chance.randint(0, 30))
            )
            part += chance.choice((b"", b"x"))
            if where.exists():
                rotate(where)
            append(where, part)
            text += part
        lines = text.decode("utf-8", "replace").split("\n")
        if not lines[-1]:
            lines.pop()
        for wanted in (1, 2, 7, 1000):
            assert tail(where, wanted) == lines[-wanted:]


def test_a_part_missing_in_the_middle_of_a_rotation_hides_nothing_older(log: Path) -> None:
    append(log.with_name(f"{log.name}.1"), b"old\n")
    assert tail(log, 5) == ["old"]


def test_what_is_not_utf_8_is_shown_as_such(log: Path) -> None:
    append(log, b"\xff\xfe\0caf\xc3\xa9\n")
    assert tail(log, 1) == ["\ufffd\ufffd\0café"]


def test_a_line_of_ten_megabytes_is_given_in_pieces(log: Path) -> None:
    size = 10 << 20
    append(log, b"before\n" + b"x" * size + b"\nafter\n")
    with LogReader(log, 100) as reader:
        lines = []
        while batch := texts(reader):
            lines += batch
    assert max(map(len, lines)) == MAX_LINE
    assert sum(map(len, lines)) <= MAX_TAIL
    assert tail(log, 2) == ["x" * len(lines[-2]), "after"]
    with LogReader(log.with_name("none"), 0) as reader:
        log.rename(log.with_name("none"))
        lines = []
        while batch := texts(reader):
            lines += batch
    assert lines == ["before", *["x" * MAX_LINE] * (size // MAX_LINE), "after"]


def test_following_starts_with_the_tail_and_gives_only_whole_lines(log: Path) -> None:
    append(log, b"1\n2\n3\nhal")
    with LogReader(log, 2) as reader:
        assert texts(reader) == ["3"]
        assert [line.text for line in reader.unfinished()] == ["hal"]
        assert texts(reader) == []
        append(log, b"f\n4\n")
        assert texts(reader) == ["half", "4"]
        assert texts(reader) == []


def test_following_waits_for_a_log_and_reads_it_from_its_start(log: Path) -> None:
    with LogReader(log, 0) as reader:
        assert texts(reader) == []
        append(log, b"1\n")
        assert texts(reader) == ["1"]


def test_following_goes_on_over_several_rotations(log: Path) -> None:
    append(log, b"1\n")
    with LogReader(log, 0) as reader:
        append(log, b"2\npar")
        rotate(log)
        append(log, b"t\n3\n")
        rotate(log)
        assert texts(reader) == ["2", "part", "3"]
        append(log, b"4\n")
        assert texts(reader) == ["4"]


def test_lines_rotated_away_leave_a_gap(log: Path) -> None:
    append(log, b"0\n")
    with LogReader(log, 1) as reader:
        assert texts(reader) == ["0"]
        append(log, b"unend")
        assert texts(reader) == []
        for number in range(1, 6):
            rotate(log, backups=2)
            append(log, b"%d\n" % number)
        assert texts(reader) == ["unend", GAP, "3", "4", "5"]


def test_a_removed_directory_is_waited_for(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "log"
    log.parent.mkdir()
    append(log, b"1\n")
    with LogReader(log, 0) as reader:
        log.unlink()
        log.parent.rmdir()
        assert texts(reader) == []
        log.parent.mkdir()
        append(log, b"2\n")
        assert texts(reader) == [GAP, "2"]


def test_a_log_cut_short_in_place_is_read_from_its_start(log: Path) -> None:
    append(log, b"1\n2\n")
    with LogReader(log, 5) as reader:
        assert texts(reader) == ["1", "2"]
        os.truncate(log, 0)
        append(log, b"3\n")
        assert texts(reader) == ["3"]


class Meanwhile:
    """Wraps a function of the reader so that the writer acts just before, or after, one of its calls."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, name: str, act: Callable[[], None], *, after: bool = False):
        self._original = getattr(logfiles, name)
        self._act: Callable[[], None] | None = act
        self._after = after
        monkeypatch.setattr(logfiles, name, self)

    def __call__(self, *arguments: Any) -> Any:
        act, self._act = self._act, None
        if act is not None and not self._after:
            act()
        result = self._original(*arguments)
        if act is not None and self._after:
            act()
        return result


def test_what_is_written_just_before_a_rotation_is_not_lost(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    append(log, b"1\n")

    def write_and_rotate() -> None:
        append(log, b"2\n")
        rotate(log)
        append(log, b"3\n")

    with LogReader(log, 0) as reader:
        Meanwhile(monkeypatch, "_is_at", write_and_rotate)
        assert texts(reader) == ["2", "3"]


def test_a_rotation_while_the_next_part_is_opened_skips_none(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    append(log, b"1\n")

    def rotate_again() -> None:
        rotate(log)
        append(log, b"4\n")

    with LogReader(log, 0) as reader:
        for line in (b"2\n", b"3\n"):
            rotate(log)
            append(log, line)
        Meanwhile(monkeypatch, "open_log", rotate_again)
        assert texts(reader) == ["2", "3", "4"]


def test_a_rotation_while_the_parts_are_opened_counts_none_twice(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for line in (b"1\n", b"2\n"):
        append(log, line)
        rotate(log)
    append(log, b"3\n")
    Meanwhile(monkeypatch, "open_log", lambda: rotate(log), after=True)
    assert tail(log, 2) == ["2", "3"]


def test_numbered_lines_of_a_busy_writer_come_all_and_once(log: Path) -> None:
    """A real writer that rotates every few hundred lines, in odd pieces, against three followers."""
    total, rotations = 60_000 // EVERY, 150 // EVERY
    text = b"".join(b"line %d\n" % number for number in range(total))
    append(log, b"")
    readers = [LogReader(log, 0) for _ in range(3)]
    turn = threading.Semaphore(0)

    def write() -> None:
        chance = random.Random(11)
        cuts = sorted(chance.randrange(len(text)) for _ in range(rotations))
        for start, stop in zip([0, *cuts], [*cuts, len(text)], strict=True):
            append(log, text[start:stop])
            rotate(log, backups=rotations + 2)
            append(log, b"")
            if chance.random() < 0.2:
                turn.acquire(timeout=5)

    writer = threading.Thread(target=write)
    writer.start()
    found: list[list[str]] = [[] for _ in readers]
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and (writer.is_alive() or any(len(lines) < total for lines in found)):
        for reader, lines in zip(readers, found, strict=True):
            batch = texts(reader)
            lines += batch
        turn.release()
        assert all(len(lines) <= total for lines in found)
    writer.join()
    for reader, lines in zip(readers, found, strict=True):
        assert lines == [f"line {number}" for number in range(total)]
        assert texts(reader) == []
        reader.close()
