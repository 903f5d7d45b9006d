"""What a server said in this life, and no other, across rotation; and what the kernel did meanwhile."""

import os
from pathlib import Path

import pytest

from muxd.logfiles import tail
from muxd.workers.crash_evidence import WINDOW, CrashEvidence


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "qwen.stderr.log"


def append(path: Path, text: str) -> None:
    with path.open("a") as file:
        file.write(text)


def rotate(path: Path) -> None:
    path.rename(f"{path}.1")


def test_what_was_said_before_is_an_earlier_lifes(log):
    append(log, "before\n")
    evidence = CrashEvidence([log])
    append(log, "after\n")
    assert evidence.said() == "after\n"


def test_a_log_that_is_made_later_counts_from_its_beginning(log):
    evidence = CrashEvidence([log])
    assert evidence.said() == ""
    append(log, "after\n")
    assert evidence.said() == "after\n"


def test_nothing_of_this_life_is_lost_when_the_log_is_rotated(log):
    append(log, "before\n")
    evidence = CrashEvidence([log])
    append(log, "after\n")
    rotate(log)
    append(log, "at last\n")
    assert evidence.said() == "after\nat last\n"


def test_a_rotation_in_an_earlier_life_changes_nothing(log):
    append(log, "long before\n")
    rotate(log)
    append(log, "before\n")
    evidence = CrashEvidence([log])
    append(log, "after\n")
    assert evidence.said() == "after\n"


def test_only_the_end_is_read_and_bytes_that_are_no_text_do_no_harm(log):
    evidence = CrashEvidence([log])
    log.write_bytes(b"\xff" * WINDOW + b"the end")
    assert len(evidence.said()) == WINDOW
    assert evidence.said().endswith("\ufffdthe end")


def test_the_first_log_counts_most_and_comes_last(tmp_path):
    stderr, stdout = tmp_path / "err", tmp_path / "out"
    evidence = CrashEvidence([stderr, stdout])
    append(stderr, "an error")
    append(stdout, "a greeting")
    assert evidence.said() == "a greeting\nan error"


def test_a_turned_page_is_not_read_again(log):
    evidence = CrashEvidence([log])
    append(log, "while loading\n")
    evidence.reset()
    append(log, "while serving\n")
    assert evidence.said() == "while serving\n"


def test_the_kernels_kills_are_counted_from_the_start_on(log, tmp_path):
    vmstat = tmp_path / "vmstat"
    vmstat.write_text("nr_free_pages 5\noom_kill 3\n")
    evidence = CrashEvidence([log], vmstat)
    assert evidence.oom_kills() == 0
    vmstat.write_text("nr_free_pages 5\noom_kill 5\n")
    assert evidence.oom_kills() == 2


@pytest.mark.parametrize("text", [None, "nr_free_pages 5\n"])
def test_a_kernel_that_does_not_count_its_kills_is_not_asked(log, tmp_path, text):
    vmstat = tmp_path / "vmstat"
    if text is not None:
        vmstat.write_text(text)
    assert CrashEvidence([log], vmstat).oom_kills() is None


@pytest.mark.parametrize("make", [os.mkfifo, Path.mkdir])
def test_what_is_no_file_is_not_waited_for(log, make):
    evidence = CrashEvidence([log])
    make(log)
    assert evidence.said() == ""
    if make is os.mkfifo:
        assert tail(log, 3) == []
    else:
        with pytest.raises(IsADirectoryError):
            tail(log, 3)
