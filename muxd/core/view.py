"""What the core knows, copied for readers: status, metrics, and what is measured of the machine.

Nobody outside the core reads its objects, which change with the next event.  A view is immutable and holds for the
moment at which it was taken.
"""

from collections.abc import Mapping

from msgspec import Struct

from .events import OrderGiven, SwitchAsked, Verb
from .group import Group
from .ledger import HOST_RAM, GpuId
from .progress import Progress, next_step, progress_of
from .scheduler import Scheduler
from .spec import Learned, Role, Troubles
from .states import AT_REST, WorkerState
from .worker import Worker


class WorkerView(Struct, frozen=True):
    """One worker.  Times are seconds on the events' clock, sizes bytes."""

    name: str
    group: str
    role: Role
    state: WorkerState
    since: float
    reason: str
    url: str
    level: int
    restarts: int
    woke_wrong_count: int
    retry_wait: float  # seconds until its next start may be; few where it waits for its port; -inf: none waits
    ended: str  # how its process last came to its end
    ended_code: str
    ended_at: float
    copy: int  # of host RAM, for a copy of its weights
    waiting: int  # bytes of host RAM that its process has at its engine's gate
    gpus: frozenset[GpuId]
    is_spare: bool  # its group does without it for now
    is_awake: bool  # by the ledger: it has the memory that it needs to serve
    sleep_trouble: str  # why it sleeps deeper than it is configured to, or ""


class ScaleView(Struct, frozen=True):
    """How many replicas of a group are to serve, and may; `lacks`: why there are not as many as its load asks for."""

    wanted: int
    ready: int
    least: int
    most: int
    is_automatic: bool
    lacks: str


class GroupView(Struct, frozen=True):
    """One group with its members; `never_loads` is why it can never be loaded, or ""."""

    name: str
    state: WorkerState
    shown_state: str  # as users see it
    since: float
    reason: str
    url: str
    generation: int
    level: int
    sleep_level: int
    sleep_trouble: str  # of the first of its members that has one
    retry_wait: float  # seconds until its next start may be; few where it waits for its port; -inf: none waits
    gpus: frozenset[GpuId]
    pinned: bool
    held_for: float | None  # seconds for which an operator holds it yet; inf for endless, None: nobody does
    is_down: bool
    stopped_by_operator: bool
    is_leaving: bool  # an order takes it off its GPUs, and it does not come back by itself
    in_flight: int
    waiting: int
    in_flight_batch: int  # so many of those in flight
    waiting_batch: int  # likewise
    oldest_wait: float | None  # None: nobody waits
    leases: int
    members: tuple[WorkerView, ...]
    progress: Progress
    next_step: str | None
    never_loads: str
    scale: ScaleView | None  # None: there is one worker, or prefill and decode
    unused_for: float | None  # seconds since its last answer ended; None: it is in use, or never was


class SwitchView(Struct, frozen=True):
    """A switch that is under way: to a group, from others, each with the level to which it goes."""

    target: str
    victims: Mapping[str, int]
    since: float


class HostView(Struct, frozen=True):
    """The host: its workers, its switches, the oldest first, and what was measured of it."""

    now: float
    groups: tuple[str, ...]
    workers: Mapping[str, WorkerView]
    switches: tuple[SwitchView, ...]
    gpus_there: frozenset[GpuId]
    strangers: Mapping[GpuId, str]
    capacity: Mapping[GpuId, int]
    host_ram: int | None  # bytes for copies of weights; None: nobody reckons them

    @property
    def waiting(self) -> int:
        """Return the bytes of host RAM that processes have which wait at their engines' gates."""
        return sum(worker.waiting for worker in self.workers.values())

    @property
    def copies(self) -> int:
        """Return the bytes of host RAM that copies of weights have."""
        return sum(worker.copy for worker in self.workers.values())


