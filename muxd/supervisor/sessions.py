"""The sessions of the proxies: whose each lease is, and what each proxy is to be told.

A proxy numbers its leases within its session; the core numbers all leases.  A session that ends, because its proxy is
gone, ends its leases.  Messages wait in the session until its task sends them: of a proxy that reads slowly only the
newest progress of each lease is kept, and every other message.
"""

from collections.abc import Callable
from contextlib import suppress
from math import inf

import trio

from muxd.core.commands import AnswerUnload, EndLease, FailLease, GrantLease
from muxd.core.events import DemandReported, Event, KeepAsked, LeaseAsked, LeaseEnded, LeaseReclaimed, UnloadAsked
from muxd.core.progress import Progress
from muxd.errors import BadRequest, ModelNotFound
from muxd.history import History
from muxd.protocol import (
    ActivityReport,
    DemandReport,
    KeepWish,
    LeaseClaim,
    LeaseFailed,
    LeasePlaces,
    LeaseProgress,
    LeaseRelease,
    LeaseWish,
    MuxdMessage,
    ProxyMessage,
    RequestsCancelled,
    RequestsTold,
    SessionRefused,
    ToldError,
    UnloadAnswer,
    UnloadWish,
    WaitingRequests,
)

from .place_dealer import PlaceDealer
from .progress_pace import ProgressPace
from .request_board import RequestBoard
from .wire import LeaseCommand, lease_message, progress_message, told_error, waiting_of

#: Leases that one session may have at once; a proxy has one for each model, and a second one while the first drains.
MOST_LEASES = 10_000


class SessionLease:
    """One lease: its number in its session, and what its holder was told of the wait."""

    __slots__ = ("is_waiting", "key", "model", "number", "pace", "request", "session")

    def __init__(
        self,
        session: "ProxySession",
        number: int,
        model: str,
        *,
        is_waiting: bool,
        request: str = "",
        key: str = "",
    ) -> None:
        self.session = session
        self.number = number
        self.model = model
        self.is_waiting = is_waiting  # its holder wants to know how it goes
        self.pace = ProgressPace()
        self.request = request  # the id of the request for which it was asked, and the name of that one's API key
        self.key = key

    def tell_progress(self, progress: Progress, now: float) -> None:
        """Tell the holder how it goes, where that is due."""
        if self.pace.is_due(progress, now):
            self.session.say_progress(progress_message(self.number, progress))


