"""Loans of GPUs as operators ask for them: their streams, their borrowers, their records in the state file.

The core says when the GPUs are clear.  muxctl then starts the borrower and names its process group; from then on the
loan lasts as long as that, whatever becomes of muxctl or of muxd.  A borrower that is recalled is ended by muxctl, or
by muxd where no muxctl listens.
"""

import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from math import inf
from typing import Any

import trio

from muxd.borrowers import Borrower
from muxd.core.commands import FailLoan, FinishLoan, GrantLoan, RecallLoan
from muxd.core.events import Event, LoanAsked, LoanEnded
from muxd.core.ledger import in_order, shown_gpu
from muxd.core.spec import LoanTerms
from muxd.errors import LoanNotFound, error_of
from muxd.history.journal import Journal
from muxd.protocol import seconds
from muxd.saved_state import LoanRecord, StateFile
from muxd.ticks import next_tick

log = logging.getLogger(__name__)

#: Seconds between two looks at the borrowers.
LOOK = 0.5

#: Seconds from SIGTERM to SIGKILL for a borrower that is recalled.
PATIENCE = 30.0

Line = dict[str, Any]


@dataclass(slots=True)
class OpenLoan:
    """A loan that is asked for or granted, and the streams of those who listen."""

    terms: LoanTerms
    by: str
    listeners: list[trio.MemorySendChannel[Line]] = field(default_factory=list)
    is_granted: bool = False
    gpus: tuple[str, ...] = ()
    borrower: Borrower | None = None
    recalled_at: float = inf  # on trio's clock
    is_told_to_end: bool = False  # by muxd itself
    is_killed: bool = False

    def say(self, line: Line) -> None:
        for listener in self.listeners:
            with suppress(trio.WouldBlock, trio.BrokenResourceError, trio.ClosedResourceError):
                listener.send_nowait(line)  # where who listens is gone, or does not read, the loan goes on

    def close(self) -> None:
        for listener in self.listeners:
            listener.close()
        self.listeners.clear()


