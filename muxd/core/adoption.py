"""What an earlier muxd has left, taken in as muxd starts: workers that live, and what went wrong with others."""

from collections.abc import Iterable, Iterator, Mapping

from msgspec.structs import replace

from . import replicas
from .commands import Command, RecordMove
from .events import AdoptedWorker, Started
from .group import Group
from .host_state import HostState
from .ledger import Holding
from .spec import Troubles
from .standby import prepared
from .states import WorkerState
from .worker import Worker

#: Why a worker is in the state in which an earlier muxd has left it.
ADOPTED = "taken over from an earlier muxd"


def recall(host: HostState, started: Started) -> Iterator[Command]:
    """Go on with what an earlier muxd knew: who is stopped, what was measured, and what went wrong."""
    for group in host.groups.values():
        host.touch(group)
        group.since = host.now
        group.stopped_by_operator = group.name in started.stopped_by_operator
        for worker in group.members:
            worker.since = host.now
            worker.reason = "an operator stopped it" if group.stopped_by_operator else ""
    for name in started.learned.keys() & host.workers.keys():
        host.workers[name].recall(started.learned[name])
    yield from _recall_troubles(host, started.troubles, {found.worker for found in started.adopted})


def _recall_troubles(host: HostState, troubles: Mapping[str, Troubles], adopted: set[str]) -> Iterator[Command]:
    """Go on with what went wrong with workers; one that lives, or was stopped, waits for no other start."""
    for name in troubles.keys() & host.workers.keys():
        worker, trouble = host.workers[name], troubles[name]
        group = host.groups[worker.group]
        if name in adopted or group.stopped_by_operator:
            trouble = replace(trouble, waits="")
        worker.recall_troubles(trouble, host.now)
        if trouble.waits:
            host.moves += 1
            yield RecordMove(worker.name, WorkerState.UNLOADED, worker.state, worker.reason, worker.cause)
        yield from host.derive(group, worker.reason)


def take_over(host: HostState, started: Started) -> Iterator[Command]:
    """Take in the workers that are left; one for which there is no room any more is ended."""
    awake = {found.worker for found in started.adopted if found.level is None and not found.waits}
    for name in started.scaled.keys() & host.groups.keys():
        replicas.resume_size(host, host.groups[name], started.scaled[name], awake)
    by_group: dict[str, list[AdoptedWorker]] = {}
    for found in started.adopted:
        by_group.setdefault(host.workers[found.worker].group, []).append(found)
    for name, members in by_group.items():
        yield from _adopt(host, host.groups[name], members)


def _adopt(host: HostState, group: Group, members: Iterable[AdoptedWorker]) -> Iterator[Command]:
    """Let members of a group without a process be what was found of them; end those whose memory is another's."""
    homeless = []
    for found in members:
        worker = host.workers[found.worker]
        if found.gpus:
            group.place_each({found.worker: frozenset(found.gpus)})
        worker.launched, worker.url, worker.generation = found.launched, found.url, worker.generation + 1
        host.moves += 1
        if found.waits:
            _adopt_standby(host, worker, found)
        elif not _adopt_worker(host, worker, found):
            homeless.append(worker)
        if worker is group.router:
            group.routed = frozenset(found.routed)
        yield RecordMove(worker.name, WorkerState.UNLOADED, worker.state, ADOPTED)
    group.awake_since = host.now
    yield from host.derive(group, ADOPTED)
    for worker in homeless:
        yield from host.stop_worker(worker, "there is no room for it any more", kill=True)


def _adopt_standby(host: HostState, worker: Worker, found: AdoptedWorker) -> None:
    worker.url, worker.is_ahead = "", True
    worker.adopt(WorkerState.STANDBY, host.now, ADOPTED)
    prepared(host, worker, found.gate_size)


def _adopt_worker(host: HostState, worker: Worker, found: AdoptedWorker) -> bool:
    """Let a worker be what was found of it; return whether there is room for it."""
    worker.unproved, worker.peak = found.unproved, found.peak
    if found.level is not None and found.kept is not None:
        worker.kept[found.level] = found.kept
    fits = True
    if not worker.is_router:
        worker.copy = host.placement.copy_of(worker)
        holding = Holding(worker.claim) if found.level is None else worker.holding_asleep(found.level)
        fits = not holding.is_loaded or not host.ledger.shortfall(worker.name, holding.claim)
        host.ledger.keep(worker.name, holding)
    worker.level = 3 if found.level is None else found.level
    worker.adopt(WorkerState.READY if found.level is None else WorkerState.ASLEEP, host.now, ADOPTED)
    return fits
