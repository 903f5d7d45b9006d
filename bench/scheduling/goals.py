"""Every host on every workload, and what comes of it beside the goals."""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from itertools import repeat
from math import isinf, isnan, nan, sqrt
from statistics import mean, median

from bench.core_decision import WORLDS, Turns

from . import peers
from .core_host import CoreHost, Estimate
from .foresight import best_share
from .optimum import least_mean_wait
from .peers import GpuEach, OneAwake
from .workloads import WORKLOADS, agentic, eight, small
from .world import SLOTS, START_SHARE, WAKE_SHARE, Host, Run, Workload, World

COSTS = (0.2, 2.0, 8.0, 60.0)

HOSTS: dict[str, Callable[[], Host]] = {
    "FIFO": lambda: OneAwake(peers.fifo),
    "collate": lambda: OneAwake(peers.collate),
    "min-active": lambda: OneAwake(peers.min_active),
    "tenure": lambda: OneAwake(peers.tenure),
    "muxd": CoreHost,
    "a GPU each": GpuEach,
}

#: Rules of those who do not know what will come.
ONLINE = (*peers.PATIENT, peers.fifo, peers.collate, peers.min_active, peers.tenure)

#: Collate lets a model starve where a smaller share of its requests than this is begun in time.
STARVED = 0.05

#: The longest p99 wait that is good enough, as a share of collate's.
P99_GOAL = 0.7

#: Who is compared with where a goal is missed.
CHOSEN = (
    f"the best of {len(peers.PATIENT)} rules that do not know how long answers take, one for all runs of a setting and "
    "chosen for it afterwards, among those that let nobody wait longer than muxd did, keep the goal for p99 where "
    "there is one, and whose clients were through as soon"
)

#: The workloads with a goal for p99.
WITH_P99 = ("dominant", "saturated")

#: Clients are through as soon where they take at most so many times as long.
AS_SOON = 1.02

#: muxd has learned what drains take from a load of the same kind, made by a seed that is so much higher.
PRACTICE = 1000

#: A difference is not told from chance where it is at most so many standard errors.
DISTINCT = 2.0

#: What a switch takes varies by so much, as a share of it, where estimates are measured.
SPREAD = 0.1


@dataclass(frozen=True, slots=True)
class Setting:
    """What all hosts made of one workload at one cost of a switch, over all seeds."""

    name: str
    cost: float
    runs: dict[str, list[Run]]
    bounds: list[float]  # of muxd, by seed

    @property
    def loads(self) -> list[Workload]:
        return [run.workload for run in self.runs["muxd"]]

    def share(self, host: str, model: str | None = None) -> float:
        """Return the share of requests, of one model or of all, that were begun in time."""
        runs = self.runs[host]
        count = sum(model in (None, request.model) for run in runs for request in run.requests)
        return sum(run.good(model) for run in runs) / max(1, count)

    def goodput(self, host: str) -> float:
        """Return how many requests a second were begun in time."""
        return sum(run.good() for run in self.runs[host]) / sum(run.seconds for run in self.runs[host])

    def poorest(self, host: str) -> float:
        """Return the share of the model with the least."""
        return min(self.share(host, model) for model in self.runs[host][0].workload.models)

    def against_collate(self) -> float:
        """Return muxd's goodput as a share of collate's."""
        return self.goodput("muxd") / self.goodput("collate")

    def poorest_against_collate(self) -> float:
        """Return likewise that of the model with the least: its share in time, per second until the last answer."""
        ours, theirs = (self.poorest(host) / self.seconds(host) for host in ("muxd", "collate"))
        return ours / max(theirs, 1e-9)

    def error(self, figure: Callable[["Setting"], float]) -> float:
        """Return the standard error of a figure of all runs, by leaving each seed out in turn (the jackknife).

        All hosts have had the same loads: it is that of a paired difference.
        """
        count = len(self.bounds)
        left_out = [figure(self._without(number)) for number in range(count)] if count > 1 else [nan]
        middle = mean(left_out)
        return sqrt((count - 1) / count * sum((value - middle) ** 2 for value in left_out))

    def _without(self, number: int) -> "Setting":
        runs = {host: [*some[:number], *some[number + 1 :]] for host, some in self.runs.items()}
        return replace(self, runs=runs, bounds=[*self.bounds[:number], *self.bounds[number + 1 :]])

    def mean(self, host: str) -> float:
        return mean(run.mean for run in self.runs[host])

    def p99(self, host: str) -> float:
        return mean(run.p99 for run in self.runs[host])

    def seconds(self, host: str) -> float:
        return mean(run.seconds for run in self.runs[host])

    def to_bound(self) -> float:
        """Return the longest wait as a share of the stated bound."""
        return max(run.worst / bound for run, bound in zip(self.runs["muxd"], self.bounds, strict=True))

    def crashed_bound(self) -> float:
        """Return the bound, as a share of it, with what loads took that came to nothing while the longest waited."""
        ratios = [run.worst / bound for run, bound in zip(self.runs["muxd"], self.bounds, strict=True)]
        number = ratios.index(max(ratios))
        run, bound = self.runs["muxd"][number], self.bounds[number]
        late = max(run.requests, key=lambda request: 0.0 if isinf(request.wait) else request.wait)
        count = sum(late.at <= at <= late.at + late.wait for at in run.crashed)
        return 1 + count * self.cost * (WAKE_SHARE / 2 + START_SHARE) / bound

    @property
    def fits(self) -> bool:
        """Say whether service, and a switch to each model within the bound, take at most 80 % of the GPU's time."""
        models = len(self.runs["muxd"][0].workload.models)
        switching = mean(models * self.cost / bound for bound in self.bounds)
        return mean(run.service for run in self.runs["a GPU each"]) + switching <= 0.8

    @property
    def collate_starves(self) -> bool:
        return self.poorest("collate") < STARVED


