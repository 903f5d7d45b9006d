"""How many of a group's replicas serve: by its load, between bounds, with hysteresis; each step has its reason.

A group has a worker for each replica that it may ever have.  Those that it does without for now are *spare*: they are
off their GPUs, or on their way.  One that serves and becomes spare is told to the router first, and finishes what it
has (`replicas.tend_spare`); it sleeps as a model does, so that it is back as soon.

More replicas come once the load has asked for them for a while, where there is room: nobody leaves for them, unlike for
the first one, which comes by a switch.  Fewer stay once they would have done for a longer while, by a load that is
well below what would bring the last one back.  A group that may have none, and is not held, is put to sleep as a whole;
what is asked of it then waits, as for any model, and brings it back with as many as at first.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil, inf

from . import replicas
from .commands import Command, FailOrder, RecordScale
from .events import OrderGiven, Verb
from .group import Group
from .host_state import HostState
from .lease_book import END_GRACE
from .ledger import GpuId
from .orders import Orders
from .spec import Scaling
from .states import LOST, WorkerState
from .switching import Switching
from .worker import Worker

#: The share of their load below which fewer replicas will do: between the two nothing changes.
EASE = 0.75

#: Who of the spare workers comes first: those that have not left yet, then those that need only wake.
_NEAREST = {WorkerState.DRAINING: 0, WorkerState.ASLEEP: 1, WorkerState.FALLING_ASLEEP: 1}


@dataclass(slots=True)
class LoadTrend:
    """What a group's load has asked for so far."""

    above: float = inf  # since when it asks for more
    below: float = inf  # since when it asks for fewer
    need: int = 0  # the most that it has asked for since `below`
    last: tuple[bool, ...] = ()  # what it asked for when it was last looked at
    lacks: str = ""  # why there are not as many as it asks for, as last told

    def forget(self) -> None:
        self.above = self.below = inf
        self.need = 0
        self.last = ()


def spares_in_order(group: Group) -> list[Worker]:
    """Return those of the spare workers that can come, the nearest first."""
    hopeful = (worker for worker in group.spares if worker.state not in LOST and not worker.retired)
    return sorted(hopeful, key=lambda worker: _NEAREST.get(worker.state, 2))


def dispensable(group: Group, count: int) -> list[Worker]:
    """Return so many of those that serve as can be done without first: who has nothing in flight, the last ones."""

    def use(worker: Worker) -> int:
        return 2 if worker in group.answering else 1 if worker.state is WorkerState.DRAINING else 0

    order = {worker.name: place for place, worker in enumerate(group.enlisted)}
    return sorted(group.enlisted, key=lambda worker: (use(worker), -order[worker.name]))[:count]


def why_not_to_scale(group: Group, replicas: int) -> str:
    """Return why the group cannot have so many replicas; "" where it can, as far as its configuration goes."""
    most = group.most
    if not group.is_scalable:
        if most > 1:
            return f"{group.name} has no replicas: how many prefill and how many decode is in its configuration"
        return f"{group.name} has one worker, and no replicas; give it max_replicas, and reload"
    if replicas > most:
        return f"{group.name} has at most {most} replica{'s' if most > 1 else ''}, not {replicas}: see its max_replicas"
    least = group.spec.scaling.least if group.spec.scaling is not None else 0
    if replicas < least:
        return f"{group.name} has at least {least} replica{'s' if least > 1 else ''}: see its min_replicas"
    return ""


