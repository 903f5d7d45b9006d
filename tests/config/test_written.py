"""Files that were written since they were read: by any way of writing them."""

import os

import pytest

from muxd.config import load_config
from muxd.config.written import written_since

MAIN = '[models.qwen]\nengine = "simulator"\n'


@pytest.fixture
def file(tmp_path):
    file = tmp_path / "muxd.toml"
    file.write_text(MAIN)
    return file


def rewrite(file):
    file.write_text(MAIN)


def put_another_in_its_place_as_old_as_it(file):
    other = file.with_name("other")
    other.write_text(MAIN)
    os.utime(other, (1, 1))
    other.replace(file)


def add_a_part(file):
    (file.parent / "muxd.d").mkdir()
    (file.parent / "muxd.d/a.toml").write_text("")


@pytest.mark.parametrize("change", [rewrite, put_another_in_its_place_as_old_as_it, add_a_part, os.unlink])
def test_what_is_done_to_the_files_after_they_were_read_is_seen(file, change):
    config = load_config(file, {})
    assert not written_since(config)
    _until_the_clock_of_files_has_moved(file)
    change(file)
    assert written_since(config)


def test_parts_are_files_of_it_too_and_may_go(file):
    add_a_part(file)
    config = load_config(file, {})
    assert not written_since(config)
    _until_the_clock_of_files_has_moved(file)
    (file.parent / "muxd.d/a.toml").unlink()
    assert written_since(config)


def _until_the_clock_of_files_has_moved(file):
    """Wait until the clock of file times has moved, which is as coarse as the kernel's tick."""
    probe = file.with_name("probe")
    probe.touch()
    first = probe.stat().st_ctime_ns
    while probe.stat().st_ctime_ns == first:
        probe.touch()
