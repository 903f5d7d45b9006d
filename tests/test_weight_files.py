"""A model's weight files are read into the page cache, and status says how many of them are there."""

import logging
import os
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from muxd.config import Model, SGLangOptions
from muxd.core.commands import PrefetchWeights
from muxd.host.page_cache import CHUNK, bytes_in_ram
from muxd.members import has_files, spec_of
from muxd.supervisor.weight_files import LOOK, WeightReader

from .fakes import InlineThread, a_model
from .one_supervisor import one_supervisor
from .test_members import DAEMON

PART = CHUNK + 1000


def a_file(path: Path, size: int = PART) -> Path:
    """Write a file that is on disk, and not in the page cache."""
    with path.open("wb") as file:
        file.write(os.urandom(size))
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    if bytes_in_ram(path) != 0:
        pytest.skip("this file system keeps its files in RAM")
    return path


@pytest.fixture
def model(tmp_path) -> Model:
    """A model of two files, which are not in RAM."""
    folder = tmp_path / "qwen"
    folder.mkdir()
    for number in (1, 2):
        a_file(folder / f"model-0000{number}-of-00002.safetensors")
    return replace(
        a_model("qwen"), engine="sglang", engine_options=SGLangOptions(python="/venv/python"), model_path=str(folder)
    )


def files_of(model: Model) -> list[Path]:
    return sorted(Path(model.model_path).iterdir())


def reader_of(model: Model, available: int = 1 << 40) -> WeightReader:
    return WeightReader(lambda: {model.name: model}, lambda: available)


async def test_all_of_them_are_in_ram_after_it(model, caplog):
    caplog.set_level(logging.INFO)
    reader = reader_of(model)
    await reader.read(PrefetchWeights("qwen"))
    assert reader.status("qwen") == {"bytes": 2 * PART, "in_ram": 2 * PART, "being_read": False}
    assert "qwen: 16 of 16 MiB of its weights are in RAM, and 0 were" in caplog.text


@pytest.mark.parametrize("reserve", [0, 50 * CHUNK])
async def test_no_more_is_read_than_fits_with_what_the_model_takes_itself(model, reserve):
    first, second = files_of(model)
    room = int((reserve + CHUNK) / 0.9) + 10  # for one chunk
    reader = reader_of(model, room)
    await reader.read(PrefetchWeights("qwen", reserve))
    assert bytes_in_ram(first) >= CHUNK
    assert bytes_in_ram(second) == 0


async def test_it_stops_when_the_model_is_ready_or_no_longer_next(model):
    def available() -> int:
        reader.stop("qwen")  # between the first chunk and the second
        return 1 << 40

    reader = WeightReader(lambda: {"qwen": model}, available)
    await reader.read(PrefetchWeights("qwen"))
    assert bytes_in_ram(files_of(model)[1]) == 0
    reader.stop("qwen")  # nothing is read any more: nothing happens


async def test_a_model_without_files_here_has_none(tmp_path):
    for path in (tmp_path / "nowhere", "org/not-downloaded", "s3://bucket/model"):
        model = replace(a_model("qwen"), engine="sglang", model_path=str(path), env={"HF_HOME": str(tmp_path)})
        reader = reader_of(model)
        await reader.read(PrefetchWeights("qwen"))
        await reader.read(PrefetchWeights("removed by a reload"))
        assert reader.status("qwen") is None


async def test_a_single_file_is_a_model_of_other_servers(tmp_path):
    path = a_file(tmp_path / "model.gguf")
    reader = reader_of(replace(a_model("qwen"), engine="openai", model_path=str(path)))
    await reader.read(PrefetchWeights("qwen"))
    assert reader.status("qwen") == {"bytes": PART, "in_ram": PART, "being_read": False}


async def test_how_much_is_in_ram_is_looked_at_of_those_who_may_have_to_load(model, autojump_clock, monkeypatch):
    monkeypatch.setattr("muxd.threads.Thread", InlineThread)
    reader, may_load = reader_of(model), set()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(reader.watch, may_load.__contains__)
        await trio.sleep(1)
        assert reader.status("qwen") == {"bytes": 2 * PART, "in_ram": 0, "being_read": False}
        files_of(model)[0].read_bytes()
        await trio.sleep(2 * LOOK)
        assert reader.status("qwen")["in_ram"] == 0, "it serves: nobody has to know"
        may_load.add("qwen")
        await trio.sleep(2 * LOOK)
        assert reader.status("qwen")["in_ram"] == PART
        nursery.cancel_scope.cancel()


def test_only_files_that_a_server_of_the_model_loads_are_read(model):
    assert has_files(model)
    assert spec_of(model, DAEMON).prefetch
    assert not spec_of(replace(model, prefetch=False), DAEMON).prefetch
    assert not has_files(a_model("pretend"))
    assert not has_files(replace(model, model_path=""))


async def test_a_model_that_is_next_in_line_has_its_weights_in_ram_when_it_comes(autojump_clock, tmp_path, model):
    async with one_supervisor(tmp_path, a_model("a"), model) as muxd:
        await muxd.serves("a")
        await muxd.serves("qwen")
        assert muxd.status("qwen")["weights"] == {"bytes": 2 * PART, "in_ram": 2 * PART, "being_read": False}
        assert muxd.status("a")["weights"] is None