def settings(span: float, seeds: int, costs: Sequence[float] = COSTS) -> Iterator[Setting]:
    """Yield all settings, each run in a process of its own, as many at once as there are cores."""
    each = [(workload, cost) for workload in WORKLOADS for cost in costs]
    with ProcessPoolExecutor() as pool:
        yield from pool.map(_setting, *zip(*each, strict=True), repeat(span), repeat(seeds))


def _setting(workload: Callable[[float, random.Random], Workload], cost: float, span: float, seeds: int) -> Setting:
    loads = [workload(span, random.Random(seed)) for seed in range(seeds)]
    runs = {name: [World(load, make(), cost).run() for load in loads] for name, make in HOSTS.items() if name != "muxd"}
    hosts = [_practised(workload(span, random.Random(PRACTICE + seed)), cost) for seed in range(seeds)]
    runs["muxd"] = [World(load, host, cost).run() for load, host in zip(loads, hosts, strict=True)]
    return Setting(loads[0].name, cost, runs, [host.bound() for host in hosts])


def _practised(load: Workload, cost: float) -> CoreHost:
    """Return a core that has learned from another load what drains take."""
    World(load, host := CoreHost(), cost).run()
    return CoreHost(drains=host.drains)


def again(setting: Setting, make: Callable[[int], Host]) -> float:
    """Return the goodput of another host in a setting, made for the number of each of its runs."""
    return goodput([World(load, make(number), setting.cost).run() for number, load in enumerate(setting.loads)])


def goodput(runs: Sequence[Run]) -> float:
    return sum(run.good() for run in runs) / sum(run.seconds for run in runs)


class Hindsight:
    """What those have had who do not know how long answers take, each of PATIENT's rules in all runs of a setting.

    Of these the best is chosen afterwards, among those that let nobody wait longer than muxd did in any run, whose p99
    is good enough where there is a goal for it, and whose clients were through as soon.
    """

    def __init__(self, setting: Setting) -> None:
        tried = (replace(setting, runs=setting.runs | {"one": self._runs(setting, rule)}) for rule in peers.PATIENT)
        figures = [(each.goodput("one"), each.poorest("one")) for each in tried if self._is_as_good(each)]
        self._goodputs, self._poorest = zip(*figures, strict=True) if figures else ((), ())

    def _runs(self, setting: Setting, rule: peers.Rule) -> list[Run]:
        return [World(load, OneAwake(rule), setting.cost).run() for load in setting.loads]

    def _is_as_good(self, each: Setting) -> bool:
        longest = max(run.worst for run in each.runs["muxd"])
        has_p99 = each.name not in WITH_P99 or each.p99("one") <= P99_GOAL * each.p99("collate")
        is_as_soon = each.seconds("one") <= AS_SOON * each.seconds("muxd")
        return has_p99 and is_as_soon and max(run.worst for run in each.runs["one"]) <= longest

    def goodput(self) -> float:
        """Return the best; NaN where no rule is like that."""
        return max(self._goodputs, default=nan)

    def poorest(self) -> float:
        """Return likewise the best share of the poorest model."""
        return max(self._poorest, default=nan)


