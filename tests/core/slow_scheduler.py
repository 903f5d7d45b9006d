"""A scheduler to compare with: it remembers nothing that it found before."""

from math import inf

from muxd.core.commands import Command
from muxd.core.events import Event
from muxd.core.group import Group
from muxd.core.scheduler import Scheduler


class SlowScheduler(Scheduler):
    """Decides anew after every event, and remembers nothing that it found before."""

    def _leaves_all_as_it_is(self, group: Group) -> bool:
        return False

    def handle(self, event: Event) -> list[Command]:
        self.host.learned += 1
        return super().handle(event)


def wakes(scheduler: Scheduler) -> float:
    """Return when the scheduler looks again, if nothing happens."""
    return inf if scheduler._timer is None else scheduler._timer
