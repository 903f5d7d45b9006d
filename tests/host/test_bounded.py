"""A probe that hangs, fails, or finds no thread is given up, whoever asks."""

import threading

import pynvml
import pytest

from muxd import nvml
from muxd.gpus import CannotAsk
from muxd.host.bounded import NoAnswer, within


def test_where_no_thread_can_be_started_it_is_told(monkeypatch):
    def refuses(thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuses)
    with pytest.raises(NoAnswer, match=r"may start no further thread \(ulimit -u, pids.max\)"):
        within(lambda: 1)


def test_a_driver_that_hangs_is_given_up_like_any_other_probe(monkeypatch):
    held = threading.Event()
    monkeypatch.setattr(nvml, "NVML_TIMEOUT", 0.01)
    monkeypatch.setattr(pynvml, "nvmlInit", held.wait)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetCount", lambda: 0)
    monkeypatch.setattr(pynvml, "nvmlShutdown", lambda: None)
    with pytest.raises(CannotAsk, match=r"^NVML: no answer in 0 s$"):
        nvml.installed_gpus()
    held.set()
