"""Whose weight files are read into the page cache ahead of a start, or of a wake that reloads them.

These are the groups that are next in line: to which a switch leads, from its beginning until they are ready, while
those in their way drain and the new process imports its modules; and the first of those who wait for a turn.  Where
the weights are in host RAM or on the GPU, nothing is read.
"""

from collections.abc import Iterator

from .commands import Command, PrefetchWeights, StopPrefetch
from .group import Group
from .host_state import HostState
from .states import OFF, WorkerState
from .switching import Switching
from .worker import Worker

_SLEEPING = (WorkerState.ASLEEP, WorkerState.FALLING_ASLEEP, WorkerState.WAKING)


class Prefetching:
    def __init__(self, host: HostState, switching: Switching) -> None:
        self._host = host
        self._switching = switching
        self._under_way: tuple[str, ...] = ()  # groups whose weights are being read, or were

    def settle(self) -> Iterator[Command]:
        """Begin for those who are next by now; stop for those who are ready, or next no more."""
        names = [switch.target for switch in self._switching.running]
        names += [name for name in (self._switching.next_in_line,) if name]
        groups = [self._host.groups[name] for name in dict.fromkeys(names) if name in self._host.groups]
        wanted = {group.name: group for group in groups if group.spec.prefetch and any(map(_reads, group.enlisted))}
        former, self._under_way = self._under_way, tuple(wanted)
        for name in former:
            if name not in wanted:
                yield StopPrefetch(name)
        for name, group in wanted.items():
            if name not in former:
                yield PrefetchWeights(name, self._host_ram_for(group))

    def _host_ram_for(self, group: Group) -> int:
        """Return the bytes of host RAM that the group's new processes take for copies of their weights."""
        coming = (w for w in group.enlisted if w.is_down or w.state is WorkerState.STARTING)
        return sum(worker.copy or self._host.placement.copy_of(worker) for worker in coming)


def _reads(worker: Worker) -> bool:
    """Say whether the worker has to read its weights from disk to get ready."""
    if worker.state in _SLEEPING:
        return worker.level >= 2
    return worker.state in OFF or worker.state is WorkerState.STARTING
