"""Loans of GPUs: models leave them for somebody who is none of muxd's, and come back when the loan is over.

A loan is of some GPUs, to a borrower whose processes muxd watches, or of all, to whoever comes (`muxctl yield`).  From
its first moment nobody comes to its GPUs; whoever has weights there drains and sleeps.  Once no weights are left, and
that is measured, the loan is granted.  Requests for models that can come nowhere else wait meanwhile, or are refused.
A loan with a borrower ends with that; when its time is over, or one that is preemptible stands in a request's way, it
is recalled.  When a loan ends, the models that were awake when it was asked for come back, where nobody must leave.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import inf

from .commands import Command, FailLoan, FinishLoan, GrantLoan, RecallLoan
from .events import LoanAsked, Verb
from .group import Group
from .host_state import HostState
from .ledger import GpuId, in_order
from .order import Order
from .orders import Orders
from .spec import LoanTerms
from .states import COMING, UP, WorkerState
from .switching import Switching


@dataclass(slots=True)
class Loan:
    """A loan, and how far it is."""

    number: int
    terms: LoanTerms
    gpus: frozenset[GpuId]
    returning: tuple[str, ...]  # groups that come back at its end
    is_granted: bool = False
    is_recalled: bool = False


class Loans:
    """Takes loans and brings them forward."""

    def __init__(self, host: HostState, orders: Orders, switching: Switching) -> None:
        self._host = host
        self._orders = orders
        self._switching = switching
        self._loans: dict[int, Loan] = {}

    @property
    def next(self) -> float:
        """Return when the time of a loan is over; inf where there is none that has not been told."""
        return min((loan.terms.until for loan in self._loans.values() if not loan.is_recalled), default=inf)

    # Taken

    def ask(self, asked: LoanAsked) -> Iterator[Command]:
        """Take a loan, or refuse one of GPUs that are lent, or that a model leaves for nobody."""
        terms = asked.terms
        gpus = terms.gpus or self._host.all_gpus
        if why := self._why_not(terms, gpus):
            yield FailLoan(asked.number, *why)
            return
        staying = (group for group in self._on(gpus) if group.state in UP | {WorkerState.DRAINING, WorkerState.BACKOFF})
        returning = tuple(group.name for group in staying if not group.sent_away)
        self._add(Loan(asked.number, terms, gpus, returning))

    def recall(self, found: Mapping[int, tuple[LoanTerms, tuple[str, ...]]]) -> None:
        """Take over loans that an earlier muxd has granted."""
        for number, (terms, returning) in found.items():
            self._add(Loan(number, terms, terms.gpus or self._host.all_gpus, returning, is_granted=True))

    def _why_not(self, terms: LoanTerms, gpus: frozenset[GpuId]) -> tuple[str, str] | None:
        if unknown := gpus - self._host.all_gpus:
            known = ", ".join(in_order(self._host.all_gpus)) or "none"
            return "gpu_missing", f"no model may use GPU {' or '.join(in_order(unknown))}; there are {known}"
        if taken := gpus & self._host.lent:
            if any(not loan.terms.is_borrowed for loan in self._loans.values()):
                return "gpu_lent", f"{_shown(taken)} given up already (muxctl yield); `muxctl yield --end` ends that"
            return "gpu_lent", f"{_shown(taken)} lent already; muxctl status shows until when"
        if not terms.is_borrowed:
            return None
        for group in self._on(gpus):
            if group.is_pinned and group.state in UP | {WorkerState.DRAINING, WorkerState.BACKOFF}:
                how = "pinned" if group.spec.pinned else "held by an operator"
                verb = "stop" if group.spec.pinned else "unhold"
                way = f"`muxctl {verb} {group.name}` makes room"
                what = f"GPU {' and '.join(in_order(gpus))} cannot be lent"
                return "pinned_in_the_way", f"{what}: {group.name} is {how}, and leaves for nobody; {way}"
        return None

    def _add(self, loan: Loan) -> None:
        self._loans[loan.number] = loan
        self._note_lent()
        self._switching.drop_on(loan.gpus)

    def end(self, number: int) -> None:
        """End a loan, granted or not: its GPUs are muxd's again, and who was on them comes back."""
        loan = self._loans.pop(number, None)
        if loan is None:
            return
        self._note_lent()
        for group in self._on(loan.gpus):
            if group.order is not None and group.order.for_loan:
                self._orders.take_back(group)
        back = (self._host.groups[name] for name in loan.returning if name in self._host.groups)
        preload = self._switching.preload
        returning = (group.name for group in back if not group.stopped_by_operator and not group.is_put_away)
        preload += [name for name in returning if name not in preload]

    def _note_lent(self) -> None:
        self._host.lent = frozenset().union(*(loan.gpus for loan in self._loans.values()))
        self._host.learned += 1

    def _on(self, gpus: frozenset[GpuId]) -> list[Group]:
        return [group for group in self._host.groups.values() if not gpus.isdisjoint(group.gpus)]

    # Brought forward

    def forward(self) -> Iterator[Command]:
        """Send away who is on lent GPUs, grant the loans of those that are clear, and recall those that are over."""
        for loan in list(self._loans.values()):
            if loan.terms.until <= self._host.now and not loan.is_recalled:
                yield from self._time_is_over(loan)
            if loan.number in self._loans:
                yield from self._preempt(loan)
            if loan.number in self._loans:
                yield from self._send_away(loan)

    def grant(self) -> Iterator[Command]:
        """Grant the loans whose GPUs are clear of weights, with nobody's memory changing there."""
        for loan in self._loans.values():
            is_clear = not self._host.ledger.loaded_on(loan.gpus) and not self._host.changing_on(loan.gpus)
            if not loan.is_granted and is_clear and not any(group.state in COMING for group in self._on(loan.gpus)):
                loan.is_granted = True
                yield GrantLoan(loan.number, tuple(in_order(loan.gpus)), loan.returning)

    def _time_is_over(self, loan: Loan) -> Iterator[Command]:
        if loan.terms.is_borrowed and loan.is_granted:
            loan.is_recalled = True
            yield RecallLoan(loan.number, "its time is over")
        else:
            self.end(loan.number)
            yield FinishLoan(loan.number)

    def _preempt(self, loan: Loan) -> Iterator[Command]:
        """Let a request that waits for the GPUs of a preemptible loan go before it, also before it is granted."""
        if not loan.terms.is_preemptible or loan.is_recalled:
            return
        waiting = next((g for g in self._host.leases.wanted.values() if self.keeps_off(g) is loan), None)
        if waiting is None:
            return
        if loan.is_granted:
            loan.is_recalled = True
            yield RecallLoan(loan.number, f"a request waits for {waiting.name}")
        else:
            self.end(loan.number)
            what = (
                f"{_shown(loan.gpus)} not lent: a request waits for {waiting.name}, and goes before a preemptible loan"
            )
            yield FailLoan(loan.number, "gpu_awaited", f"{what}; ask again once none waits, or without --preemptible")

    def _send_away(self, loan: Loan) -> Iterator[Command]:
        why = f"{_shown(loan.gpus)} {'lent' if loan.terms.is_borrowed else 'given up (muxctl yield)'}"
        for group in self._on(loan.gpus):
            order = group.order
            if group.state in (WorkerState.STARTING, WorkerState.STANDBY):
                yield from self._host.stop(group, why, kill=True)
            elif group.state is WorkerState.BACKOFF:
                yield from self._host.rest(group, WorkerState.BACKOFF, reason=why)
            elif (
                (order is None or not group.sent_away or order.verb is Verb.UNLOAD)
                and (group.state in UP or (group.state is WorkerState.ASLEEP and group.level == 0))
            ) or group.validation is not None:
                yield from self._orders.fail(group, "gpu_lent", why)
                level = group.level_from(max(1, group.sleep_level))
                self._orders.set(group, Order(Verb.SLEEP, level=level, why=why, for_loan=True))

    # Who must wait

    def keeps_off(self, group: Group) -> Loan | None:
        """Return the loan that keeps a group from all GPUs to which it could come; None where none does."""
        lent = self._host.lent
        if not lent or group.state in UP:
            return None
        worker = group.serving[0]
        if worker.spec.any_of and (not group.is_placed or group.may_be_on_anew):
            is_kept_off = not self._host.placement.has_places(group, lent)
        else:
            is_kept_off = not lent.isdisjoint(group.gpus)
        found = (loan for loan in self._loans.values() if not loan.gpus.isdisjoint(group.may_be_on))
        return next(found, None) if is_kept_off else None

    def refusal(self, loan: Loan, group: Group) -> tuple[str, str, float | None]:
        """Return why a group does not come while the loan lasts: code, message, seconds until it may be over."""
        left = loan.terms.until - self._host.now
        what = f"{_shown(loan.gpus)} {'lent' if loan.terms.is_borrowed else 'given up (muxctl yield)'}"
        end = "" if left == inf else f" for {left:.0f} s yet"
        way = "`muxctl status` shows the loan" if loan.terms.is_borrowed else "`muxctl yield --end` ends that"
        return "gpu_lent", f"model {group.name} cannot be loaded now: {what}{end}; {way}", max(1.0, min(left, 60.0))

    def all(self) -> tuple[Loan, ...]:
        """Return the loans, the oldest first."""
        return tuple(self._loans.values())


def _shown(gpus: frozenset[GpuId]) -> str:
    """Return GPUs as the beginning of a sentence about them."""
    return f"GPU {' and '.join(in_order(gpus))} {'are' if len(gpus) > 1 else 'is'}"
