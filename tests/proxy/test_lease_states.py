"""A lease's way through its states, as sentences: what comes in, what becomes of the lease and of its requests."""

from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic
from types import SimpleNamespace
from typing import Any

import pytest
import trio

from muxd.errors import Unreachable
from muxd.protocol import LeaseGranted, LeasePlaces, LeaseRestored, LeaseRevoked, RevocationReason
from muxd.proxy.answers import Refusal
from muxd.proxy.lease import ModelLease
from muxd.proxy.sockets.reactor import Reactor
from muxd.proxy.states import LEASE_MOVES, REQUEST_MOVES, LeaseState
from muxd.proxy.telemetry.metrics import ModelMetrics

WORKER = "http://127.0.0.1:1"
TERMS = SimpleNamespace(switch_timeout=10.0, queue_limit=3)


class Ticket:
    """A request; `fails`: its worker cannot be reached, which it knows at once."""

    priority = 0
    is_batch = False
    key_name = ""
    since = 0.0
    losses = 0
    record = None

    def __init__(self, play: "Play", name: str, *, fails: bool = False) -> None:
        self.play, self.name, self.fails = play, name, fails
        self.grant: Any = None

    def begin_wait(self) -> None: ...

    def waited(self, seconds: float) -> None:
        pass

    def forward(self, grant: Any) -> None:
        self.grant = grant
        self.play.told.append(f"forward {self.name}")
        if self.fails:
            self.play.lease.release(self, grant)  # type: ignore[arg-type]

    def refuse(self, refusal: Refusal) -> None:
        self.play.told.append(f"refuse {self.name}: {refusal.code}")
        self.play.lease.release(self, None)  # type: ignore[arg-type]

    def cut(self, refusal: Refusal) -> None:
        self.play.told.append(f"cut {self.name}: {refusal.code}")
        self.play.lease.release(self, self.grant)  # type: ignore[arg-type]


class Play:
    """One lease without sockets or tasks: what is asked of it in words, what it did in `told`."""

    def __init__(self, reactor: Reactor) -> None:
        self.told: list[str] = []
        self.reactor = reactor
        leases = SimpleNamespace(reactor=reactor, start=lambda _: self.told.append("ask muxd"), pool=self._pool)
        leases.batch_max_wait, leases.asked = 600.0, 0
        self.lease = ModelLease("a", leases, TERMS, ModelMetrics())  # type: ignore[arg-type]
        self.tickets: dict[str, Ticket] = {}
        tasks = SimpleNamespace(start_soon=lambda *_: self.told.append("drain"), cancel_scope=trio.CancelScope())
        asked = SimpleNamespace(let_go=lambda: self.told.append("let go"))
        self.lease._following = (asked, tasks)  # type: ignore[assignment]

    def _pool(self, url: str) -> Any:
        return SimpleNamespace(url=url, close=lambda: self.told.append("close"))

    def __rshift__(self, said: Any) -> "Play":
        match said:
            case str():
                words = said.split()
                getattr(self, words[0])(*words[1:])
            case _:
                self.lease._handle_message(said)
        return self

    def __lshift__(self, expected: str) -> "Play":
        """What it is in now, and what was done since the last time."""
        done, self.told = self.told, []
        assert ", ".join([self.lease.state, *done]) == expected
        return self

    # The words

    def request(self, name: str, *how: str) -> None:
        self.tickets[name] = Ticket(self, name, fails="failing" in how)
        self.lease.acquire(self.tickets[name])  # type: ignore[arg-type]

    def turn(self) -> None:
        self.reactor.turn(0)

    def ends(self, name: str) -> None:
        ticket = self.tickets[name]
        self.lease.release(ticket, ticket.grant)  # type: ignore[arg-type]

    def loses(self, name: str) -> None:
        """Its worker is lost before the response began."""
        self.lease.retry(self.tickets[name], self.tickets[name].grant)  # type: ignore[arg-type]

    def moment(self) -> None:
        """The time for which a grant is suspected is over."""
        self.lease._suspicion_over.ring()


@pytest.fixture
def play() -> Iterator[Play]:
    with running() as reactor:
        yield Play(reactor)