@dataclass(frozen=True, slots=True)
class Row:
    """A goal, what was found, and whether it is met; `why`: what is the matter where it is not.

    `optimum`: what is the best that can be had, where that does not meet the goal; "": it would.
    """

    goal: str
    found: str
    met: bool
    why: str = ""
    optimum: str = ""


def rows(found: Sequence[Setting], span: float, seeds: int) -> list[Row]:
    by_name = {(each.name, each.cost): each for each in found}
    return [
        *_against_fifo(found, by_name["balanced", 8.0]),
        *_against_collate(found),
        _closed_loops([each for each in found if each.name == "agentic"], span, seeds),
        *_within_bound(found),
        *_against_optimum(min(40, 10 * seeds)),
        _eight(by_name["eight, three fit", 8.0], span, seeds),
        _decision(),
        *_estimates(span, min(16, 4 * seeds)),
    ]


def _named(found: Sequence[Setting], figure: Callable[[Setting], float]) -> str:
    return ", ".join(f"{each.name} at {each.cost:g} s {figure(each):.2f}" for each in found)


def _against_fifo(found: Sequence[Setting], balanced: Setting) -> Iterator[Row]:
    def ratio(each: Setting, host: str = "muxd") -> float:
        return each.goodput(host) / max(each.goodput("FIFO"), 1e-9)

    most = ratio(balanced, "a GPU each")
    some = again(balanced, lambda _: OneAwake(peers.fifo, turn=SLOTS))
    yield Row(
        "goodput >= 10 x FIFO's in balanced at 8 s",
        f"{ratio(balanced):.2f} x; {balanced.goodput('muxd') / some:.0f} x one that lets in {SLOTS} a turn",
        ratio(balanced) >= 10,
        "sglangmux and llmux let in all who wait; nobody can have more than a GPU for each model has",
        f"{most:.2f} x",
    )
    below = [each for each in found if ratio(each) < 0.995]
    yield Row("goodput never below FIFO's", _named(below, ratio) or "nowhere below", not below)


def _against_collate(found: Sequence[Setting]) -> Iterator[Row]:
    def p99(each: Setting) -> float:
        return each.p99("muxd") / each.p99("collate")

    def least_p99(each: Setting) -> float:
        """Return the ratio of the shortest that somebody can have who is free to let others wait for ever."""
        rules = (*peers.PATIENT, *map(peers.bounded, range(30, 600, 30)))
        runs = [[World(load, OneAwake(rule), each.cost).run().p99 for rule in rules] for load in each.loads]
        return mean(map(min, runs)) / each.p99("collate")

    two = [each for each in found if each.name in WITH_P99]
    dear = [each for each in two if p99(each) > P99_GOAL]
    at_best = {(each.name, each.cost): least_p99(each) for each in dear}
    yield Row(
        f"p99 wait <= {P99_GOAL} x collate's in dominant and saturated",
        _named(two, p99),
        not dear,
        f"the shortest of {len(peers.PATIENT)} rules, and of some that know how long answers take, chosen for each run "
        "afterwards",
        _optimum(at_best) if all(least > P99_GOAL for least in at_best.values()) else "",
    )

    def needed(each: Setting) -> float:
        return 0.93 if each.collate_starves else 0.995

    def knowing(each: Setting) -> float:
        """Return the ratio of one whose waits are no longer than muxd's longest, and who knows each answer's length."""
        worst = [run.worst for run in each.runs["muxd"]]
        bounded = again(each, lambda number: OneAwake(peers.bounded(worst[number]), backfills=True))
        return bounded / each.goodput("collate")

    def is_chance(each: Setting, figure: Callable[[Setting], float], goal: float) -> bool:
        return figure(each) + DISTINCT * each.error(figure) >= goal

    ratio, poor_ratio = Setting.against_collate, Setting.poorest_against_collate
    under = [each for each in found if ratio(each) < needed(each)]
    even = [each for each in under if is_chance(each, ratio, 0.93 if each.collate_starves else 1.0)]
    below = [each for each in under if each not in even]
    under = [each for each in found if poor_ratio(each) < 0.995]
    evenly_poor = [each for each in under if is_chance(each, poor_ratio, 1.0)]
    poorer = [each for each in under if each not in evenly_poor]
    doubtful = [each for each in found if each in below or each in poorer]
    with ProcessPoolExecutor() as pool:
        names = [(each.name, each.cost) for each in doubtful]
        hindsight = dict(zip(names, pool.map(Hindsight, doubtful), strict=True))

    def chosen(each: Setting) -> float:
        return hindsight[each.name, each.cost].goodput() / each.goodput("collate")

    best = {(each.name, each.cost): chosen(each) for each in below}
    foreseen = {(each.name, each.cost): knowing(each) for each in below}
    best = {setting: foreseen[setting] if isnan(ratio) else ratio for setting, ratio in best.items()}
    near = [each for each in below if best[each.name, each.cost] < needed(each)]
    rest = [each for each in below if each not in near]
    yield Row(
        "goodput not below collate's, and >= 0.93 x where collate starves a model",
        f"met in {len(found) - len(below) - len(even)} of {len(found)}; below: {_spread(below, ratio)}; not told from "
        f"chance: {_spread(even, ratio)}",
        not below,
        f"{CHOSEN}: {_told(best)}. Out of reach for these at {_names(near) or 'none'}; missed at "
        f"{_names(rest) or 'none'}. Who knows before how long each answer takes: {_told(foreseen)}",
        "" if rest else _optimum(best),
    )
    richest = {(each.name, each.cost): hindsight[each.name, each.cost].poorest() for each in poorer}
    short = [each for each in poorer if richest[each.name, each.cost] < each.poorest("collate") - 0.005]
    rest = [each for each in poorer if each not in short]
    shares = ", ".join(
        f"{each.name} at {each.cost:g} s {each.poorest('muxd'):.0%} of {each.poorest('collate'):.0%}"
        for each in (*poorer, *evenly_poor)
    )
    yield Row(
        "the worst model's goodput never below collate's",
        f"met in {len(found) - len(poorer) - len(evenly_poor)} of {len(found)}; below: {_spread(poorer, poor_ratio)}; "
        f"not told from chance: {_spread(evenly_poor, poor_ratio)}; in time there: {shares or 'all as many'}",
        not poorer,
        f"{CHOSEN}: {_told(richest, '.0%')}. Out of reach for these at {_names(short) or 'none'}; missed at "
        f"{_names(rest) or 'none'}",
        "" if rest else _optimum(richest, ".0%"),
    )


