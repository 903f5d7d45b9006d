"""The shim's log files: bounded, whole lines, and what a disk refuses is counted."""

import os
import random
import shutil
from pathlib import Path

import pytest

from muxd.shim.log import LINE_MARGIN, Log
from tests.childworld import logged, rotated


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "logs" / "qwen.stdout.log"


def numbered(count: int, width: int = 100) -> bytes:
    return b"".join(b"%08d %s\n" % (number, b"x" * (number % width)) for number in range(count))


def in_chunks(data: bytes, seed: int) -> list[bytes]:
    chance = random.Random(seed)
    chunks = []
    while data:
        size = chance.choice((1, 17, 4096, LINE_MARGIN))
        chunks.append(data[:size])
        data = data[size:]
    return chunks


@pytest.mark.parametrize("max_bytes", [3000, 30_000, 1 << 20])
@pytest.mark.parametrize("seed", range(4))
def test_rotation_loses_no_byte_and_cuts_no_line_wherever_the_reads_fall(path, max_bytes, seed):
    data = numbered(2000)
    log = Log(str(path), max_bytes, backups=100)
    for chunk in in_chunks(data, seed):
        log.write(chunk)
    assert logged(path) == data
    for file in rotated(path):
        assert file.stat().st_size <= max_bytes
        assert file.read_bytes().endswith(b"\n")


def test_only_the_newest_files_are_kept(path):
    data = numbered(5000)
    log = Log(str(path), 10_000, backups=2)
    log.write(data)
    assert [file.name for file in rotated(path)] == [f"{path.name}.2", f"{path.name}.1", path.name]
    assert data.endswith(logged(path))
    assert sum(file.stat().st_size for file in rotated(path)) <= 3 * 10_000


def test_without_backups_the_file_begins_anew(path):
    data = numbered(1000)
    log = Log(str(path), 10_000, backups=0)
    log.write(data)
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    assert data.endswith(path.read_bytes())


def test_a_line_longer_than_the_margin_is_cut_between_two_files_and_still_whole(path):
    data = b"first\n" + b"y" * (10 << 20) + b"\nlast\n"
    log = Log(str(path), 1 << 20, backups=20)
    for chunk in in_chunks(data, seed=1):
        log.write(chunk)
    assert logged(path) == data
    assert max(file.stat().st_size for file in rotated(path)) <= 1 << 20


def test_bytes_that_are_no_text_pass_through(path):
    data = bytes(range(256)) * 100
    log = Log(str(path), 5000, backups=100)
    log.write(data)
    assert logged(path) == data


def test_a_file_that_is_already_too_large_is_rotated(path):
    path.parent.mkdir()
    path.write_bytes(b"old\n" * 1000)
    log = Log(str(path), 1000, backups=3)
    log.write(b"new\n")
    assert path.read_bytes() == b"new\n"
    assert path.with_name(path.name + ".1").read_bytes() == b"old\n" * 1000


def test_a_new_start_begins_on_a_line_of_its_own(path):
    path.parent.mkdir()
    path.write_bytes(b"cut sho")
    log = Log(str(path), 1000, backups=3)
    log.write(b"new\n")
    assert path.read_bytes() == b"cut sho\nnew\n"


def test_a_removed_directory_is_made_again(path):
    log = Log(str(path), 1000, backups=3)
    log.write(b"before\n")
    shutil.rmtree(path.parent)
    log.write(b"after\n")
    assert path.read_bytes() == b"after\n"
    assert log.lost == 0


def test_a_file_that_was_moved_away_is_left_alone(path):
    log = Log(str(path), 1000, backups=3)
    log.write(b"before\n")
    moved = path.rename(path.with_name("elsewhere"))
    log.write(b"after\n")
    assert (moved.read_bytes(), path.read_bytes()) == (b"before\n", b"after\n")


def test_a_full_disk_costs_whole_lines_and_says_how_many_bytes(path, tmp_path):
    path.parent.mkdir()
    log = Log(str(path), 1000, backups=3)
    log.write(b"before\nbegun, ")
    path.rename(tmp_path / "kept")
    path.symlink_to("/dev/full")
    log.write(b"torn\nlost\nlost too")
    assert log.lost == len(b"torn\nlost\nlost too")
    path.unlink()
    log.write(b", and this\nafter\n")
    lost = len(b"torn\nlost\nlost too, and this\n")
    assert log.lost == lost
    note = f"muxd-shim: {lost} bytes of the log were lost here: no space left on device\n"
    assert path.read_text() == note + "after\n"
    log.write(b"more\n")
    assert path.read_text() == note + "after\nmore\n"


def test_a_rotation_that_fails_costs_bytes_but_not_the_bound(path):
    obstacle = path.with_name(path.name + ".1")
    (obstacle / "not empty").mkdir(parents=True)
    log = Log(str(path), 1000, backups=1)
    for _ in range(100):
        log.write(b"z" * 99 + b"\n")
    assert path.stat().st_size <= 1000
    assert path.stat().st_size + log.lost == 100 * 100
    shutil.rmtree(obstacle)
    log.write(b"after\n")
    assert path.read_bytes().endswith(b"after\n")
    assert b"bytes of the log were lost here" in path.read_bytes()


def test_a_note_ends_a_line_that_the_child_did_not(path):
    log = Log(str(path), 1000, backups=1)
    log.write(b"cut sho")
    log.note("what happened")
    assert path.read_bytes() == b"cut sho\nmuxd-shim: what happened\n"


def test_a_note_on_a_full_disk_is_not_counted_as_the_childs(path):
    path.parent.mkdir()
    path.symlink_to("/dev/full")
    log = Log(str(path), 1000, backups=1)
    log.note("what happened")
    assert log.lost == 0


def test_a_log_holds_one_file_descriptor_however_often_it_rotates(path):
    before = len(os.listdir("/proc/self/fd"))
    log = Log(str(path), 1000, backups=3)
    log.write(numbered(1000))
    assert len(os.listdir("/proc/self/fd")) == before + 1


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give links to others")
def test_a_link_of_another_user_is_not_followed(path, tmp_path):
    path.parent.mkdir()
    (tmp_path / "precious").write_text("precious\n")
    path.symlink_to(tmp_path / "precious")
    os.lchown(path, 65534, -1)
    log = Log(str(path), 1000, backups=3)
    log.write(b"lost\n")
    assert log.lost == 5
    assert (tmp_path / "precious").read_text() == "precious\n"