class GpuLoans:
    """All loans by number; `measure` reads the GPUs, so that what a borrower had there is seen to be free."""

    def __init__(
        self,
        tell: Callable[[Event], None],
        state: StateFile,
        journal: Journal,
        measure: Callable[[], Awaitable[None]],
    ) -> None:
        self._tell = tell
        self._state = state
        self._journal = journal
        self._measure = measure
        self._loans: dict[int, OpenLoan] = {}

    # What an earlier muxd has granted

    def recalled(self) -> dict[int, tuple[LoanTerms, tuple[str, ...]]]:
        """Take up the loans of the state file that still stand, and return them for the core."""
        found, now = {}, trio.current_time()
        for number, record in list(self._state.state.loans.items()):
            if record.is_borrowed and (record.borrower is None or not record.borrower.is_alive()):
                del self._state.state.loans[number]
                continue
            until = inf if record.until is None else max(now, record.until + now - time.time())
            flags = record.is_borrowed, record.is_preemptible, record.refuses
            terms = LoanTerms(frozenset(record.gpus) if record.is_borrowed else frozenset(), until, *flags)
            borrower, gpus = record.borrower, tuple(record.gpus)
            self._loans[int(number)] = OpenLoan(terms, record.by, is_granted=True, gpus=gpus, borrower=borrower)
            found[int(number)] = terms, tuple(record.returning)
        self._state.save()
        return found

    # What operators ask

    def ask(self, terms: LoanTerms, by: str) -> tuple[int, trio.MemoryReceiveChannel[Line]]:
        """Ask for a loan; return its number, and a channel that says when it is granted, recalled and over."""
        number = max([0, *self._loans]) + 1
        self._loans[number] = OpenLoan(terms, by)
        channel = self._listen(self._loans[number])
        self._tell(LoanAsked(trio.current_time(), number, terms))
        return number, channel

    def attend(self, number: int) -> trio.MemoryReceiveChannel[Line]:
        """Return a channel that says when a granted loan is recalled and over; raises LoanNotFound."""
        loan = self._of(number)
        channel = self._listen(loan)
        if loan.recalled_at < inf:
            loan.say({"type": "recalled", "loan": number, "reason": "its time is over"})
        return channel

    async def borrow(self, number: int, borrower: Borrower) -> None:
        """Note whose the GPUs are from now on; raises LoanNotFound."""
        loan = self._of(number)
        self._state.state.loans[str(number)].borrower = borrower
        await self._state.write_ahead()  # the command runs, and is shown, once the next muxd will know of it
        loan.borrower = borrower

    def leave(self, number: int) -> None:
        """End a loan whose asker is gone before there was a borrower."""
        loan = self._loans.get(number)
        if loan is not None and loan.terms.is_borrowed and loan.borrower is None:
            self._end(number)

    def end_yields(self) -> int:
        """End the loans without a borrower; return how many there were."""
        yields = [number for number, loan in self._loans.items() if not loan.terms.is_borrowed]
        for number in yields:
            self._end(number)
        return len(yields)

    def status(self) -> list[Line]:
        now = trio.current_time()
        return [
            {
                "loan": number,
                "gpus": [shown_gpu(gpu) for gpu in loan.gpus or in_order(loan.terms.gpus)],
                "kind": "lend" if loan.terms.is_borrowed else "yield",
                "granted": loan.is_granted,
                "by": loan.by or None,
                "pid": loan.borrower.pid if loan.borrower is not None else None,
                "left_s": seconds(max(0.0, loan.terms.until - now)),
                "preemptible": loan.terms.is_preemptible,
                "refuses": loan.terms.refuses,
                "recalled": loan.recalled_at < inf,
            }
            for number, loan in self._loans.items()
        ]

    def _of(self, number: int) -> OpenLoan:
        loan = self._loans.get(number)
        if loan is None or not loan.is_granted:
            raise LoanNotFound(f"there is no loan {number}; muxctl status shows those there are", loan=number)
        return loan

    def _listen(self, loan: OpenLoan) -> trio.MemoryReceiveChannel[Line]:
        send, receive = trio.open_memory_channel[Line](16)
        loan.listeners.append(send)
        return receive

    # What the core says

    def carry_out(self, command: GrantLoan | FailLoan | RecallLoan | FinishLoan) -> None:
        loan = self._loans.get(command.number)
        if loan is None:
            return  # its asker has left meanwhile
        match command:
            case GrantLoan(number, gpus, returning):
                loan.is_granted, loan.gpus = True, gpus
                self._remember(number, loan, returning)
                self._note(number, loan, "granted")
                loan.say({"type": "lent", "loan": number, "gpus": [shown_gpu(gpu) for gpu in gpus], "ids": list(gpus)})
            case FailLoan(number, code, message):
                loan.say({"type": "failed", **error_of(code, message).as_json()})
                self._forget(number)
            case RecallLoan(number, reason):
                loan.recalled_at = trio.current_time()
                self._note(number, loan, f"recalled: {reason}")
                loan.say({"type": "recalled", "loan": number, "reason": reason})
            case FinishLoan(number):
                self._note(number, loan, "over")
                self._forget(number)

    def _remember(self, number: int, loan: OpenLoan, returning: tuple[str, ...]) -> None:
        until = loan.terms.until
        self._state.state.loans[str(number)] = LoanRecord(
            gpus=list(loan.gpus),
            until=None if until == inf else round(until + time.time() - trio.current_time(), 3),
            is_borrowed=loan.terms.is_borrowed,
            is_preemptible=loan.terms.is_preemptible,
            refuses=loan.terms.refuses,
            returning=list(returning),
            by=loan.by,
        )
        self._state.save()

    def _forget(self, number: int) -> None:
        self._loans.pop(number).close()
        if self._state.state.loans.pop(str(number), None) is not None:
            self._state.save()

    def _end(self, number: int) -> None:
        self._note(number, self._loans[number], "over")
        self._forget(number)
        self._tell(LoanEnded(trio.current_time(), number))

    def _note(self, number: int, loan: OpenLoan, what: str) -> None:
        gpus = [shown_gpu(gpu) for gpu in loan.gpus or in_order(loan.terms.gpus)]
        self._journal.record("loan", loan=number, gpus=gpus, what=what, by=loan.by or None)
        log.info("loan %d of GPU %s: %s", number, ", ".join(map(str, gpus)) or "all", what)

    # The borrowers

    async def watch(self) -> None:
        """End the loans whose borrowers are gone, until cancelled; end borrowers that nobody else ends."""
        while True:
            for number, loan in list(self._loans.items()):
                if loan.borrower is None:
                    continue
                if not loan.borrower.is_alive():
                    await self._measure()
                    if number in self._loans:
                        self._end(number)
                elif loan.recalled_at < inf:
                    self._end_borrower(loan, loan.borrower)
            await next_tick(LOOK)

    def _end_borrower(self, loan: OpenLoan, borrower: Borrower) -> None:
        """End a borrower that was recalled, unless a muxctl listens who does; at last in any case."""
        waited = trio.current_time() - loan.recalled_at
        is_listened_to = any(listener.statistics().open_receive_channels for listener in loan.listeners)
        if waited > PATIENCE:
            if not loan.is_killed:
                loan.is_killed = True
                borrower.end(kill=True)
        elif not is_listened_to and not loan.is_told_to_end:
            loan.is_told_to_end = True
            borrower.end(kill=False)
