"""`muxd whatif`: what other settings would have done with the requests of a journal.

The journal is replayed first: it says when requests came for which model and how long they kept it busy, and what
starts, sleeps and wakes took.  Then a fresh core is told of the same requests on a host that takes those times, once
with the settings as they were and once with the others, so that both rows are of one kind.  What is not in the model:
crashes, orders but switches, strangers on the GPUs, reloads; clients ask when they did, however long they waited.  Nor
are single answers: what overlaps is one piece of work (`Work`), which has no age to tell the core of.  So no simulated
model gives way in a quiet moment (`policy.quiet_from`); both rows give way later there than muxd does.
"""

import heapq
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from math import ceil, inf
from pathlib import Path
from typing import Any, NamedTuple

from msgspec import Struct
from msgspec.structs import replace

from muxd.config.units import parse_duration, parse_size
from muxd.core import commands as core_commands
from muxd.core.commands import Command
from muxd.core.events import (
    DemandReported,
    Event,
    GpusMeasured,
    HostRamLimited,
    LeaseAsked,
    LeaseEnded,
    RouterSynced,
    StandbyPrepared,
    Started,
    SwitchAsked,
    TimerFired,
    Waiting,
    WeightsSeen,
    WorkerAsleep,
    WorkerExited,
    WorkerMeasured,
    WorkerReady,
)
from muxd.core.ledger import HOST_RAM
from muxd.core.scheduler import Scheduler
from muxd.core.spec import DefaultGroup, GroupSpec, Learned
from muxd.core.states import WorkerState
from muxd.errors import ConfigError

from .decision_journal import deciding, read_journal


class Kind(NamedTuple):
    """What a key takes."""

    name: str
    read: Callable[[str], Any]  # raises ValueError and KeyError


def _whole(low: int, high: int) -> Kind:
    def read(text: str) -> int:
        if not low <= (number := int(text)) <= high:
            raise ValueError
        return number

    return Kind(f"a whole number from {low} to {high}", read)


_TIME = Kind("a time", lambda text: parse_duration(float(text) if text.isdecimal() else text))
_FLAG = Kind("true or false", {"true": True, "false": False}.__getitem__)
_SIZE = Kind("a size", lambda text: parse_size(int(text) if text.isdecimal() else text))

#: Keys of the policy.
_POLICY = {"wait_target": _TIME, "keep_turns": _FLAG, "batch_max_wait": _TIME}

#: Keys of a model that the core decides by.
_OF_GROUP = {"drain_timeout": _TIME, "preload": _FLAG, "pinned": _FLAG, "priority": _whole(-10, 10)}
_OF_WORKER = {"sleep_level": _whole(0, 3), "share": _SIZE, "copy": _SIZE}


class Work(NamedTuple):
    """Requests of one proxy that kept a model busy: when they came, and how long they took once they were let in."""

    at: float
    group: str
    seconds: float
    requests: int
    is_batch: bool = False  # all those of them that waited


class Settings(Struct, frozen=True):
    """What the core is configured with."""

    specs: tuple[GroupSpec, ...]
    wait_target: float
    keep_turns: bool
    batch_max_wait: float
    default: DefaultGroup

    def changed(self, key: str, text: str) -> "Settings":
        """Return these with one key set; raises ConfigError for a key or a value that there is not."""
        if key in _POLICY:
            return replace(self, **{key: _value(key, text, _POLICY[key])})
        name, _, of_model = key.rpartition(".")
        found = [spec for spec in self.specs if spec.name == name]
        if not found or of_model not in (*_OF_GROUP, *_OF_WORKER):
            models = ", ".join(spec.name for spec in self.specs)
            of_models = ", ".join((*_OF_GROUP, *_OF_WORKER))
            known = f"{', '.join(_POLICY)} and MODEL.KEY with {of_models}, of {models}"
            raise ConfigError([f"muxd whatif: --set {key}: there are {known}"])
        (spec,) = found
        if of_model in _OF_GROUP:
            changed = replace(spec, **{of_model: _value(key, text, _OF_GROUP[of_model])})
        else:
            value = _value(key, text, _OF_WORKER[of_model])
            workers = tuple(replace(worker, **{of_model: value}) for worker in spec.workers)
            changed = replace(spec, workers=workers)
        return replace(self, specs=tuple(changed if each is spec else each for each in self.specs))


def _value(key: str, text: str, kind: Kind) -> Any:
    try:
        return kind.read(text)
    except (ValueError, KeyError):
        raise ConfigError([f"muxd whatif: --set {key}: {text!r} is not {kind.name}"]) from None


