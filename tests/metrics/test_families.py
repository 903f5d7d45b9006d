"""What the supervisor tells of itself, as Prometheus reads it."""

from pathlib import Path

import pytest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from muxd.core.states import WorkerState
from muxd.gpus import GpuMemory
from muxd.metrics import families as families_module
from muxd.metrics.facts import Facts, WorkerFacts
from muxd.metrics.families import read_host_memory, write
from muxd.metrics.switches import SwitchKind, Tally

WORKERS = (
    WorkerFacts("a", WorkerState.READY, 2, 1, {"declared": 50, "awake": 48}),
    WorkerFacts("b", WorkerState.ASLEEP, 0, 0, {"declared": 60, "awake": 58, "asleep": 2}),
    WorkerFacts("c", WorkerState.UNLOADED, 0, 0, {}),
)
SECONDS = {"drain": 1.0, "sleep": 2.5, "free": 0.25, "wake": 4.0}
SWITCHES = {SwitchKind("", "a", ""): Tally(1), SwitchKind("a+b", "c", "1+2"): Tally(2, SECONDS)}
FACTS = Facts("1.2.3", 12.5, WORKERS, (GpuMemory("0", "H200", 140, 90),), SWITCHES, {"a": 3, "gone": 1})

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def no_pause() -> None:
    pass


def read(facts: Facts, *more: Metric) -> Samples:
    """Every sample of the page; a name is there once."""
    found = list(text_string_to_metric_families(write(facts, more, no_pause).decode()))
    assert len({family.name for family in found}) == len(found)
    samples = [sample for family in found for sample in family.samples]
    return {(s.name, tuple(sorted(s.labels.items()))): s.value for s in samples}


def value(samples: Samples, name: str, **labels: str) -> float | None:
    return samples.get((name, tuple(sorted(labels.items()))))


def test_every_family_has_its_name_and_type():
    found = {family.name: family.type for family in text_string_to_metric_families(write(FACTS, (), no_pause).decode())}
    assert found == {
        "muxd_info": "gauge",
        "muxd_uptime_seconds": "gauge",
        "muxd_worker_state": "gauge",
        "muxd_worker_restarts": "counter",
        "muxd_worker_woke_wrong": "counter",
        "muxd_worker_memory_bytes": "gauge",
        "muxd_replicas": "gauge",
        "muxd_scalings": "counter",
        "muxd_switches": "counter",
        "muxd_switch_seconds": "summary",
        "muxd_gpu_memory_bytes": "gauge",
        "muxd_host_memory_bytes": "gauge",
        "muxd_engine_scrape_failures": "counter",
        "muxd_usage_requests": "counter",
        "muxd_usage_tokens": "counter",
    }


def test_a_worker_is_in_exactly_one_state():
    samples = read(FACTS)
    for worker in WORKERS:
        states = {state: value(samples, "muxd_worker_state", model=worker.name, state=state) for state in WorkerState}
        assert states == {state: float(state is worker.state) for state in WorkerState}


def test_what_is_not_known_is_not_told():
    samples = read(FACTS)
    told = {tuple(dict(labels).values()): size for (name, labels), size in samples.items() if "worker_memory" in name}
    assert told == {
        ("declared", "a"): 50,
        ("awake", "a"): 48,
        ("declared", "b"): 60,
        ("awake", "b"): 58,
        ("asleep", "b"): 2,
    }


def test_switches_and_where_their_time_went():
    samples = read(FACTS)
    kind = {"from": "a+b", "to": "c", "level": "1+2"}
    assert value(samples, "muxd_switches_total", **{"from": "", "to": "a", "level": ""}) == 1
    assert value(samples, "muxd_switches_total", **kind) == 2
    for part, seconds in SECONDS.items():
        assert value(samples, "muxd_switch_seconds_sum", **kind, part=part) == seconds
        assert value(samples, "muxd_switch_seconds_count", **kind, part=part) == 2


def test_counters_gauges_and_the_version():
    samples = read(FACTS)
    assert value(samples, "muxd_info", version="1.2.3") == 1
    assert value(samples, "muxd_uptime_seconds") == 12.5
    assert value(samples, "muxd_worker_restarts_total", model="a") == 2
    assert value(samples, "muxd_worker_woke_wrong_total", model="a") == 1
    assert value(samples, "muxd_gpu_memory_bytes", gpu="0", kind="used") == 90
    assert value(samples, "muxd_gpu_memory_bytes", gpu="0", kind="total") == 140
    failures = {model: value(samples, "muxd_engine_scrape_failures_total", model=model) for model in ("a", "b", "gone")}
    assert failures == {"a": 3, "b": 0, "gone": None}


@pytest.mark.parametrize("name", ['say "hi"', "two\nlines", "back\\slash", "\\n", 'é"\\\n'])
def test_any_name_is_escaped(name):
    odd = Facts(
        name, 0.0, (WorkerFacts(name, WorkerState.READY, 1, 0, {}),), (), {SwitchKind(name, name, "1"): Tally(1)}, {}
    )
    samples = read(odd)
    assert value(samples, "muxd_info", version=name) == 1
    assert value(samples, "muxd_worker_state", model=name, state="ready") == 1
    assert value(samples, "muxd_switches_total", **{"from": name, "to": name, "level": "1"}) == 1


def test_engines_come_after_it():
    engine = Metric("sglang:x", "What it is.", "gauge")
    engine.add_sample("sglang:x", {"model": "a"}, 5.0)
    page = write(FACTS, (engine,), no_pause).decode()
    assert page.endswith('# HELP sglang:x What it is.\n# TYPE sglang:x gauge\nsglang:x{model="a"} 5.0\n')


def test_the_hosts_memory_is_in_bytes():
    memory = read_host_memory()
    assert 1 << 28 < memory["available"] <= memory["total"]
    assert value(read(FACTS), "muxd_host_memory_bytes", kind="total") == memory["total"]


@pytest.mark.parametrize("text", [None, "", "MemTotal:\n", "MemTotal: many kB\n"])
def test_host_memory_that_cannot_be_read_is_left_out(text, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    if text is not None:
        (tmp_path / "meminfo").write_text(text)
    monkeypatch.setattr(families_module, "MEMINFO", tmp_path / "meminfo")
    assert not [name for name, _ in read(FACTS) if "host_memory" in name]


def test_a_kernel_that_tells_one_figure_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "meminfo").write_text("MemTotal:       16 kB\nMemFree:        8 kB\n")
    monkeypatch.setattr(families_module, "MEMINFO", tmp_path / "meminfo")
    assert read_host_memory() == {"total": 16384}
