"""NVML's side of the seam, with the library's calls replaced: no GPU is here to be lost."""

from threading import Event
from types import SimpleNamespace

import pynvml
import pytest
import trio

from muxd.config import Config, Daemon, Model
from muxd.engines.gpu_source import open_gpus
from muxd.gpus import GpuHealth
from muxd.nvml import NVML_TIMEOUT, NvmlGpus


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """Two GPUs; those in the set are lost."""
    lost: set[int] = set()

    def handle(index: int) -> int:
        if index in lost:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_GPU_IS_LOST)
        return index

    monkeypatch.setattr(pynvml, "nvmlInit", lambda: None)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetCount", lambda: 2)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetHandleByIndex", handle)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetMemoryInfo", lambda _: SimpleNamespace(total=80, used=10))
    monkeypatch.setattr(pynvml, "nvmlDeviceGetName", lambda _: "a GPU")
    return lost


async def test_a_lost_gpu_does_not_hide_the_others(nvml):
    gpus = NvmlGpus()
    assert set(await gpus.read()) == {"0", "1"}
    nvml.add(1)
    assert set(await gpus.read()) == {"0"}
    assert set(gpus.latest) == {"0"}


async def test_how_a_gpu_does_is_told_as_far_as_nvml_tells_it(nvml, monkeypatch):
    def not_supported(*_):
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)

    monkeypatch.setattr(pynvml, "nvmlDeviceGetUtilizationRates", lambda _: SimpleNamespace(gpu=91))
    monkeypatch.setattr(pynvml, "nvmlDeviceGetTemperature", not_supported)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetPowerUsage", lambda _: 540_250)
    assert (await NvmlGpus().read())["0"].health == GpuHealth(91, None, 540.25)


async def test_where_all_are_lost_nothing_is_read(nvml):
    nvml.update({0, 1})
    assert await NvmlGpus().read() == {}


async def test_a_lost_gpu_is_still_counted(nvml):
    nvml.add(1)
    gpus = NvmlGpus()
    await gpus.read()
    assert gpus.there == {"0", "1"}


def test_no_driver_is_a_warning_that_says_what_to_do(monkeypatch, caplog, tmp_path):
    def fail() -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    monkeypatch.setattr(pynvml, "nvmlInit", fail)
    daemon = Daemon(tmp_path / "s", tmp_path, tmp_path)
    open_gpus(Config(daemon, models=(Model("a", model_path="o/a", args=("--device", "cpu")),)))
    assert not caplog.messages
    open_gpus(Config(daemon, models=(Model("a", model_path="o/a"),)))
    assert "; install NVIDIA's driver, or give this user or container the GPUs" in caplog.messages[0]


async def test_a_call_that_hangs_is_given_up_and_the_gpus_are_read_again_once_it_has_ended(
    autojump_clock, nvml, monkeypatch, caplog
):
    over = Event()
    monkeypatch.setattr(pynvml, "nvmlDeviceGetName", lambda _: over.wait(60) and "a GPU")
    gpus = NvmlGpus()
    began = trio.current_time()
    assert await gpus.read() == {}
    assert await gpus.read() == {}, "its thread is not forgotten: no second one hangs beside it"
    assert trio.current_time() - began == 2 * NVML_TIMEOUT
    assert "NVML did not answer in 5 s" in caplog.text
    over.set()
    while not await gpus.read():
        pass
    assert set(gpus.latest) == {"0", "1"}