class ProxySession:
    """muxd's end of one proxy's session."""

    def __init__(self, sessions: "ProxySessions") -> None:
        self._sessions = sessions
        self._leases: dict[int, int] = {}  # the proxy's number -> the core's
        self._last = -1  # the greatest number that the proxy has used
        self._outbox: list[MuxdMessage] = []
        self._progress: dict[int, LeaseProgress] = {}  # to be told, by the proxy's number
        self._is_open = True
        self._has_news = trio.Event()
        self._time = trio.lowlevel.current_clock().current_time  # as trio.current_time, in two calls less

    # Called by the control socket

    def take(self, message: ProxyMessage) -> bool:
        """Do what the proxy says; return whether that is done: a report of which nothing comes is, all else goes on."""
        if not isinstance(message, DemandReport):  # as nearly all are
            self._do(message)
            return False
        sessions, is_done = self._sessions, True
        now = self._time()
        known = [demand for demand in message.leases if demand.lease in self._leases]  # the others have just ended
        for told in known:
            lease, waiting, more = self._leases[told.lease], waiting_of(told.waiting), told is not known[-1]
            report = DemandReported(now, lease, told.in_flight, waiting, told.batch, told.oldest_s, told.usual_s, more)
            is_done = sessions.tell_demand(report) and is_done
            wanted = told.in_flight + _count(told.waiting)
            is_done = sessions.places.report(lease, wanted, told.places, told.deal) and is_done
        return is_done

    def _do(self, message: ProxyMessage) -> None:
        match message:
            case LeaseWish():
                self._ask(message)
            case LeaseClaim():
                self._reclaim(message)
            case LeaseRelease(number):
                if (lease := self._leases.pop(number, None)) is not None:
                    self._sessions.release(lease)
            case UnloadWish(model):
                self._unload(model)
            case KeepWish(model, seconds, age):
                with suppress(ModelNotFound):  # a reload has just removed it
                    name, now = self._sessions.resolve(model), trio.current_time()
                    self._sessions.tell(KeepAsked(now, name, inf if seconds is None else seconds, now - age))
            case ActivityReport():
                self._sessions.board.report(message)
            case RequestsTold() | RequestsCancelled():
                self._sessions.board.answered(self, message)

    def _reclaim(self, claim: LeaseClaim) -> None:
        if (added := self._add(claim)) is not None:
            number, model = added
            waiting = waiting_of(claim.waiting)
            now = trio.current_time()
            self._sessions.tell(LeaseReclaimed(now, number, model, claim.url, claim.in_flight, waiting))

    def _ask(self, wish: LeaseWish) -> None:
        if (added := self._add(wish)) is not None:
            number, model = added
            self._sessions.tell(LeaseAsked(trio.current_time(), number, model, waiting_of(wish.waiting)))

    def _add(self, wish: LeaseWish | LeaseClaim) -> tuple[int, str] | None:
        """Return the core's number for a lease that is asked for, and its model; None where there is no such model."""
        if wish.lease <= self._last:
            raise BadRequest(f"lease {wish.lease}: numbers of leases only grow in a session, and {self._last} was used")
        if len(self._leases) >= MOST_LEASES:
            raise BadRequest(f"a session has at most {MOST_LEASES} leases")
        self._last = wish.lease
        try:
            model = self._sessions.resolve(wish.model)
        except ModelNotFound as error:
            self.say(LeaseFailed(wish.lease, told_error(error)))
            return None
        if isinstance(wish, LeaseWish):
            lease = SessionLease(self, wish.lease, model, is_waiting=True, request=wish.request, key=wish.key)
        else:
            lease = SessionLease(self, wish.lease, model, is_waiting=False)
        number = self._leases[wish.lease] = self._sessions.add(lease)
        in_flight, used = (wish.in_flight, wish.places) if isinstance(wish, LeaseClaim) else (0, 0)
        self._sessions.places.join(number, model, in_flight + _count(wish.waiting), used)
        return number, model

    def _unload(self, asked: str) -> None:
        try:
            model = self._sessions.resolve(asked)
        except ModelNotFound as error:
            self.say(UnloadAnswer(asked, error.message))
            return
        ticket = self._sessions.add_unload(self, asked)
        self._sessions.tell(UnloadAsked(trio.current_time(), ticket, model))

    async def messages(self) -> list[MuxdMessage]:
        while self._is_open and not self._outbox and not self._progress:
            self._has_news = trio.Event()
            await self._has_news.wait()
        said: list[MuxdMessage] = [*self._outbox, *self._progress.values()]
        self._outbox.clear()
        self._progress.clear()
        return said

    def refuse(self, error: ToldError) -> None:
        self.say(SessionRefused(error))
        self.end()

    def close(self) -> None:
        self.end()
        self._sessions.forget(self)
        for lease in self._leases.values():
            self._sessions.release(lease, is_lost=True)
        self._leases.clear()

    # Called by the supervisor

    def say(self, message: MuxdMessage) -> None:
        """Have a message sent."""
        self._outbox.append(message)
        self._has_news.set()

    def say_progress(self, progress: LeaseProgress) -> None:
        """Have the progress of a lease sent, in place of what is not sent yet."""
        self._progress[progress.lease] = progress
        self._has_news.set()

    def tell_holder(self, command: LeaseCommand, number: int, places: tuple[int | None, int]) -> None:
        """Have the holder of a lease told of a command; an earlier progress that is not sent yet is obsolete."""
        self._progress.pop(number, None)
        self.say(lease_message(command, number, trio.current_time(), places))
        if isinstance(command, FailLease | EndLease):
            self._leases.pop(number, None)

    def end(self) -> None:
        """Let the session end once all that waits was sent."""
        self._is_open = False
        self._has_news.set()