class Scaler:
    """Decides how many replicas serve, and brings the spare ones off their GPUs."""

    def __init__(self, host: HostState, switching: Switching, orders: Orders) -> None:
        self._host = host
        self._switching = switching
        self._orders = orders
        self._watches: dict[str, LoadTrend] = {}
        self.next_decision = inf

    def settle(self) -> Iterator[Command]:
        """Bring spare workers on their way, and let groups have as many replicas as their loads ask for."""
        self.next_decision = inf
        for group in self._host.scalable:
            if group.spec.scaling is not None:
                yield from self._follow_load(group, group.spec.scaling)
            yield from replicas.tend_spare(self._host, group)
            for worker in group.spares:
                if worker.state is WorkerState.DRAINING:
                    late = worker.drain_deadline + END_GRACE * (self._host.now >= worker.drain_deadline)
                    self.next_decision = min(self.next_decision, late if late > self._host.now else inf)

    def order(self, order: OrderGiven, group: Group) -> Iterator[Command]:
        """Let so many replicas serve, where there is room for them: nobody leaves for them."""
        wanted, size, ticket = order.replicas, len(group.enlisted), order.ticket
        if why := why_not_to_scale(group, wanted):
            yield FailOrder(ticket, "scale_refused", why)
            return
        if group.pending_spec is not None or group.validation is not None:
            why = "a new configuration of it is about to hold" if group.pending_spec is not None else "it is validated"
            yield FailOrder(ticket, "superseded", f"{group.name} cannot be scaled now: {why}; scale it after that")
            return
        spares = spares_in_order(group)
        if wanted > 0 and (why := self._too_many(group, wanted, spares)):
            yield FailOrder(ticket, "no_room", why)
            return
        yield from self._orders.give(group, Verb.SCALE, ticket, now=order.now, replicas=wanted)
        ordered = "an operator ordered it"
        if wanted == 0:
            yield RecordScale(group.name, size if group.state is WorkerState.READY else 0, 0, ordered)
        elif wanted > size:
            coming = self._host.placement.with_room(spares, self._host.lent)
            yield from replicas.enlist(self._host, group, coming[: wanted - size], ordered)
            if group.stays_up:
                yield from self._host.complete(group)
        elif wanted < size:
            yield from replicas.let_spare(self._host, group, dispensable(group, size - wanted), ordered)

    def _too_many(self, group: Group, wanted: int, spares: Sequence[Worker]) -> str:
        """Return why there is no room for so many replicas of the group, and for how many there is; else ""."""
        there = [worker for worker in group.enlisted if self._host.ledger.is_awake(worker.name)]
        others = [worker for worker in group.enlisted if worker not in there]
        fit = len(there) + len(self._host.placement.with_room([*others, *spares], self._host.lent))
        if fit >= wanted:
            return ""
        lacks = self._host.placement.lack_of_room(group, wanted)
        return f"{fit} of {wanted} replicas of {group.name} fit now; {lacks}; ask for fewer, or make room"

    def stop_deciding(self) -> None:
        """Look at nothing any more, as muxd shuts down."""
        self.next_decision = inf

    def still_holds(self, group: Group) -> bool:
        """Say whether a group's requests, which have changed in number or age, ask for as many replicas as before."""
        scaling = group.spec.scaling
        if scaling is None or not self._is_watched(group):
            return True
        watch = self._watch(group)
        return self._asks(group, scaling, watch) == watch.last

    def lacks(self, name: str) -> str:
        """Return why a group has not as many replicas as its load asks for; "" where it has."""
        return self._watches[name].lacks if name in self._watches else ""

    def _watch(self, group: Group) -> LoadTrend:
        return self._watches.setdefault(group.name, LoadTrend())

    def _is_watched(self, group: Group) -> bool:
        is_changing = group.order is not None or group.retired or group.pending_spec is not None
        return group.state is WorkerState.READY and not is_changing

    def _follow_load(self, group: Group, scaling: Scaling) -> Iterator[Command]:
        watch = self._watch(group)
        if not self._is_watched(group):
            watch.forget()
            is_at_rest = group.state in (WorkerState.ASLEEP, WorkerState.UNLOADED)
            if is_at_rest and group.order is None and not group.is_target and len(group.enlisted) > group.at_first:
                surplus = group.enlisted[group.at_first :]
                why = f"off its GPUs, it begins anew with {group.at_first}"
                yield from replicas.let_spare(self._host, group, surplus, why)
            return
        asks_more, asks_fewer, *_ = self._asks(group, scaling, watch)
        watch.above = min(watch.above, self._host.now) if asks_more else inf
        watch.below = min(watch.below, self._host.now) if asks_fewer else inf
        watch.need = max(watch.need, _enough(group, scaling)) if asks_fewer else 0
        watch.last = self._asks(group, scaling, watch)
        if asks_more:
            yield from self._grow(group, scaling, watch)
        else:
            watch.lacks = ""
        if asks_fewer:
            yield from self._shrink(group, scaling, watch)
        waits = _waits_since(group)
        if not asks_more and waits + scaling.queue_wait > self._host.now:
            self.next_decision = min(self.next_decision, waits + scaling.queue_wait)

    def _asks(self, group: Group, scaling: Scaling, watch: LoadTrend) -> tuple[bool, ...]:
        """Say whether the load asks for more, for fewer, for more than it did while it asked for fewer; who waits."""
        size, enough = len(group.enlisted), _enough(group, scaling)
        return (
            self._wanted(group, scaling) > size,
            enough < size,
            enough > watch.need,
            _waits_since(group) < inf,
        )

    def _wanted(self, group: Group, scaling: Scaling) -> int:
        """Return how many replicas the load asks for."""
        wanted = max(group.least, ceil(_load(group) / scaling.load))
        if self._host.now - _waits_since(group) >= scaling.queue_wait:
            wanted = max(wanted, len(group.enlisted) + 1)
        return min(wanted, group.most)

    def _grow(self, group: Group, scaling: Scaling, watch: LoadTrend) -> Iterator[Command]:
        if self._host.now < watch.above + scaling.up_after:
            self.next_decision = min(self.next_decision, watch.above + scaling.up_after)
            return
        size, wanted = len(group.enlisted), self._wanted(group, scaling)
        why = self._why_more(group, scaling)
        coming = self._host.placement.with_room(spares_in_order(group), self._off_limits(group))[: wanted - size]
        if coming:
            watch.above = inf
            yield from replicas.enlist(self._host, group, coming, why)
            yield from self._host.complete(group)
        lacks = self._host.placement.lack_of_room(group, wanted) if size + len(coming) < wanted else ""
        if lacks and lacks != watch.lacks:
            yield RecordScale(group.name, len(group.enlisted), len(group.enlisted), f"{why}; {lacks}")
        watch.lacks = lacks

    def _why_more(self, group: Group, scaling: Scaling) -> str:
        load, waited = _load(group), self._host.now - _waits_since(group)
        if waited >= scaling.queue_wait:
            return f"a request has waited for {waited:.1f} s"
        if load > scaling.load * len(group.enlisted):
            return f"{load} requests run or wait, {scaling.load:g} are for each replica"
        return f"at least {group.least}, by min_replicas"

    def _off_limits(self, group: Group) -> frozenset[GpuId]:
        return self._switching.off_limits(group, urgent=False)

    def _shrink(self, group: Group, scaling: Scaling, watch: LoadTrend) -> Iterator[Command]:
        if self._host.now < watch.below + scaling.down_after:
            self.next_decision = min(self.next_decision, watch.below + scaling.down_after)
            return
        size, need = len(group.enlisted), watch.need
        since = f"for {scaling.down_after:g} s"
        watch.forget()
        if need == 0:
            why = f"nothing was asked of it {since}"
            yield RecordScale(group.name, size, 0, why)
            self._orders.send_to_rest(group, f"{group.name} is scaled to 0: {why}")
            return
        why = f"{need} would have done {since}"
        yield from replicas.let_spare(self._host, group, dispensable(group, size - need), why)


def _load(group: Group) -> int:
    """Return how many requests run or wait."""
    return group.in_flight + group.waiting_count


def _enough(group: Group, scaling: Scaling) -> int:
    """Return how many replicas would do for the load, with some to spare; 0: none is needed, nor held."""
    least = group.least if group.is_pinned else scaling.least
    return max(least, ceil(_load(group) / (scaling.load * EASE)))


def _waits_since(group: Group) -> float:
    """Return when the oldest request came that waits although the group serves; inf where none does."""
    return min((lease.since for lease in group.granted.values()), default=inf)
