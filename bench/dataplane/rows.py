"""The rows of the table: what is done to a target, the figures that come of it, and muxd's goals."""

import resource
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from bench.processes import cpu_seconds

from .programs import Load, Seen
from .quota import capped
from .targets import MUXD_ALONE, Running, is_data_plane, used

Figures = Mapping[str, float]
"""By Row.key."""

ROUTER = "sglang-router"
BODY_BYTES = 5_000_000
QUOTA = 0.15  # of a core, for each process in the row `quota`
HELD = 10_000  # streams
SOCKETS_EACH = 2  # of a proxy, for one stream
SPARE = 200  # descriptors of a proxy that are no stream's


class Failed(Exception):
    """What a target did instead; it goes into the table."""


@dataclass(frozen=True, slots=True)
class Goal:
    """muxd's figure is at most `limit` times that of the peer `of`, or than `limit` itself where there is none."""

    limit: float
    of: str | None = None
    at_least: bool = False  # in place of "at most"
    stretch: float | None = None  # a limit that would be better still


@dataclass(frozen=True, slots=True)
class Row:
    key: str
    name: str
    unit: str
    goals: tuple[Goal, ...] = ()


@dataclass(frozen=True, slots=True)
class Experiment:
    name: str
    rows: tuple[Row, ...]
    run: Callable[[Running, Load], Figures]


def costed(target: Running, act: Callable[[], Seen]) -> tuple[Seen, float]:
    """And the seconds of CPU that the target used meanwhile.  Raises Failed."""
    before = target.cpu()
    seen = act()
    seconds = used(before, target.cpu())
    if seen["refused"]:
        raise Failed(f"answers {seen['status']:.0f}")
    if seen["errors"]:
        raise Failed(f"{seen['errors']:.0f} connections broke")
    if seen["cut"]:
        raise Failed(f"{seen['cut']:.0f} not done in {seen['seconds']:.0f} s")
    if not seen["answers"]:
        raise Failed("no answer")
    return seen, seconds


def costs(target: Running, figures: Figures) -> Figures:
    """What cost CPU; without a proxy it is nobody's."""
    return figures if target.root is not None else {}


# Requests


def requests(target: Running, load: Load) -> Figures:
    load.requests(32, 0.5)
    seen, cpu = costed(target, lambda: load.requests(32, 2))
    cost = {"request.cpu": 1e6 * cpu / seen["answers"], "request.core": 100 * cpu / seen["seconds"]}
    return {"request.rate": seen["answers"] / seen["seconds"], **costs(target, cost)}


def ids(target: Running, load: Load) -> Figures:
    load.requests(32, 0.5, unique=True)
    seen, cpu = costed(target, lambda: load.requests(32, 2, unique=True))
    return costs(target, {"ids.cpu": 1e6 * cpu / seen["answers"]})


def latency(target: Running, load: Load) -> Figures:
    seen, _ = costed(target, lambda: load.requests(1, 1))
    return {"latency": seen["latency_p50"]}


def body(target: Running, load: Load) -> Figures:
    load.requests(8, 0.2, BODY_BYTES)
    seen, cpu = costed(target, lambda: load.requests(8, 2, BODY_BYTES))
    return costs(target, {"body.cpu": 1e3 * cpu / seen["answers"]})


def quota(target: Running, load: Load) -> Figures:
    """Each process of the proxy has a small share of a core, so that load and server never want for theirs."""
    pids = [pid for pid in target.processes() if is_data_plane(pid)]
    try:
        with capped(pids, QUOTA):
            load.requests(64, 0.5)
            before = [cpu_seconds(pid) for pid in pids]
            seen, _ = costed(target, lambda: load.requests(64, 3))
            spent = sum(map(cpu_seconds, pids)) - sum(before)
    except OSError as error:
        raise Failed("no quota: a cgroup's cpu controller and root are needed") from error
    return {
        "quota.rate": seen["answers"] / seen["seconds"],
        "quota.used": 100 * spent / (seen["seconds"] * QUOTA * len(pids)),
    }


