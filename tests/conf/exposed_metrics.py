"""What is on the page of metrics, as the code writes it: one of everything is counted, and the page is read again."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import trio
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

import muxd
from muxd.core.states import WorkerState
from muxd.core.view import ScaleView
from muxd.gpus import GpuMemory
from muxd.metrics.facts import Facts, WorkerFacts
from muxd.metrics.families import write
from muxd.metrics.switches import PARTS, SwitchKind, Tally
from muxd.proxy.telemetry.exposition import own_page
from muxd.proxy.telemetry.metrics import Gauges, ProxyMetrics
from tests.real.install import DEFAULT, SGLangInstallation


@dataclass(frozen=True, slots=True)
class Exposed:
    families: dict[str, tuple[str, frozenset[str]]]  # name as documented -> type, labels
    labels: dict[str, frozenset[str]]  # name of a sample, such as NAME_bucket -> its labels
    values: dict[tuple[str, str], set[str]]  # sample, label -> what it was seen to be


@cache
def exposed() -> Exposed:
    families: dict[str, tuple[str, frozenset[str]]] = {}
    labels: dict[str, frozenset[str]] = {}
    values: dict[tuple[str, str], set[str]] = {}
    for family in text_string_to_metric_families(page()):
        for sample in family.samples:
            labels[sample.name] = frozenset(sample.labels)
            for label, value in sample.labels.items():
                values.setdefault((sample.name, label), set()).add(value)
        families[documented_name(family)] = family.type, labels[family.samples[0].name] - {"le"}
    return Exposed(families, labels, values)


def documented_name(family: Metric) -> str:
    return f"{family.name}_total" if family.type == "counter" else family.name


def page() -> str:
    return trio.run(_proxys_page).decode() + _supervisors_page()


async def _proxys_page() -> bytes:
    """Of a proxy that has counted one of everything."""
    meters = ProxyMetrics(lambda: Gauges(1, 2, 3, {"qwen": (4, 5)}, batch={"qwen": (1, 2)}))
    meters.of("qwen").finished("/v1/responses", 200, [1.0])
    meters.rejected("switch_timeout")
    return await own_page(meters, up=True)


def _supervisors_page() -> str:
    """Of a muxd that has one of everything."""
    worker = WorkerFacts("qwen", WorkerState.READY, 1, 0, {"declared": 3, "awake": 2, "asleep": 1})
    switches = {SwitchKind("llama", "qwen", "1"): Tally(1, dict.fromkeys(PARTS, 1.0))}
    usage = {("alice", "qwen"): (1, 0, 2, 0, 3, 0)}
    facts = Facts(
        muxd.__version__,
        1.0,
        (worker,),
        (GpuMemory("0", "H100", 2, 1),),
        switches,
        {"qwen": 1},
        replicas={"qwen": ScaleView(2, 1, 1, 2, True, "")},
        scalings={("qwen", "up"): 1, ("qwen", "down"): 1},
        usage=usage,
    )
    return write(facts, (), lambda: None).decode()


@cache
def error_codes() -> set[str]:
    """Every string in the code that could be one."""
    word = re.compile(r'"([a-z]+(?:_[a-z]+)+)"')
    return {code for text in _sources(Path(muxd.__file__).parent) for code in word.findall(text)}


def told_by_sglang() -> set[str] | None:
    """The names in the source of the SGLang that is installed for tests/real; None where it is not, or not yet."""
    target = SGLangInstallation(DEFAULT)
    if target.missing_steps():
        return None
    places = target.site_packages() / "sglang/srt/observability"
    return {name for text in _sources(places) for name in re.findall(r'name="(sglang:\w+)"', text)}


def _sources(folder: Path) -> Iterator[str]:
    return (path.read_text() for path in folder.rglob("*.py"))
