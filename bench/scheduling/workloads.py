"""What clients want of models that share a GPU; each by a seed, and the same for every host."""

import random
from collections import deque
from collections.abc import Callable, Iterator, Mapping

from .world import Request, Session, Workload

#: Seconds of a mean answer.
ANSWER = 4.0

#: Clients that stay away once they have waited so many seconds, of those that do.
IMPATIENCE = (1.0, 10.0)


def arrivals(rate: float, span: float, chance: random.Random) -> Iterator[float]:
    """Yield the times of requests that come by chance, so many a second in the mean."""
    at = chance.expovariate(rate)
    while at < span:
        yield at
        at += chance.expovariate(rate)


def answer(chance: random.Random, mean: float = ANSWER) -> float:
    return chance.expovariate(1 / mean)


def open_load(name: str, rates: Mapping[str, float], span: float, chance: random.Random, **more: object) -> Workload:
    """Return requests that come by chance, each model's at its rate, from clients that do not wait for one another."""
    found = [Request(m, at, answer(chance)) for m, rate in rates.items() for at in arrivals(rate, span, chance)]
    return Workload(name, tuple(rates), in_order(found), **more)  # type: ignore[arg-type]


def in_order(requests: list[Request]) -> tuple[Request, ...]:
    return tuple(sorted(requests, key=lambda request: request.at))


def balanced(span: float, chance: random.Random) -> Workload:
    return open_load("balanced", {"a": 0.5, "b": 0.5}, span, chance)


def dominant(span: float, chance: random.Random) -> Workload:
    return open_load("dominant", {"a": 0.9, "b": 0.1}, span, chance)


def saturated(span: float, chance: random.Random) -> Workload:
    """One model is never idle."""
    return open_load("saturated", {"a": 2.5, "b": 0.05}, span, chance)


def bursty(span: float, chance: random.Random) -> Workload:
    """Twelve requests within three seconds, for each of three models once a minute."""
    found = [
        Request(model, burst + chance.uniform(0, 3), answer(chance))
        for model in "abc"
        for burst in arrivals(1 / 60, span, chance)
        for _ in range(12)
    ]
    return Workload("bursty", ("a", "b", "c"), in_order(found))


def agentic(span: float, chance: random.Random) -> Workload:
    """Two agents, each with a model of its own, that think for 0.1 to 1 s after each answer."""
    count = int(span / 15)
    return Workload("agentic", ("a", "b"), sessions=tuple(_agent(m, count, chance) for m in "ab"))


def _agent(model: str, count: int, chance: random.Random) -> Session:
    return Session(deque((model, chance.uniform(0.1, 1.0), chance.uniform(0.3, 1.5)) for _ in range(count)))


def long_answers(span: float, chance: random.Random) -> Workload:
    """One answer in twenty takes two minutes."""
    found = [
        Request(model, at, 120.0 if chance.random() < 0.05 else answer(chance))
        for model in "ab"
        for at in arrivals(0.15, span, chance)
    ]
    return Workload("long answers", ("a", "b"), in_order(found))


def zipf(span: float, chance: random.Random) -> Workload:
    return open_load("four, Zipf", dict(zip("abcd", (0.48, 0.24, 0.16, 0.12), strict=True)), span, chance)


def eight(span: float, chance: random.Random) -> Workload:
    """Eight models of which three fit, by a Zipf distribution."""
    total = sum(1 / rank for rank in range(1, 9))
    rates = {model: 1.5 / rank / total for rank, model in enumerate("abcdefgh", start=1)}
    return open_load("eight, three fit", rates, span, chance, awake_together=3)


def crashes(span: float, chance: random.Random) -> Workload:
    """Every fifth minute a load comes to nothing."""
    times = tuple(float(at) for at in range(150, int(span), 300))
    return open_load("crash in a load", {"a": 0.3, "b": 0.2, "c": 0.1}, span, chance, crashes=times)


def disconnects(span: float, chance: random.Random) -> Workload:
    """Four clients in ten go away while they wait."""
    found = [
        Request(m, at, answer(chance), chance.uniform(*IMPATIENCE) if chance.random() < 0.4 else float("inf"))
        for m, rate in {"a": 0.3, "b": 0.2, "c": 0.1}.items()
        for at in arrivals(rate, span, chance)
    ]
    return Workload("disconnects", ("a", "b", "c"), in_order(found))


WORKLOADS: tuple[Callable[[float, random.Random], Workload], ...] = (
    balanced,
    dominant,
    saturated,
    bursty,
    agentic,
    long_answers,
    zipf,
    eight,
    crashes,
    disconnects,
)


def small(models: int, requests: int, span: float, chance: random.Random) -> Workload:
    """Return few requests, for which the optimum can be found."""
    names = "abc"[:models]
    found = [Request(chance.choice(names), chance.uniform(0, span), answer(chance)) for _ in range(requests)]
    return Workload("small", tuple(names), in_order(found))