def _count(waiting: tuple[WaitingRequests, ...]) -> int:
    count = 0
    for each in waiting:
        count += each.count
    return count


class ProxySessions:
    """All sessions, the leases of all by the core's numbers, and who asked for which unload."""

    def __init__(
        self,
        tell: Callable[[Event], None],
        tell_demand: Callable[[DemandReported], bool],
        resolve: Callable[[str], str],
        next_number: Callable[[], int],
        history: History,
        limit_of: Callable[[str], int],
    ) -> None:
        """Begin without a session; what proxies report goes into `history`.

        `limit_of` returns how many requests may be at a model's worker at once; 0 for no limit.
        """
        self.places = PlaceDealer(limit_of, self._tell_places)
        self.tell = tell
        self.tell_demand = tell_demand
        self.resolve = resolve
        self._next_number = next_number
        self._sessions: set[ProxySession] = set()
        self.board = RequestBoard(lambda: list(self._sessions), next_number, history)
        self._leases: dict[int, SessionLease] = {}
        self._unloads: dict[int, tuple[ProxySession, str]] = {}  # by ticket: the model as it was called

    def open(self) -> ProxySession:
        session = ProxySession(self)
        self._sessions.add(session)
        return session

    def add(self, lease: SessionLease) -> int:
        """Return the core's number for a new lease."""
        number = self._next_number()
        self._leases[number] = lease
        return number

    def add_unload(self, session: ProxySession, model: str) -> int:
        """Return the ticket under which the core answers an unload."""
        ticket = self._next_number()
        self._unloads[ticket] = (session, model)
        return ticket

    def release(self, lease: int, *, is_lost: bool = False) -> None:
        """Tell the core that a lease's holder has let go, or is gone."""
        del self._leases[lease]
        self.places.leave(lease, is_lost=is_lost)
        self.tell(LeaseEnded(trio.current_time(), lease))

    def forget(self, session: ProxySession) -> None:
        """Forget a session that ends; its leases are still to be released."""
        self._sessions.discard(session)
        self.board.lose(session)
        self._unloads = {ticket: asked for ticket, asked in self._unloads.items() if asked[0] is not session}

    def tell_holder(self, command: LeaseCommand) -> None:
        """Tell a lease's holder of a command; nobody where the holder is gone."""
        lease = self._leases.get(command.lease)
        if lease is None:
            return
        lease.is_waiting = lease.is_waiting and not isinstance(command, GrantLease)
        places = self.places.grant(command.lease) if isinstance(command, GrantLease) else (None, 0)
        if isinstance(command, FailLease | EndLease):
            del self._leases[command.lease]
            self.places.leave(command.lease)
        lease.session.tell_holder(command, lease.number, places)

    def _tell_places(self, number: int, places: int | None, deal: int) -> None:
        lease = self._leases[number]
        lease.session.say(LeasePlaces(lease.number, places, deal))

    def answer_unload(self, command: AnswerUnload) -> None:
        """Tell a proxy whether the model that it let go is put to sleep."""
        asked = self._unloads.pop(command.ticket, None)
        if asked is not None:
            session, model = asked
            session.say(UnloadAnswer(model, command.reason or None))

    def waiting(self, lease: int | None = None) -> list[SessionLease]:
        """Return the leases whose holders want to know how it goes: all, or that one if it is among them."""
        found = self._leases.values() if lease is None else [self._leases[lease]] if lease in self._leases else []
        return [each for each in found if each.is_waiting]

    def lease(self, number: int) -> SessionLease | None:
        """Return the lease that the core calls so; None where its holder is gone."""
        return self._leases.get(number)

    def close(self) -> None:
        """End every session."""
        for session in self._sessions:
            session.end()
