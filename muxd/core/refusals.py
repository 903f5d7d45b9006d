"""Why nobody need wait for a model: what no switch can mend is said at once, to clients and operators."""

from collections.abc import Iterable, Iterator, Sequence

from .commands import Command, FailLease
from .events import Verb
from .group import Group
from .host_state import HostState
from .loans import Loans
from .orders import Orders
from .placement import why_kept_out
from .shutdown import Shutdown
from .states import WorkerState
from .switching import Switching

#: Orders that lead to a group that is ready, and are refused where it can never be.
BRINGING = frozenset({Verb.START, Verb.RESTART, Verb.SCALE, Verb.VALIDATE})

#: Seconds after which it is worth another try to load a model for which strangers leave no room.
CROWDED_RETRY = 30.0


def not_configured(name: str) -> tuple[str, str, float | None]:
    return "model_not_found", f"model {name} is no longer in the configuration", None


class Refusals:
    """Says why a group cannot be had, and ends the waits for it."""

    def __init__(self, host: HostState, switching: Switching, orders: Orders, loans: Loans, shutdown: Shutdown) -> None:
        self._host = host
        self._placement = host.placement
        self._switching = switching
        self._orders = orders
        self._loans = loans
        self._shutdown = shutdown

    def why_not(self, group: Group) -> tuple[str, str, float | None] | None:
        """Return why nobody need wait for this group: code, message, seconds until it is worth another try."""
        if self._shutdown.is_under_way:
            return "shutting_down", "muxd is shutting down; send the request again when it is back", None
        if group.retired:
            return not_configured(group.name)
        if group.stopped_by_operator:
            what = f"model {group.name} is stopped by an operator"
            return "model_stopped", f"{what}; `muxctl start {group.name}` lets it run again", None
        self._placement.place(group)
        if (loan := self._loans.keeps_off(group)) is not None:
            return self._loans.refusal(loan, group) if loan.terms.refuses else None
        if never := self._placement.never_loads(group):
            return never.code, f"model {group.name} {never}", None
        if few := self._placement.too_few_places(group):
            return "gpu_memory_taken", f"model {group.name} {few}", CROWDED_RETRY
        own = group.members if group.state is WorkerState.STUCK else ()
        stuck = [worker for worker in own if worker.state is WorkerState.STUCK]
        in_the_way = self._placement.evictions(group) if self._host.stuck else ()
        stuck += [w for other in in_the_way if (w := other.group.stuck_on(group.gpus)) is not None]
        if stuck:
            what = f"model {group.name} cannot be loaded: worker {stuck[0].name} is stuck ({stuck[0].reason})"
            return "worker_stuck", f"{what}; end its processes by hand or reset the GPU", 30.0
        if self._placement.must_start_anew(group):
            return None  # it is started anew elsewhere
        if fixed := self._placement.fixed_in_the_way(group):
            text = f"model {group.name} {why_kept_out(group, fixed)}"
            if any(other.is_pinned for other in fixed):
                return "pinned_in_the_way", text, None
            return "model_in_use", text, self._until_unsheltered(fixed)
        if crowded := self._placement.crowded_out(group):
            return "gpu_memory_taken", f"model {group.name} {crowded}", CROWDED_RETRY
        if group.lost_role and self._host.now < group.retry_at:
            wait = group.retry_wait(self._host.now)
            again = "once its port is free" if group.awaits_port else f"in {wait:.0f} s"
            failed = max(group.lost_role, key=lambda worker: worker.ended_at)
            what = f"model {group.name} failed: {failed.reason}"
            return (
                failed.ended_code or "model_failed",
                f"{what}; see `muxctl logs {failed.name}`; tried again {again}",
                wait,
            )
        return None

    def _until_unsheltered(self, others: Sequence[Group]) -> float:
        """Return the seconds until others have been unused for long enough, at least one."""
        left = max(
            other.spec.sheltered_for if other.in_use else other.unused_since + other.spec.sheltered_for - self._host.now
            for other in others
        )
        return max(1.0, left)

    def end_hopeless(self, groups: Iterable[Group]) -> Iterator[Command]:
        """End the waits for these groups that no switch can end."""
        for group in groups:
            is_switched_to = self._switching.operator_switch.is_to(group)
            is_started = group.order is not None and group.order.verb in BRINGING
            refusal = self.why_not(group) if group.waiting or is_switched_to or is_started else None
            if refusal is None:
                continue
            if is_started and group.state is not WorkerState.STUCK:
                yield from self._orders.fail(group, refusal[0], refusal[1])
            for lease in list(group.waiting):
                self._host.leases.forget(lease)
                yield FailLease(lease, *refusal)
            if is_switched_to:
                yield from self._switching.operator_switch.fail(refusal[0], refusal[1])