def _spread(found: Sequence[Setting], figure: Callable[[Setting], float]) -> str:
    """Name settings with a figure of each and its standard error."""
    return (
        ", ".join(f"{each.name} at {each.cost:g} s {figure(each):.3f} ± {each.error(figure):.3f}" for each in found)
        or "none"
    )


def _names(found: Sequence[Setting]) -> str:
    return ", ".join(f"{each.name} at {each.cost:g} s" for each in found)


def _told(best: Mapping[tuple[str, float], float], form: str = ".2f") -> str:
    return ", ".join(
        f"{name} at {cost:g} s {'none' if isnan(ratio) else format(ratio, form)}"
        for (name, cost), ratio in best.items()
    )


def _optimum(best: Mapping[tuple[str, float], float], form: str = ".2f") -> str:
    """Return the best of all where one is told, and all of them where there are more."""
    return ", ".join(f"{ratio:{form}}" for ratio in best.values())


def _closed_loops(found: Sequence[Setting], span: float, seeds: int) -> Row:
    def ratio(each: Setting) -> float:
        return each.seconds("muxd") / min(each.seconds("FIFO"), each.seconds("collate"))

    loads = [agentic(span, random.Random(seed)) for seed in range(seeds)]
    alone = mean(sum(t + a for session in load.sessions for _, t, a in session.turns) for load in loads)
    best = {each.cost: (alone + each.cost) / min(each.seconds("FIFO"), each.seconds("collate")) for each in found}
    over = [each for each in found if ratio(each) > 0.5]
    return Row(
        "agentic closed loops: wall time <= 0.5 x FIFO's and collate's",
        ", ".join(f"at {each.cost:g} s {ratio(each):.2f}" for each in found),
        not over,
        "one agent after the other, with one switch in all: "
        + ", ".join(f"at {c:g} s {r:.2f}" for c, r in best.items()),
        ", ".join(f"{best[each.cost]:.2f}" for each in over) if all(best[each.cost] > 0.5 for each in over) else "",
    )


