"""An operator's switch: it goes ahead of the queue, and at most one is open.

It is open until its group is ready, or cannot be.  Until then its tickets wait, and the groups that are exposed for it
leave for it, however lately they were used.  When it begins is decided in `switching`.
"""

from collections.abc import Iterable, Iterator

from .commands import Command, FailSwitch, FinishSwitch
from .group import Group
from .host_books import HostBooks
from .ledger import GpuId


class OperatorSwitch:
    """The operator's switch of a host that is open, if one is."""

    def __init__(self, host: HostBooks) -> None:
        self._host = host
        self.target: Group | None = None  # None: none is open
        self.tickets: list[int] = []

    def is_to(self, group: Group) -> bool:
        """Say whether an operator's switch to the group is open."""
        return self.target is group

    @property
    def gpus(self) -> frozenset[GpuId]:
        """Return the GPUs that are kept for it."""
        return self.target.gpus if self.target is not None else frozenset()

    def open(self, group: Group, ticket: int, exposed: Iterable[Group]) -> Iterator[Command]:
        """Open a switch to the group, for which others are exposed; the one before ends as superseded.

        Who was exposed for that on GPUs of the group stays so.
        """
        still = [other for other in self._host.exposed if not other.gpus.isdisjoint(group.gpus)]
        yield from self.fail("superseded", f"a newer switch, to {group.name}, took its place")
        self.target, self.tickets = group, [ticket]
        self._host.expose([*exposed, *still], is_exposed=True)

    def finish(self, url: str) -> Iterator[Command]:
        """Tell those who wait for it that its group is ready, at this address."""
        yield from (FinishSwitch(ticket, url) for ticket in self._end())

    def fail(self, code: str, message: str) -> Iterator[Command]:
        """End one that cannot be, if one is open."""
        yield from (FailSwitch(ticket, code, message) for ticket in self._end())

    def _end(self) -> list[int]:
        if self.target is not None:
            self._host.expose(self._host.exposed, is_exposed=False)
        tickets, self.target, self.tickets = self.tickets, None, []
        return tickets