@dataclass(slots=True)
class Outcome:
    """What came of the requests."""

    switches: int = 0
    switching: float = 0.0  # seconds from the decision until the target was ready, of all switches
    waits: list[tuple[float, int]] = field(default_factory=list)  # with how many requests waited so
    refused: int = 0
    unserved: int = 0  # that still waited when all was over
    ram_peak: int = 0  # bytes of copies of weights

    def wait(self, share: float) -> float:
        """Return the wait that this share of the requests did not exceed."""
        ordered, total = sorted(self.waits), sum(number for _, number in self.waits)
        seen, wanted = 0, ceil(share * total)
        for wait, number in ordered:
            seen += number
            if seen >= wanted:
                return wait
        return 0.0

    def row(self, name: str) -> tuple[str, ...]:
        waits = (f"{self.wait(share):.1f}s" for share in (0.5, 0.95, 1.0))
        left = str(self.refused + self.unserved)
        return name, str(self.switches), *waits, f"{self.switching:.1f}s", f"{self.ram_peak / (1 << 30):.1f}", left


HEAD = ("SETTINGS", "SWITCHES", "WAIT P50", "P95", "MAX", "SWITCHING", "RAM GIB", "NOT SERVED")


class _Lease:
    """The lease of one group in the simulated world, and the requests that it is for."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.is_granted = self.is_revoked = False
        self.active = 0


class SimulatedHost:
    """A host that does what the core commands, in the time that it took when the journal was written."""

    def __init__(
        self,
        settings: Settings,
        learned: Mapping[str, Learned],
        before: Scheduler,
        began: float,
        to_gate: Mapping[str, float] = {},
    ) -> None:
        """Begin with what the core `before` knew of its host; `to_gate`: as in Observed."""
        self.outcome = Outcome()
        self._to_gate = to_gate
        self._at_gate: dict[str, float] = {}  # when a process in standby comes, or came, to its gate
        self._core = Scheduler(
            settings.specs,
            settings.wait_target,
            keep_turns=settings.keep_turns,
            default=settings.default,
            batch_max_wait=settings.batch_max_wait,
        )
        self._now = began
        self._numbers = count(1)
        self._queue: list[tuple[float, int, Event | Work | tuple[_Lease, str, int]]] = []
        self._timer: float | None = None
        self._leases: dict[str, _Lease] = {}  # the last one of each group
        self._groups: dict[int, str] = {}  # by lease
        self._waiting: dict[str, list[Work]] = {}
        self._deciding: dict[str, float] = {}  # when a switch to this group was decided
        host = before.host
        self._tell(GpusMeasured(began, dict(host.sizes), host.gpus_there))
        if (ram := host.ledger.capacity.get(HOST_RAM)) is not None:
            self._tell(HostRamLimited(began, ram))
        self._tell(WeightsSeen(began, dict(host.weights)))
        self._tell(Started(began, learned=learned))

    def run(self, works: Sequence[Work], switches: Sequence[SwitchAsked]) -> Outcome:
        """Let the requests come, and all of it come to its end."""
        for work in works:
            self._plan(work.at, work)
        for switch in switches:
            self._plan(switch.time, switch)
        end = max((work.at for work in works), default=self._now) + 86400.0
        while self._queue or self._timer is not None:
            at = self._queue[0][0] if self._queue else inf
            if self._timer is not None and self._timer <= at:
                self._now, self._timer = max(self._now, self._timer), None
                if self._now > end:
                    break
                self._tell(TimerFired(self._now))
                continue
            _, _, what = heapq.heappop(self._queue)
            self._now = max(self._now, at)
            if isinstance(what, Work):
                self._arrive(what)
            elif isinstance(what, tuple):
                self._finish(*what)
            else:
                self._tell(replace(what, time=self._now))
        self.outcome.unserved = sum(work.requests for works in self._waiting.values() for work in works)
        return self.outcome

    def _plan(self, at: float, what: "Event | Work | tuple[_Lease, str, int]") -> None:
        heapq.heappush(self._queue, (at, next(self._numbers), what))

    def _arrive(self, work: Work) -> None:
        lease = self._leases.get(work.group)
        if lease is not None and lease.is_granted and not lease.is_revoked:
            self._serve(lease, work)
            return
        self._waiting.setdefault(work.group, []).append(work)
        self._ask(work.group)

    def _ask(self, group: str) -> None:
        """Tell the core what waits; a lease that drains is let go first."""
        works, lease = self._waiting.get(group, []), self._leases.get(group)
        if not works or (lease is not None and lease.is_revoked):
            return
        is_batch = all(work.is_batch for work in works)
        waiting = (Waiting(sum(work.requests for work in works), self._now - works[0].at, is_batch=is_batch),)
        if lease is None:
            lease = self._leases[group] = _Lease(next(self._numbers))
            self._groups[lease.number] = group
            self._tell(LeaseAsked(self._now, lease.number, group, waiting))
        else:
            self._tell(DemandReported(self._now, lease.number, 0, waiting))

    def _serve(self, lease: _Lease, work: Work) -> None:
        self.outcome.waits.append((self._now - work.at, work.requests))
        lease.active += work.requests
        self._plan(self._now + work.seconds, (lease, work.group, work.requests))
        self._tell(DemandReported(self._now, lease.number, lease.active))

    def _finish(self, lease: _Lease, group: str, number: int) -> None:
        lease.active = max(0, lease.active - number)
        if self._leases.get(group) is not lease:
            self._ask(group)
            return
        if lease.is_revoked and not lease.active:
            self._let_go(group)
        else:
            self._tell(DemandReported(self._now, lease.number, lease.active))

    def _let_go(self, group: str) -> None:
        lease = self._leases.pop(group)
        self._tell(LeaseEnded(self._now, lease.number))
        self._ask(group)

    def _tell(self, event: Event) -> None:
        for command in self._core.handle(event):
            self._obey(command)
        self.outcome.ram_peak = max(self.outcome.ram_peak, self._copies())

    def _copies(self) -> int:
        return sum(worker.copy for worker in self._core.host.workers.values() if not worker.is_down)

    def _obey(self, command: Command) -> None:
        match command:
            case core_commands.StartWorker(name):
                self._answer(name, WorkerState.STARTING, WorkerReady(0.0, name, f"http://{name}"))
            case core_commands.PrepareStandby(name):
                start = self._core.host.workers[name].cost(WorkerState.STARTING).seconds
                self._at_gate[name] = self._now + self._to_gate.get(name, start)
                self._plan(self._at_gate[name], StandbyPrepared(0.0, name))
            case core_commands.ActivateStandby(name):
                start = self._core.host.workers[name].comeback_cost(3).seconds
                self._plan(max(self._now, self._at_gate[name]) + start, WorkerReady(0.0, name, f"http://{name}"))
            case core_commands.WakeWorker(name):
                self._answer(name, WorkerState.WAKING, WorkerReady(0.0, name, f"http://{name}"))
            case core_commands.SleepWorker(name, level):
                kept = self._core.host.workers[name].kept.get(level, 0)
                self._answer(name, WorkerState.FALLING_ASLEEP, WorkerAsleep(0.0, name, kept))
            case core_commands.StopWorker(name):
                self._answer(name, WorkerState.STOPPING, WorkerExited(0.0, name))
            case core_commands.SyncRouter(group, urls):
                self._plan(self._now, RouterSynced(0.0, group, urls))
            case core_commands.MeasureWorker(name, number):
                self._plan(self._now, WorkerMeasured(0.0, name, number))
            case core_commands.SetTimer(at):
                self._timer = at
            case core_commands.RecordSwitch(target):
                self.outcome.switches += 1
                self._deciding[target] = self._now
            case core_commands.RecordMove(name, _, WorkerState.READY) if name in self._deciding:
                self.outcome.switching += self._now - self._deciding.pop(name)
            case core_commands.GrantLease(number) if self._of(number) is not None:
                self._on_granted(self._groups[number])
            case core_commands.RevokeLease(number, _, _, deadline) if (lease := self._of(number)) is not None:
                lease.is_revoked = True
                if lease.active:
                    self._plan(min(deadline, self._now + 1e9), (lease, self._groups[number], lease.active))
                else:
                    self._plan(self._now, (lease, self._groups[number], 0))
            case core_commands.RestoreLease(number) if (lease := self._of(number)) is not None:
                lease.is_revoked = False
                self._on_granted(self._groups[number])
            case core_commands.EndLease(number) if self._of(number) is not None:
                group = self._groups[number]
                del self._leases[group]
                self._plan(self._now, (_Lease(0), group, 0))
            case core_commands.FailLease(number) if self._of(number) is not None:
                group = self._groups[number]
                del self._leases[group]
                self.outcome.refused += sum(work.requests for work in self._waiting.pop(group, []))

    def _of(self, number: int) -> _Lease | None:
        lease = self._leases.get(self._groups.get(number, ""))
        return lease if lease is not None and lease.number == number else None

    def _on_granted(self, group: str) -> None:
        lease = self._leases[group]
        lease.is_granted = True
        for work in self._waiting.pop(group, []):
            self.outcome.waits.append((self._now - work.at, work.requests))
            lease.active += work.requests
            self._plan(self._now + work.seconds, (lease, group, work.requests))
        self._plan(self._now, (lease, group, 0))

    def _answer(self, name: str, state: WorkerState, event: Event) -> None:
        cost = self._core.host.workers[name].cost(state).seconds
        self._plan(self._now + max(cost, 0.001), event)


class _Demand:
    """What one lease of the journal is for."""

    def __init__(self, group: str) -> None:
        self.group = group
        self.since: float | None = None  # None: for nothing
        self.granted: float | None = None
        self.count = 0
        self.is_batch = True  # nobody who waited was interactive


class Observed:
    """What a journal tells of requests, and what was done then."""

    def __init__(self, scheduler: Scheduler) -> None:
        """Begin with the core as it was at the journal's beginning."""
        self.works: list[Work] = []
        self.switches: list[SwitchAsked] = []
        self.outcome = Outcome()
        self.began = scheduler.host.now
        self._scheduler = scheduler
        self.to_gate: dict[str, float] = {}  # seconds that a worker's process in standby last took to its gate
        self._deciding: dict[str, float] = {}
        self._prepared: dict[str, float] = {}  # when such a process was begun
        self._demands: dict[int, _Demand] = {}
        for number, lease in scheduler.host.leases.all.items():
            demand = self._demands[number] = _Demand(lease.group)
            self._report(demand, self.began, lease.in_flight + lease.count)
            if number in scheduler.host.groups[lease.group].granted:
                demand.granted = self.began

    @property
    def settings(self) -> Settings:
        lineup = self._scheduler.switching.lineup
        specs = tuple(group.spec for group in self._scheduler.host.groups.values() if not group.retired)
        default = self._scheduler.switching.default
        return Settings(specs, lineup.wait_target, lineup.keep_turns, lineup.batch_max_wait, default)

    @property
    def learned(self) -> dict[str, Learned]:
        return {name: worker.learned for name, worker in self._scheduler.host.workers.items()}

    def take(self, event: Event) -> None:
        """Take in the next event, and what was decided then."""
        match event:
            case LeaseAsked(time, number, group, waiting):
                demand = self._demands[number] = _Demand(group)
                oldest = max((each.oldest for each in waiting), default=0.0)
                self._report(demand, time - oldest, sum(each.count for each in waiting), waiting)
            case DemandReported(time, number, in_flight, waiting) if number in self._demands:
                count = in_flight + sum(each.count for each in waiting)
                self._report(self._demands[number], time, count, waiting)
            case LeaseEnded(time, number) if number in self._demands:
                self._report(self._demands.pop(number), time, 0)
            case SwitchAsked():
                self.switches.append(event)
            case StandbyPrepared(time, name) if name in self._prepared:
                self.to_gate[name] = time - self._prepared.pop(name)
        for command in self._scheduler.handle(event):
            match command:
                case core_commands.GrantLease(number) if number in self._demands:
                    demand = self._demands[number]
                    demand.granted = event.time
                    if demand.since is not None:
                        self.outcome.waits.append((event.time - demand.since, demand.count))
                case core_commands.PrepareStandby(name):
                    self._prepared[name] = event.time
                case core_commands.RecordSwitch(target):
                    self.outcome.switches += 1
                    self._deciding[target] = event.time
                case core_commands.RecordMove(name, _, WorkerState.READY) if name in self._deciding:
                    self.outcome.switching += event.time - self._deciding.pop(name)
        copies = sum(worker.copy for worker in self._scheduler.host.workers.values() if not worker.is_down)
        self.outcome.ram_peak = max(self.outcome.ram_peak, copies)

    def _report(self, demand: _Demand, at: float, number: int, waiting: Sequence[Waiting] = ()) -> None:
        if number and demand.since is None:
            demand.since, demand.count, demand.is_batch = at, number, bool(waiting)
            if demand.granted is not None:
                self.outcome.waits.append((0.0, number))
        elif number:
            demand.count = max(demand.count, number)
        elif demand.since is not None:
            if demand.granted is not None:
                begun = max(demand.since, demand.granted)
                self.works.append(Work(demand.since, demand.group, max(0.0, at - begun), demand.count, demand.is_batch))
            demand.since = None
        demand.is_batch = demand.is_batch and all(each.is_batch for each in waiting)


def whatif(path: Path, changes: Sequence[str]) -> int:
    """Print what the changes, each "KEY=VALUE", would have done; raises NotAJournal and ConfigError."""
    scheduler, _, decisions = read_journal(path)
    observed = Observed(scheduler)
    settings = observed.settings
    for number, (event, _) in enumerate(decisions, start=1):
        with deciding(path, number):
            observed.take(event)
    changed = settings
    for change in changes:
        key, equals, text = change.partition("=")
        if not equals:
            raise ConfigError([f"muxd whatif: --set {change}: write KEY=VALUE, such as wait_target=10s"])
        changed = changed.changed(key.strip(), text.strip())
    rows = [HEAD, observed.outcome.row("as it was")]
    simulated = {"simulated": settings} | ({", ".join(changes): changed} if changes else {})
    for name, each in simulated.items():
        host = SimulatedHost(each, observed.learned, scheduler, observed.began, observed.to_gate)
        rows.append(host.run(observed.works, observed.switches).row(name))
    print("\n".join(_lines(rows)))
    return 0


def _lines(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEAD))]
    for row in rows:
        figures = (cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))
        yield "  ".join((row[0].ljust(widths[0]), *figures))