def _within_bound(found: Sequence[Setting]) -> Iterator[Row]:
    fitting = [each for each in found if each.fits]
    late = [each for each in fitting if each.to_bound() > each.crashed_bound()]
    crashed = [each for each in fitting if 1 < each.to_bound() <= each.crashed_bound()]
    most = max(each.to_bound() for each in fitting if each not in crashed)
    besides = f"; {_named(crashed, Setting.to_bound)} of it, which has no cold start after a load that comes to nothing"
    with_these = (
        f": {_named(crashed, lambda each: each.to_bound() / each.crashed_bound())} with those of the longest wait"
    )
    yield Row(
        "worst wait within the stated bound wherever the load fits",
        f"at most {most:.2f} of it in {len(fitting) - len(crashed)} that fit"
        + (besides + with_these if crashed else ""),
        not late,
        f"above: {_named(late, Setting.to_bound)}",
    )
    lost = sum(request.end is None for each in found for run in each.runs["muxd"] for request in run.requests)
    yield Row("elsewhere no model starves", f"{lost} requests without an end", not lost)


def _against_optimum(instances: int) -> Iterator[Row]:
    told, chosen, asked = [], [], []
    for cost in (2.0, 8.0):
        had, least, best, begun = 0.0, 0.0, 0.0, 0.0
        for seed in range(instances):
            load = small(2 + seed % 2, 12, 60.0, random.Random(seed))
            had += (own := World(load, CoreHost(), cost).run().mean)
            least += least_mean_wait(load, cost)
            begun += least_mean_wait(load, cost, on_demand=True)
            best += min(own, *(World(load, OneAwake(rule), cost).run().mean for rule in ONLINE))
        told.append((cost, had / least))
        chosen.append((cost, best / least))
        asked.append((cost, begun / least))
    yield Row(
        "mean wait <= 1.5 x the clairvoyant optimum's",
        ", ".join(f"at {cost:g} s {ratio:.2f}" for cost, ratio in told),
        all(ratio <= 1.5 for _, ratio in told),
        f"who knows nothing before, but chooses the best of {len(ONLINE)} rules, those of others among them, for each "
        "load afterwards: "
        + ", ".join(f"at {cost:g} s {ratio:.2f}" for cost, ratio in chosen)
        + "; who knows all, but begins no switch before somebody asks: "
        + ", ".join(f"at {cost:g} s {ratio:.2f}" for cost, ratio in asked),
        ", ".join(f"{ratio:.2f}" for _, ratio in chosen) if all(ratio > 1.5 for _, ratio in chosen) else "",
    )


def _eight(setting: Setting, span: float, seeds: int) -> Row:
    loads = [eight(span, random.Random(seed)) for seed in range(seeds)]
    alone = [World(load, CoreHost(together=False), setting.cost).run() for load in loads]
    ratio = setting.goodput("muxd") / (sum(run.good() for run in alone) / sum(run.seconds for run in alone))
    return Row(
        "eight models, three fit: goodput >= 2 x that of one awake at a time, at 8 s", f"{ratio:.1f} x", ratio >= 2
    )


def _decision() -> Row:
    turns = Turns(100, *WORLDS["whole"])
    for _ in range(2000):
        turns.step()
    decisions = [each for kind, values in turns.took.items() if kind.isalpha() for each in values]
    half = median(decisions)
    return Row("a decision < 200 us at 100 models and 10 000 waiting requests", f"median {half:.0f} us", half < 200)


def _estimates(span: float, seeds: int) -> Iterator[Row]:
    """Measure what was said of switches after three of the same kind, by a core that knew nothing at first."""
    found: list[Estimate] = []
    best: list[float] = []
    for workload in WORKLOADS:
        for seed in range(seeds):
            host = CoreHost(learned=False, spread=SPREAD, seed=seed)
            run = World(workload(span, random.Random(seed)), host, 8.0).run()
            usual, chance = sorted(request.seconds for request in run.requests), random.Random(seed)
            counts: dict[tuple[str, ...], int] = {}
            for each in host.estimates:
                counts[each.kind] = counts.get(each.kind, 0) + 1
                if counts[each.kind] > 3:
                    found.append(each)
                    if each.drains:
                        best.append(best_share(each.under_way, usual, 8.0, SPREAD, chance))
    for drains in (False, True):
        of = [each for each in found if each.drains is drains]
        if not of:
            continue
        near = sum(each.said is not None and abs(each.said - each.came) <= 0.25 * each.came for each in of)
        share = near / len(of)
        what = "said while others drain" if drains else "said once nothing drains any more"
        yield Row(
            f"ETA within 25 % for 90 % of switches after three of a kind, {what}",
            f"{share:.0%} of {len(of)}",
            share >= 0.9,
            "who knows the age of every answer under way, and how long answers usually take, but not these: a drain "
            "lasts as long as the longest of them"
            if drains
            else "",
            f"{mean(best):.0%}" if drains and mean(best) < 0.9 else "",
        )
