"""The routers of groups: each is told which workers of its group serve, and says to which it passes requests."""

from collections.abc import Iterator

from .commands import Command, SyncRouter
from .group import Group
from .host_state import HostState
from .quorum import carries
from .states import RUNNING, WorkerState


def tend(host: HostState) -> Iterator[Command]:
    """Tell each router which members of its group serve, or end it with the last of them."""
    for group in host.composed:
        router = group.router
        if router is None:
            continue
        if router.state in RUNNING and all(w.is_down or w.state is WorkerState.STUCK for w in group.serving):
            yield from host.stop_worker(router, "no worker of its group is left", kill=True)
        elif router.state is WorkerState.READY:
            serve = (WorkerState.READY, WorkerState.DRAINING)
            urls = tuple(worker.url for worker in group.enlisted if worker.state in serve)
            if urls != group.told:
                group.told, group.routed = urls, group.routed.intersection(urls)
                yield SyncRouter(group.name, urls)


def synced(host: HostState, group: Group, urls: tuple[str, ...]) -> Iterator[Command]:
    """Take in whom a group's router passes requests to, of those that it was last told."""
    group.routed, group.listed = frozenset(group.told or ()).intersection(urls), frozenset(urls)
    yield from host.derive(group)
    if not carries(group):
        message = f"the router of {group.name} knows no worker that answers"
        yield from host.leases.cut_off(group, "worker_exited", message)
