"""Real files in the real page cache."""

import os

import pytest

from muxd.host import page_cache
from muxd.host.page_cache import CHUNK, bytes_in_ram, read_ahead

SIZE = 3 * CHUNK + 5000


@pytest.fixture
def file(tmp_path):
    """A file that is on disk, and not in the page cache."""
    path = tmp_path / "model.safetensors"
    with path.open("wb") as file:
        file.write(os.urandom(SIZE))
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    if bytes_in_ram(path) != 0:
        pytest.skip("this file system keeps its files in RAM")
    return path


@pytest.fixture(params=["cachestat", "mincore"])
def by_call(request, monkeypatch):
    """Have either of the two calls that tell it."""
    if request.param == "mincore":
        monkeypatch.setattr(page_cache, "_CACHESTAT", 1 << 20)  # no such call, as before Linux 6.5


@pytest.mark.usefixtures("by_call")
def test_a_file_that_was_read_ahead_is_in_ram_and_one_that_was_not_is_not(file):
    assert bytes_in_ram(file) == 0
    read_ahead(file, lambda size: True)
    assert bytes_in_ram(file) == SIZE


def test_reading_ends_where_it_is_told_to_before_the_next_chunk(file):
    asked = []

    def once(size):
        asked.append(size)
        return len(asked) == 1

    read_ahead(file, once)
    assert asked == [CHUNK, CHUNK]
    assert CHUNK <= bytes_in_ram(file) < SIZE, "the kernel may read some more ahead, and not all"


def test_the_last_chunk_is_the_rest(file):
    asked = []
    read_ahead(file, lambda size: asked.append(size) or True)
    assert asked == [CHUNK, CHUNK, CHUNK, 5000]


def test_of_a_file_of_somebody_else_mincore_would_say_anything(file, monkeypatch):
    monkeypatch.setattr(page_cache, "_CACHESTAT", 1 << 20)
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert bytes_in_ram(file) is None


def test_an_empty_file_is_none_of_it(tmp_path):
    (tmp_path / "empty").touch()
    assert bytes_in_ram(tmp_path / "empty") == 0