@contextmanager
def running() -> Iterator[Reactor]:
    reactor = Reactor()
    yield reactor
    reactor.close_all()
    reactor.shut()


def granted(places: int | None = None) -> LeaseGranted:
    return LeaseGranted(1, WORKER, 1, places, 1)


def revoked(reason: RevocationReason = RevocationReason.SWITCH) -> LeaseRevoked:
    return LeaseRevoked(1, reason, "another waits", 30.0)


def test_requests_wait_for_the_grant_and_go_at_the_end_of_its_turn_in_their_order(play):
    play << "not asked"
    play >> "request r1" >> "request r2" << "asked, ask muxd"
    play >> granted() << "granted"
    play >> "request r3" << "granted"  # behind those that wait
    play >> "turn" << "granted, forward r1, forward r2, forward r3"
    play >> "request r4" << "granted, forward r4"


def test_more_than_queue_limit_are_refused(play):
    play >> "request r1" >> "request r2" >> "request r3" >> "request r4" << "asked, ask muxd, refuse r4: queue_full"


def test_who_is_about_to_be_admitted_takes_no_place_in_the_queue(play):
    play >> "request r1" >> "request r2" >> "request r3" << "asked, ask muxd"
    play >> granted(2) >> "request r4" >> "request r5" >> "request r6" << "granted, refuse r6: queue_full"
    play >> "turn" << "granted, forward r1, forward r2"


def test_a_place_that_is_free_again_is_given_once_a_turn(play):
    play >> "request r1" >> "request r2" >> "request r3" >> granted(1) >> "turn" << "granted, ask muxd, forward r1"
    play >> "ends r1" << "granted"
    play >> "turn" << "granted, forward r2"
    play >> LeasePlaces(1, 2, 2) >> "turn" << "granted, forward r3"


def test_without_places_nothing_goes_and_of_fewer_what_is_there_ends_first(play):
    play >> "request r1" >> granted(0) >> "turn" << "granted, ask muxd"
    play >> LeasePlaces(1, 2, 2) >> "turn" >> "request r2" >> "request r3" << "granted, forward r1, forward r2"
    play >> LeasePlaces(1, 1, 3) >> "ends r1" >> "turn" << "granted"
    assert play.lease._demand_figures() == (2, 0, 1, 3)
    play >> "ends r2" >> "turn" << "granted, forward r3"


@pytest.mark.parametrize(("asked", "grace"), [(0, 0.02), (1, 0.0)])
def test_that_nothing_is_in_flight_any_more_is_told_at_once_where_requests_wait_for_another_model(play, asked, grace):
    play >> "request r1" >> granted() >> "turn" << "granted, ask muxd, forward r1"
    play.lease._leases.asked = asked
    before = monotonic()
    play >> "ends r1" << "granted"
    assert before + grace <= play.lease._idle.deadline <= monotonic() + grace


def test_one_that_fails_at_once_gives_its_place_to_the_next_in_the_same_turn(play):
    play >> "request r1 failing" >> "request r2 failing" >> "request r3" << "asked, ask muxd"
    play >> granted(1) >> "turn" << "granted, forward r1, forward r2, forward r3"


def test_a_worker_that_may_be_lost_gets_nothing_until_a_moment_is_over(play):
    play >> "request r1" >> granted() >> "turn" << "granted, ask muxd, forward r1"
    play >> "loses r1" >> "turn" << "suspected"
    play >> "moment" >> "turn" << "granted, forward r1"


def test_of_several_that_wait_for_a_worker_that_may_be_lost_one_goes_first_until_it_is_not_refused(play):
    """A router without a worker is asked by one of them after each pause, not by all."""
    play >> "request r1" >> granted() >> "turn" >> "loses r1" >> "request r2" << "suspected, ask muxd, forward r1"
    play >> "moment" >> "turn" << "suspected, forward r1"
    assert play.lease.figures() == (1, 1)
    play >> "loses r1" >> "request r3" >> "turn" << "suspected"
    play >> "moment" >> "turn" << "suspected, forward r2"
    play >> "moment" >> "turn" << "granted, forward r1, forward r3"
    play >> "loses r3" >> "loses r1" >> "moment" << "suspected, forward r3"
    play >> "loses r2" << "suspected"  # another one's loss is no word on it
    play >> "moment" >> "turn" << "granted, forward r1, forward r2"


