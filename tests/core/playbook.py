"""Tests of the core read as a script: `>>` an event, `<<` the commands it must cause.

Moves, timers and why switches begin are left out of the script unless it names them (`moves=True`,
`timers=True`, `switches=True`): they have tests of their own.  The oracle watches every event.
"""

from typing import Self

from muxd.core.commands import (
    Command,
    GrantLease,
    RecordMove,
    RecordSwitch,
    RevokeLease,
    SetTimer,
    SleepWorker,
    StartWorker,
)
from muxd.core.events import (
    DemandReported,
    Event,
    LeaseAsked,
    LeaseEnded,
    OrderGiven,
    TimerFired,
    WorkerAsleep,
    WorkerReady,
)
from muxd.core.group import Group
from muxd.core.scheduler import Scheduler
from muxd.core.spec import NO_DEFAULT, DefaultGroup, GroupSpec, Role, Scaling, WorkerSpec
from muxd.core.states import WorkerState
from muxd.core.worker import Worker

from .oracle import Oracle


def single(name: str, *gpus: frozenset[str], preload=False, drain_timeout=300.0, pinned=False, **more) -> GroupSpec:
    """Return the spec of a group with one worker, which has the group's name."""
    keys = ("ladder", "sheltered_for", "priority", "prefetch", "switch_timeout")
    of_group = {key: more.pop(key) for key in keys if key in more}
    return GroupSpec(name, (WorkerSpec(name, *gpus, **more),), preload, drain_timeout, pinned, **of_group)


def replicas(
    name: str,
    *gpus: frozenset[str],
    preload=False,
    drain_timeout=300.0,
    at_first=0,
    scaling: Scaling | None = None,
    **of_worker,
) -> GroupSpec:
    """Return the spec of a group with a replica on each of the GPU sets, and a router in front of them."""
    serving = (WorkerSpec(f"{name}/{number}", own, **of_worker) for number, own in enumerate(gpus))
    router = WorkerSpec(f"{name}/router", frozenset(), role=Role.ROUTER)
    return GroupSpec(name, (*serving, router), preload, drain_timeout, replicas=at_first, scaling=scaling)


def anywhere(name: str, count: int, *gpus: str, **more) -> GroupSpec:
    """Return the spec of a group whose worker runs on so many of the GPUs, by default of three, whichever they are."""
    return single(name, frozenset(gpus or ("0", "1", "2")), any_of=count, **more)


def spread(
    name: str,
    count: int,
    each: int,
    *gpus: str,
    drain_timeout=300.0,
    at_first=0,
    scaling: Scaling | None = None,
    **of_worker,
) -> GroupSpec:
    """Return the spec of a group with so many replicas, each on `each` of the GPUs, and a router in front of them."""
    those = frozenset(gpus or ("0", "1", "2"))
    serving = (WorkerSpec(f"{name}/{number}", those, any_of=each, **of_worker) for number in range(count))
    router = WorkerSpec(f"{name}/router", frozenset(), role=Role.ROUTER)
    return GroupSpec(name, (*serving, router), False, drain_timeout, replicas=at_first, scaling=scaling)


class Playbook:
    def __init__(
        self,
        *specs: str | GroupSpec,
        wait_target: float = 30.0,
        keep_turns: bool = True,
        default: DefaultGroup = NO_DEFAULT,
        moves: bool = False,
        timers: bool = False,
        switches: bool = False,
    ) -> None:
        whole = (single(s) if isinstance(s, str) else s for s in specs)
        self.scheduler = Scheduler(whole, wait_target, keep_turns=keep_turns, default=default)
        self.oracle = Oracle(self.scheduler)
        self.hidden = (
            (() if switches else (RecordSwitch,)) + (() if moves else (RecordMove,)) + (() if timers else (SetTimer,))
        )
        self.pending: list[Command] = []
        self.timer: float | None = None

    def __rshift__(self, event: Event) -> Self:
        assert not self.pending, f"before {event}, nobody expected {self.pending}"
        self.oracle.saw(event)
        self.timer = None if isinstance(event, TimerFired) else self.timer
        commands = self.scheduler.handle(event)
        for command in commands:
            self.oracle.must_allow(command)
            if isinstance(command, SetTimer):
                self.timer = command.at
        self.oracle.must_hold()
        self.pending = [c for c in commands if not isinstance(c, self.hidden)]
        return self

    def __lshift__(self, command: Command) -> Self:
        assert self.pending, f"expected {command}, nothing (more) was commanded"
        assert self.pending.pop(0) == command
        return self

    def __bool__(self) -> bool:
        assert not self.pending, f"nobody expected {self.pending}"
        return True

    def group(self, name: str) -> Group:
        return self.scheduler.host.groups[name]

    def worker(self, name: str) -> Worker:
        return self.scheduler.host.workers[name]

    def state(self, name: str) -> WorkerState:
        """Return the state of a group."""
        return self.group(name).state


def serving_a(*specs, **options):
    """Worker a is ready and lease 1 on it is granted, with one request in flight."""
    return (
        Playbook(*(specs or ("a", "b")), **options)
        >> LeaseAsked(0, 1, "a") << StartWorker("a")
        >> WorkerReady(10, "a", "http://a") << GrantLease(1, "http://a", 1)
    )  # fmt: skip


def idle_a(*specs, **options):
    return serving_a(*specs, **options) >> DemandReported(20, 1, 0)


def asleep_a():
    """Worker a sleeps and b is ready; nobody holds a lease."""
    return (
        idle_a()
        >> LeaseEnded(21, 1)
        >> LeaseAsked(30, 2, "b") << SleepWorker("a", 2)
        >> WorkerAsleep(32, "a") << StartWorker("b")
        >> WorkerReady(40, "b", "http://b") << GrantLease(2, "http://b", 1)
        >> LeaseEnded(41, 2)
    )  # fmt: skip


def order(time, verb, model="a", ticket=9, now=False, level=None):
    return OrderGiven(time, ticket, model, verb, now, level)


def revoked(verb, message, deadline):
    return RevokeLease(1, verb, message, deadline)