class CoreView:
    """Reads one core for everybody but its owner: each method returns a copy, as of the last event."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._host = scheduler.host

    def host(self) -> HostView:
        host = self._host
        return HostView(
            now=host.now,
            groups=tuple(host.groups),
            workers={name: self._worker(worker, host.now) for name, worker in host.workers.items()},
            switches=self.switches(),
            gpus_there=host.gpus_there,
            strangers=dict(host.strangers),
            capacity=dict(host.ledger.capacity),
            host_ram=host.ledger.capacity.get(HOST_RAM),
        )

    def switches(self) -> tuple[SwitchView, ...]:
        """Return the switches that are under way, the oldest first."""
        running = self._scheduler.switching.running
        return tuple(SwitchView(switch.target, dict(switch.victims), switch.since) for switch in running)

    def group(self, name: str, now: float) -> GroupView:
        """Return one group with what happens to it next; raises KeyError."""
        host, switching, group = self._host, self._scheduler.switching, self._host.groups[name]
        in_flight_batch, waiting_batch = group.batch_figures
        return GroupView(
            name=name,
            state=group.state,
            shown_state=group.shown_state,
            since=group.since,
            reason=group.reason,
            url=group.url,
            generation=group.generation,
            level=group.level,
            sleep_level=group.sleep_level,
            sleep_trouble=next(filter(None, map(_sleep_trouble, group.serving)), ""),
            retry_wait=group.retry_wait(now),
            gpus=group.gpus,
            pinned=group.spec.pinned,
            held_for=None if group.held_until is None else group.held_until - now,
            is_down=group.is_down,
            stopped_by_operator=group.stopped_by_operator,
            is_leaving=group.sent_away and not group.comes_back,
            in_flight=group.in_flight,
            waiting=group.waiting_count,
            in_flight_batch=in_flight_batch,
            waiting_batch=waiting_batch,
            oldest_wait=group.oldest_wait(now) if group.wanted else None,
            leases=len(group.granted),
            members=tuple(self._worker(worker, now) for worker in group.members),
            progress=progress_of(host, switching, group, now),
            next_step=next_step(host, switching, self._scheduler.idling, group, now),
            never_loads=self._never_loads(group),
            scale=self._scale(group) if group.is_scalable else None,
            unused_for=None if group.idle_since is None else now - group.idle_since,
        )

    def _scale(self, group: Group) -> ScaleView:
        scaling = group.spec.scaling
        return ScaleView(
            wanted=0 if group.state in AT_REST or group.sent_away else len(group.enlisted),
            ready=sum(worker.state is WorkerState.READY for worker in group.serving),
            least=scaling.least if scaling is not None else 0,
            most=group.most,
            is_automatic=scaling is not None,
            lacks=self._scheduler.scaler.lacks(group.name),
        )

    def scales(self) -> dict[str, ScaleView]:
        """Return how many replicas serve of each group that may have more or fewer."""
        return {group.name: self._scale(group) for group in self._host.scalable}

    def demand(self) -> dict[str, tuple[int, int]]:
        """Return how many requests each group has in flight, and how many wait for it."""
        return {name: (group.in_flight, group.waiting_count) for name, group in self._host.groups.items()}

    def orders(self) -> tuple[SwitchAsked | OrderGiven, ...]:
        """Return the switch and the orders that operators gave and that are not carried out yet, to be given again.

        A restart whose processes have ended is a start by now.  A validation is left out: its figures are for the one
        who waits for them.
        """
        found: list[SwitchAsked | OrderGiven] = []
        for group in self._host.groups.values():
            order = group.order
            if order is not None and order.tickets and order.verb is not Verb.VALIDATE:
                verb = Verb.START if order.is_down else order.verb
                now, level, replicas = order.now, order.level, order.replicas
                found.append(OrderGiven(0.0, order.tickets[0], group.name, verb, now, level, replicas=replicas))
        if (target := (switch := self._scheduler.switching.operator_switch).target) is not None:
            found.append(SwitchAsked(0.0, switch.tickets[0], target.name))
        return tuple(found)

    @property
    def moves(self) -> int:
        """Return a number that grows with every move of a worker, and every new configuration of one."""
        return self._host.moves

    def learned(self) -> dict[str, Learned]:
        """Return what was measured of each worker so far."""
        return {name: worker.learned for name, worker in self._host.workers.items()}

    def troubles(self) -> dict[str, Troubles]:
        """Return what went wrong with each worker so far."""
        return {name: worker.troubles for name, worker in self._host.workers.items()}

    def members(self, name: str) -> tuple[str, ...]:
        """Return the names of a group's workers; raises KeyError."""
        return tuple(worker.name for worker in self._host.groups[name].members)

    def level(self, name: str) -> int:
        """Return the level at which a group sleeps, or 3 where there is none of this name."""
        group = self._host.groups.get(name)
        return group.level if group is not None else 3

    def progress(self, name: str, now: float) -> Progress | None:
        """Return how it goes for a group; None where there is none of this name."""
        group = self._host.groups.get(name)
        return progress_of(self._host, self._scheduler.switching, group, now) if group is not None else None

    def impossible(self) -> dict[str, str]:
        """Return for each group why it can never be loaded, or ""."""
        return {name: self._never_loads(group) for name, group in self._host.groups.items()}

    def _never_loads(self, group: Group) -> str:
        return str(self._host.placement.never_loads(group) or "")

    def _worker(self, worker: Worker, now: float) -> WorkerView:
        return WorkerView(
            name=worker.name,
            group=worker.group,
            role=worker.spec.role,
            state=worker.state,
            since=worker.since,
            reason=worker.reason,
            url=worker.url,
            level=worker.level,
            restarts=worker.restarts,
            woke_wrong_count=worker.woke_wrong_count,
            retry_wait=worker.retry_wait(now),
            ended=worker.ended,
            ended_code=worker.ended_code,
            ended_at=worker.ended_at,
            copy=worker.copy,
            waiting=worker.standby_holding.claim.get(HOST_RAM, 0) if worker.state is WorkerState.STANDBY else 0,
            gpus=worker.gpus,
            is_spare=worker.is_spare,
            is_awake=self._host.ledger.is_awake(worker.name),
            sleep_trouble=_sleep_trouble(worker),
        )


def _sleep_trouble(worker: Worker) -> str:
    return worker.level_trouble or worker.launch_note or worker.distrust