async def test_one_that_was_tried_when_the_grant_was_revoked_says_nothing_of_the_next(play):
    play >> "request r1" >> granted() >> "turn" >> "loses r1" >> "request r2" << "suspected, ask muxd, forward r1"
    play >> "moment" >> revoked(RevocationReason.WORKER_EXITED) << "draining, forward r1, drain"
    play >> "loses r1" << "draining"
    play >> LeaseRestored(1) >> "turn" << "granted, forward r2, forward r1"
    play >> "loses r2" >> "request r3" >> "moment" << "suspected, forward r2"


async def test_a_suspected_grant_may_be_revoked(play):
    play >> "request r1" >> granted() >> "turn" >> "loses r1" << "suspected, ask muxd, forward r1"
    play >> revoked(RevocationReason.WORKER_EXITED) << "asked, close, let go"
    play >> "moment" >> "turn" << "asked"


async def test_a_revoked_lease_is_let_go_at_once_or_in_the_turn_in_which_its_last_request_ends(play):
    play >> "request r1" >> "request r2" >> granted() >> "turn" << "granted, ask muxd, forward r1, forward r2"
    play >> revoked() >> "ends r1" >> "turn" << "draining, drain"
    play >> "request r3" >> "ends r2" << "draining"
    play >> "turn" << "asked, close, let go"
    play >> granted() >> "turn" << "granted, forward r3"
    play >> "ends r3" >> revoked() << "asked, close, let go"


async def test_a_lease_that_is_restored_in_the_turn_in_which_its_last_request_ends_is_kept(play):
    play >> "request r1" >> granted() >> "turn" >> revoked() << "draining, ask muxd, forward r1, drain"
    play >> "ends r1" >> LeaseRestored(1) >> "turn" << "granted"


async def test_a_revoked_lease_admits_nothing_and_a_restored_one_those_who_waited(play):
    play >> "request r1" >> granted() >> "turn" << "granted, ask muxd, forward r1"
    play >> revoked() >> "request r2" >> "turn" << "draining, drain"
    play >> LeaseRestored(1) >> "turn" << "granted, forward r2"
    play >> revoked() >> revoked() << "draining, drain"


def test_what_was_granted_is_not_granted_twice(play):
    play >> "request r1" >> granted() >> "turn" << "granted, ask muxd, forward r1"
    grant = play.lease.grant
    play >> granted(3) << "granted"
    assert play.lease.grant is grant
    assert play.lease._limit == 3


def test_a_lease_that_muxd_ends_is_asked_for_again_only_where_requests_wait(play):
    play >> "request r1" >> granted() >> "turn" << "granted, ask muxd, forward r1"
    play.lease._end_lease()
    play << "asked, close, cut r1: lease_over"


def test_a_move_that_is_not_listed_ends_the_proxy(play):
    with pytest.raises(AssertionError, match="lease on a: not asked -> draining is no move"):
        play.lease._move(LeaseState.DRAINING)


class Gone:
    """A session that cannot be opened."""

    def lease(self, *_: Any) -> Any:
        raise Unreachable("muxd is gone")


async def test_where_muxd_cannot_be_reached_those_who_wait_are_refused_and_nothing_is_asked_any_more(autojump_clock):
    with running() as reactor:
        play = Play(reactor)
        play.lease._leases.lost_at = lambda: -1e9
        play >> "request r1" << "asked, ask muxd"
        with trio.fail_after(20):
            await play.lease.hold(Gone())  # type: ignore[arg-type]
        play << "not asked, refuse r1: muxd_unreachable"


@pytest.mark.parametrize("moves", [LEASE_MOVES, REQUEST_MOVES], ids=["lease", "request"])
def test_every_state_can_be_come_to_and_left(moves):
    first, *others = moves
    assert {state for after in moves.values() for state in after} >= set(others)
    assert first in moves