REQUESTS = (
    Row(
        "request.cpu",
        "CPU per request (664-byte reply, 32 connections)",
        "us",
        (Goal(0.35, ROUTER, stretch=0.3), Goal(1.5, "nginx")),
    ),
    Row("request.rate", "requests/s on one core", "/s", (Goal(2.5, ROUTER, at_least=True),)),
    Row("request.core", "of that core, what was used", "%"),
)
IDS = (Row("ids.cpu", "CPU per request, each with an id of its own", "us"),)
QUOTAS = (
    Row("quota.rate", f"requests/s with {QUOTA:.0%} of a core for each process of the proxy", "/s"),
    Row("quota.used", "- of these shares, what was used", "%"),
)
LATENCY = (Row("latency", "latency p50, 1 connection", "us"),)
BODY = (Row("body.cpu", "CPU per request with a 5 MB body", "ms", (Goal(0.7, ROUTER),)),)


# Streams


def streams(count: int, events: int, interval_ms: float) -> Experiment:
    """`count` at once; each has an event every `interval_ms`."""
    key, at = f"streams-{count}", f"{count} streams, an event every {interval_ms:g} ms"

    def run(target: Running, load: Load) -> Figures:
        load.streams(16, 20, 2, 0.05)
        seen, cpu = costed(target, lambda: load.streams(count, events, interval_ms, 1))
        return {
            **costs(target, {f"{key}.cpu": 1e6 * cpu / seen["events"]}),
            f"{key}.ttft": seen["first_event_p50"] / 1e3,
            f"{key}.p50": seen["delay_p50"] / 1e3,
            f"{key}.p99": seen["delay_p99"] / 1e3,
        }

    quick_start = (Goal(0.7, ROUTER),) if count == 256 else ()
    rows = (
        Row(f"{key}.cpu", f"CPU per event: {at}", "us", (Goal(1.0, ROUTER, stretch=0.8),)),
        Row(f"{key}.ttft", "- time to the first event, p50", "ms", quick_start),
        Row(f"{key}.p50", "- event delay p50", "ms"),
        Row(f"{key}.p99", "- event delay p99", "ms", (Goal(1.0, ROUTER),)),
    )
    return Experiment(key, rows, run)


def memory(target: Running, load: Load) -> Figures:
    """In the middle of a run of its own: to be looked at takes a process tens of milliseconds."""
    with ThreadPoolExecutor(1) as beside:
        running = beside.submit(costed, target, lambda: load.streams(1000, 6, 500, 0.5))
        time.sleep(2)  # of the 3 s that all of them run
        sizes = target.pss()
        running.result()
    if not sizes:
        return {}
    others = [size for pid, size in sizes.items() if target.name in MUXD_ALONE and not is_data_plane(pid)]
    return {"memory": sum(sizes.values()) - sum(others), **({"memory.rest": sum(others)} if others else {})}


MEMORY = (
    Row("memory", "PSS at 1000 streams", "MB", (Goal(0.3, ROUTER),)),
    Row("memory.rest", "- and of muxd's supervisor and shims", "MB"),
)


def streams_to_hold() -> int:
    """As many as the limit of open files lets one process have."""
    return min(HELD, (resource.getrlimit(resource.RLIMIT_NOFILE)[0] - SPARE) // SOCKETS_EACH)


def held(target: Running, load: Load) -> Figures:
    before, count = target.cpu(), streams_to_hold()
    seen = load.streams(count, 20, 1000, 5)
    cpu = used(before, target.cpu())
    if not seen["events"]:
        raise Failed("no event")
    return {
        "held": seen["completed"],
        "held.p99": seen["delay_p99"] / 1e3,
        **costs(target, {"held.cpu": 1e6 * cpu / seen["events"]}),
    }


HOLD = (
    Row("held", f"of {HELD} streams, an event a second for 20 s: held", "", (Goal(HELD, at_least=True),)),
    Row("held.p99", "- event delay p99", "ms", (Goal(100.0),)),
    Row("held.cpu", "- CPU per event", "us"),
)

EXPERIMENTS = (
    Experiment("requests", REQUESTS, requests),
    Experiment("ids", IDS, ids),
    Experiment("quota", QUOTAS, quota),
    Experiment("latency", LATENCY, latency),
    streams(32, 100, 20),
    streams(256, 50, 50),
    streams(1000, 30, 100),
    Experiment("memory", MEMORY, memory),
    Experiment("body", BODY, body),
    Experiment("held", HOLD, held),
)
