"""The supervisor's metric families, and the page that holds them and the engines' families.

Only the first scrape imports this module, which needs prometheus_client.
"""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from prometheus_client import generate_latest
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    InfoMetricFamily,
    Metric,
    SummaryMetricFamily,
)
from prometheus_client.registry import Collector

from muxd.core.states import WorkerState
from muxd.history.usage_book import COUNTS

from .facts import Facts, WorkerFacts
from .switches import PARTS

MEMINFO = Path("/proc/meminfo")
HOST_MEMORY = {"MemAvailable": "available", "MemTotal": "total"}  # a line of MEMINFO -> kind


class Families(Collector):
    """All families of one scrape: the supervisor's own, then `more`."""

    def __init__(self, facts: Facts, more: Iterable[Metric] = ()) -> None:
        self._facts = facts
        self._more = more

    def collect(self) -> Iterator[Metric]:
        facts = self._facts
        yield InfoMetricFamily("muxd", "The muxd that runs.", {"version": facts.version})
        yield GaugeMetricFamily("muxd_uptime_seconds", "Seconds since the supervisor started.", facts.uptime)
        yield from _worker_families(facts.workers)
        yield from _replica_families(facts)
        yield from _switch_families(facts)
        yield _gpu_memory(facts)
        yield _host_memory()
        yield _scrape_failures(facts)
        yield from _usage_families(facts)
        yield from self._more


def _worker_families(workers: tuple[WorkerFacts, ...]) -> Iterator[Metric]:
    states = GaugeMetricFamily(
        "muxd_worker_state", "1 for the state that a model's worker is in, else 0.", labels=("model", "state")
    )
    restarts = CounterMetricFamily("muxd_worker_restarts", "Starts after the worker died or failed.", labels=("model",))
    woke_wrong = CounterMetricFamily(
        "muxd_worker_woke_wrong", "Wakes after which the worker answered otherwise than when loaded.", labels=("model",)
    )
    memory = GaugeMetricFamily(
        "muxd_worker_memory_bytes",
        "Memory on its GPUs together: declared, or measured when it was last awake and asleep.",
        labels=("model", "kind"),
    )
    for worker in workers:
        for state in WorkerState:
            states.add_metric((worker.name, state), worker.state is state)
        restarts.add_metric((worker.name,), worker.restarts)
        woke_wrong.add_metric((worker.name,), worker.woke_wrong)
        for kind, size in worker.memory.items():
            memory.add_metric((worker.name, kind), size)
    yield from (states, restarts, woke_wrong, memory)


def _replica_families(facts: Facts) -> Iterator[Metric]:
    replicas = GaugeMetricFamily(
        "muxd_replicas", "Replicas of a model: wanted, ready, and the bounds min and max.", labels=("model", "kind")
    )
    for model, scale in facts.replicas.items():
        counts = {"wanted": scale.wanted, "ready": scale.ready, "min": scale.least, "max": scale.most}
        for kind, count in counts.items():
            replicas.add_metric((model, kind), count)
    scalings = CounterMetricFamily(
        "muxd_scalings", "Steps to more or fewer replicas, by load or by order.", labels=("model", "direction")
    )
    for labels, count in facts.scalings.items():
        scalings.add_metric(labels, count)
    yield from (replicas, scalings)


def _switch_families(facts: Facts) -> Iterator[Metric]:
    kinds = ("from", "to", "level")
    switches = CounterMetricFamily(
        "muxd_switches", "Switches that made their target ready, by who gave way to it and how deep.", labels=kinds
    )
    seconds = SummaryMetricFamily(
        "muxd_switch_seconds",
        "Where a switch's time went: drain until nothing is in flight, sleep in the engine's calls or the end of its "
        "process, free until the memory is measured to be free, wake until the target is ready.",
        labels=(*kinds, "part"),
    )
    for kind, tally in facts.switches.items():
        labels = (kind.origin, kind.target, kind.level)
        switches.add_metric(labels, tally.count)
        for part in PARTS:
            seconds.add_metric((*labels, part), tally.count, tally.seconds[part])
    yield from (switches, seconds)


def _gpu_memory(facts: Facts) -> Metric:
    family = GaugeMetricFamily("muxd_gpu_memory_bytes", "Memory of a GPU, as last read.", labels=("gpu", "kind"))
    for gpu in facts.gpus:
        family.add_metric((gpu.id, "used"), gpu.used)
        family.add_metric((gpu.id, "total"), gpu.total)
    return family


def _host_memory() -> Metric:
    family = GaugeMetricFamily("muxd_host_memory_bytes", "Memory of this host.", labels=("kind",))
    for kind, size in read_host_memory().items():
        family.add_metric((kind,), size)
    return family


def read_host_memory() -> dict[str, int]:
    """Return the host's memory in bytes by "available" and "total", without those that /proc/meminfo does not give."""
    try:
        lines = (line.partition(":") for line in MEMINFO.read_text().splitlines())
        return {HOST_MEMORY[name]: int(rest.split()[0]) << 10 for name, _, rest in lines if name in HOST_MEMORY}
    except (OSError, ValueError, IndexError):
        return {}


def _scrape_failures(facts: Facts) -> Metric:
    family = CounterMetricFamily(
        "muxd_engine_scrape_failures",
        "Scrapes that an awake model's engine did not answer in time, or not with metrics.",
        labels=("model",),
    )
    for worker in facts.workers:
        family.add_metric((worker.name,), facts.scrape_failures.get(worker.name, 0))
    return family


def _usage_families(facts: Facts) -> Iterator[Metric]:
    requests = CounterMetricFamily(
        "muxd_usage_requests", "Requests of an API key for a model that have ended.", labels=("key", "model")
    )
    tokens = CounterMetricFamily(
        "muxd_usage_tokens",
        "Tokens of a key's requests: prompt, of these cached, completion; event: of streams without usage.",
        labels=("key", "model", "kind"),
    )
    for labels, counts in facts.usage.items():
        by_name = dict(zip(COUNTS, counts, strict=True))
        requests.add_metric(labels, by_name["requests"])
        for kind in ("prompt", "cached", "completion", "event"):
            tokens.add_metric((*labels, kind), by_name[f"{kind}_tokens"])
    yield from (requests, tokens)


def write(facts: Facts, engines: Iterable[Metric], breathe: Callable[[], None]) -> bytes:
    """Return the page in Prometheus' text format; `breathe` is called before each family of the engines."""

    def breathing() -> Iterator[Metric]:
        for family in engines:
            breathe()
            yield family

    return generate_latest(Families(facts, breathing()))
