"""Who of a group's workers serve: those that it does without leave their GPUs, and may come back.

How many are to serve is decided in `scaling`, and by the configuration.
"""

from collections.abc import Collection, Iterator, Sequence

from .commands import Command, DrainWorker, RecordScale
from .group import Group
from .host_state import HostState
from .lease_book import END_GRACE
from .spec import GroupSpec
from .states import WorkerState
from .worker import Worker


def enlist(host: HostState, group: Group, workers: Sequence[Worker], reason: str) -> Iterator[Command]:
    """Let some spare workers of a group serve with the others; where it is up, they come as room allows."""
    before = len(group.enlisted)
    group.enlist(workers)
    yield from _resized(host, group, before, workers, reason)


def let_spare(host: HostState, group: Group, workers: Sequence[Worker], reason: str) -> Iterator[Command]:
    """Let a group do without some of its workers: those that serve finish what they have, others are ended."""
    before = len(group.enlisted)
    group.let_spare(workers, host.now + group.spec.drain_timeout)
    host.moves += 1
    yield RecordScale(group.name, before, len(group.enlisted), reason)
    for worker in workers:
        if worker.state is WorkerState.READY:
            yield from host.move(worker, WorkerState.DRAINING, reason)
        elif worker.state in (WorkerState.STARTING, WorkerState.WAKING):
            yield from host.stop_worker(worker, reason, kill=True)
    yield from host.derive(group, reason)


def reconfigure(host: HostState, group: Group, spec: GroupSpec) -> Iterator[Command]:
    """Let a spec with other workers hold for a group with processes; those that stay are left as they are."""
    before, former = len(group.enlisted), group.spec
    group.resize(spec, host.now)
    host.renewals += 1
    host.workers.update((worker.name, worker) for worker in group.members)
    size = before if spec.replicas == former.replicas and spec.scaling is not None else spec.replicas
    size = max(group.least, min(size or group.most, group.most))
    more = [worker for worker in group.spares if not worker.retired][: max(0, size - len(group.enlisted))]
    group.enlist(more)
    group.let_spare(group.enlisted[size:], host.now + spec.drain_timeout)
    host.note_kinds()
    yield from _resized(host, group, before, more, "the configuration says so")


def _resized(host: HostState, group: Group, before: int, more: Sequence[Worker], reason: str) -> Iterator[Command]:
    """Tell that another number serve than before; those of them that drain serve on."""
    host.moves += 1
    if len(group.enlisted) != before:
        yield RecordScale(group.name, before, len(group.enlisted), reason)
    for worker in more:
        if worker.state is WorkerState.DRAINING and group.state is not WorkerState.DRAINING:
            yield from host.move(worker, WorkerState.READY, reason)
    yield from host.derive(group, reason)


def resume_size(host: HostState, group: Group, size: int, awake: Collection[str]) -> None:
    """Let a group have so many replicas as under an earlier muxd: those that are awake first."""
    order = sorted(group.serving, key=lambda worker: worker.name not in awake)
    size = max(group.least, min(size, len(order)))
    group.enlist(order[:size])
    group.let_spare(order[size:], host.now)


def dismiss(host: HostState, group: Group) -> list[str]:
    """Forget the workers that the configuration has no more and that have ended; return their names."""
    gone = [worker for worker in group.serving if worker.retired and worker.is_down]
    for worker in gone:
        host.ledger.give_back(worker.name)
        del host.workers[worker.name]
    if gone:
        group.dismiss(gone)
        host.moves += 1
        host.touch(group)
        host.note_kinds()
    return [worker.name for worker in gone]


def tend_spare(host: HostState, group: Group) -> Iterator[Command]:
    """Bring the spare workers of a group off their GPUs, each once the router passes it no more and it is idle."""
    why = f"{group.name} does without it"
    for worker in group.spares:
        match worker.state:
            case WorkerState.READY:
                yield from host.move(worker, WorkerState.DRAINING, why)
            case WorkerState.DRAINING:
                yield from _tend_draining(host, group, worker)
            case WorkerState.STARTING | WorkerState.WAKING:
                yield from host.stop_worker(worker, why, kill=True)
            case WorkerState.ASLEEP | WorkerState.STANDBY if worker.retired:
                yield from host.stop_worker(worker, why, kill=True)
            case WorkerState.BACKOFF | WorkerState.FAILED:
                yield from host.move(worker, WorkerState.UNLOADED, worker.reason)


def _tend_draining(host: HostState, group: Group, worker: Worker) -> Iterator[Command]:
    is_let_go = worker.url not in group.listed
    if is_let_go and (worker.is_drained or group.idle or host.now >= worker.drain_deadline):
        yield from host.deactivate_worker(worker, 3 if worker.retired else worker.sleep_level)
    elif host.now >= worker.drain_deadline + END_GRACE:
        yield from host.stop_worker(worker, worker.reason, kill=True)
    elif is_let_go and not worker.is_drain_watched:
        worker.is_drain_watched = True
        yield DrainWorker(worker.name)
