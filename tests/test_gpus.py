"""NVML's side of the seam, with the library's calls replaced: no GPU is here to be lost."""

from types import SimpleNamespace

import pynvml
import pytest

from muxd.gpus import NvmlGpus


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
    assert set(await gpus.read()) == {0, 1}
    nvml.add(1)
    assert set(await gpus.read()) == {0}
    assert set(gpus.latest) == {0}


async def test_where_all_are_lost_nothing_is_read(nvml):
    nvml.update({0, 1})
    assert await NvmlGpus().read() == {}
