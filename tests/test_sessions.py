"""The proxies' sessions: what the core is told of their leases, and what each proxy is told."""

from functools import partial
from itertools import count
from math import inf

import pytest
import trio

from muxd.core.commands import AnswerUnload, EndLease, FailLease, GrantLease, RestoreLease, RevokeLease
from muxd.core.events import (
    DemandReported,
    Event,
    KeepAsked,
    LeaseAsked,
    LeaseEnded,
    LeaseReclaimed,
    UnloadAsked,
    Waiting,
)
from muxd.core.places import NOTICED, ROUND
from muxd.core.progress import Progress
from muxd.errors import BadRequest, ModelNotFound
from muxd.history import History
from muxd.protocol import (
    DemandReport,
    KeepWish,
    LeaseClaim,
    LeaseComing,
    LeaseDemand,
    LeaseFailed,
    LeaseGranted,
    LeaseOver,
    LeasePlaces,
    LeaseQueued,
    LeaseRelease,
    LeaseRestored,
    LeaseRevoked,
    LeaseWish,
    MuxdMessage,
    RevocationReason,
    ToldError,
    UnloadAnswer,
    UnloadWish,
    WaitingRequests,
)
from muxd.supervisor import sessions as sessions_module
from muxd.supervisor.progress_pace import REPEAT
from muxd.supervisor.sessions import ProxySession, ProxySessions

#: One request waits.
ONE = (Waiting(),)


class Desk:
    """Sessions whose events are kept; `>>` says what a proxy says, `tells` what the core commands."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.sessions = ProxySessions(
            self.events.append, self.events.append, self.resolve, partial(next, count(100)), History(), self.limit_of
        )
        self.limits: dict[str, int] = {}

    def limit_of(self, model: str) -> int:
        return self.limits.get(model, 0)

    def resolve(self, name: str) -> str:
        if name not in ("a", "org/a", "b"):
            raise ModelNotFound(f"no model {name}")
        return name.removeprefix("org/")

    def heard(self) -> list[Event]:
        heard, self.events[:] = list(self.events), []
        return heard

    def progress(self, progress: Progress, now: float, lease: int | None = None) -> None:
        for waiting in self.sessions.waiting(lease):
            waiting.tell_progress(progress, now)


@pytest.fixture
def desk() -> Desk:
    return Desk()


async def told(session: ProxySession) -> list[MuxdMessage]:
    """What waits to be sent; nothing where nothing does."""
    with trio.move_on_after(1):
        return await session.messages()
    return []


async def test_how_long_ago_a_client_said_how_long_a_model_is_to_be_kept_is_told_to_the_core(autojump_clock, desk):
    session, now = desk.sessions.open(), trio.current_time()
    session.take(KeepWish("a", 60.0, age=3.0))
    session.take(KeepWish("b"))
    assert desk.heard() == [KeepAsked(now, "a", 60.0, now - 3.0), KeepAsked(now, "b", inf, now)]


async def test_of_a_line_of_reports_the_last_that_concerns_the_core_has_it_decide(autojump_clock, desk):
    session = desk.sessions.open()
    session.take(LeaseWish(1, "a"))
    session.take(LeaseWish(2, "b"))
    desk.heard()
    session.take(DemandReport((LeaseDemand(1, 2), LeaseDemand(2, 3), LeaseDemand(9, 7))))
    assert [(said.lease, said.in_flight, said.more) for said in desk.heard()] == [(100, 2, True), (101, 3, False)]


async def test_a_lease_from_its_wish_to_its_end(autojump_clock, desk):
    session, now = desk.sessions.open(), trio.current_time()
    session.take(LeaseWish(1, "org/a", (WaitingRequests("k", 2, 3, 1.5, True),)))
    assert desk.heard() == [LeaseAsked(now, 100, "a", (Waiting(3, 1.5, "k", 2, True),))]
    desk.sessions.tell_holder(GrantLease(100, "http://a", 4))
    assert await told(session) == [LeaseGranted(1, "http://a", 4)]
    session.take(DemandReport((LeaseDemand(1, 2, batch=1, oldest_s=7.5, usual_s=2.5), LeaseDemand(9, 7))))
    assert desk.heard() == [DemandReported(now, 100, 2, (), 1, 7.5, 2.5)], "of number 9 nobody knows"
    desk.sessions.tell_holder(RevokeLease(100, "switch", "b waits", now + 30))
    desk.sessions.tell_holder(RestoreLease(100))
    assert await told(session) == [LeaseRevoked(1, RevocationReason.SWITCH, "b waits", 30.0), LeaseRestored(1)]
    session.take(LeaseRelease(1))
    session.take(LeaseRelease(1))
    assert desk.heard() == [LeaseEnded(now, 100)]
    desk.sessions.tell_holder(GrantLease(100, "http://a", 5))
    assert await told(session) == [], "its holder has let go"


async def test_all_that_was_said_meanwhile_goes_in_one_piece_and_of_progress_the_last(autojump_clock, desk):
    session = desk.sessions.open()
    for number, model in ((1, "a"), (2, "b")):
        session.take(LeaseWish(number, model))
    desk.progress(Progress("queued", position=2, eta=9.0), 0.0)
    desk.progress(Progress("draining", ("a",)), 0.1, lease=101)
    desk.sessions.tell_holder(GrantLease(100, "http://a", 1))
    assert await told(session) == [LeaseGranted(1, "http://a", 1), LeaseComing(2, "draining", ("a",))]


async def test_who_waits_is_told_when_it_changes_and_again_after_a_while_but_not_once_granted(autojump_clock, desk):
    session = desk.sessions.open()
    session.take(LeaseWish(1, "a"))
    queued, said = Progress("queued", position=1), []
    for now in (0.0, 0.1, REPEAT, REPEAT + 0.1):
        desk.progress(queued, now)
        said.append(await told(session))
    assert said == [[LeaseQueued(1, 1)], [], [LeaseQueued(1, 1)], []]
    desk.sessions.tell_holder(GrantLease(100, "http://a", 1))
    assert desk.sessions.waiting() == []


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (EndLease(100), LeaseOver(1)),
        (FailLease(100, "model_failed", "it died", 3.0), LeaseFailed(1, ToldError("model_failed", "it died", True), 3)),
    ],
)
async def test_a_lease_that_the_core_ends_is_over_on_both_sides(autojump_clock, desk, command, message):
    session = desk.sessions.open()
    session.take(LeaseWish(1, "a"))
    desk.heard()
    desk.sessions.tell_holder(command)
    assert await told(session) == [message]
    session.take(DemandReport((LeaseDemand(1, 1),)))
    session.take(LeaseRelease(1))
    session.close()
    assert desk.heard() == []


async def test_the_end_of_a_session_ends_its_leases_and_no_others(autojump_clock, desk):
    gone, stays = desk.sessions.open(), desk.sessions.open()
    for session in (gone, stays):
        session.take(LeaseWish(1, "a"))
        session.take(LeaseWish(2, "b"))
    desk.heard()
    gone.close()
    assert [event.lease for event in desk.heard()] == [100, 101]
    desk.sessions.tell_holder(GrantLease(102, "http://a", 1))
    assert await told(stays) == [LeaseGranted(1, "http://a", 1)]
    assert await told(gone) == []


async def test_a_lease_of_an_earlier_muxd_is_claimed_and_its_holder_is_told_no_progress(autojump_clock, desk):
    session, now = desk.sessions.open(), trio.current_time()
    session.take(LeaseClaim(1, "org/a", "http://a", 3, (WaitingRequests(),)))
    assert desk.heard() == [LeaseReclaimed(now, 100, "a", "http://a", 3, ONE)]
    assert desk.sessions.waiting() == []
    desk.sessions.tell_holder(GrantLease(100, "http://a", 1))
    session.take(LeaseClaim(2, "b", "http://b"))
    desk.sessions.tell_holder(EndLease(101))
    assert await told(session) == [LeaseGranted(1, "http://a", 1), LeaseOver(2)]
    session.take(LeaseClaim(3, "nope", "http://c"))
    assert [type(message) for message in await told(session)] == [LeaseFailed]


async def test_a_model_that_is_not_there_fails_its_lease_alone(autojump_clock, desk):
    session = desk.sessions.open()
    session.take(LeaseWish(1, "nope"))
    assert await told(session) == [LeaseFailed(1, ToldError("model_not_found", "no model nope"))]
    session.take(LeaseWish(2, "a"))
    assert [event.lease for event in desk.heard()] == [100]


@pytest.mark.parametrize("number", [3, 2])
async def test_a_number_is_used_once(autojump_clock, desk, number):
    session = desk.sessions.open()
    session.take(LeaseWish(3, "a"))
    session.take(LeaseRelease(3))
    with pytest.raises(BadRequest, match="only grow"):
        session.take(LeaseWish(number, "b"))


async def test_one_session_has_no_end_of_leases(autojump_clock, desk, monkeypatch):
    monkeypatch.setattr(sessions_module, "MOST_LEASES", 2)
    session = desk.sessions.open()
    for number in (1, 2):
        session.take(LeaseWish(number, "a"))
    with pytest.raises(BadRequest, match="at most 2 leases"):
        session.take(LeaseWish(3, "a"))
    session.take(LeaseRelease(1))
    session.take(LeaseWish(4, "a"))


async def test_an_unload_is_answered_to_who_asked(autojump_clock, desk):
    one, other = desk.sessions.open(), desk.sessions.open()
    one.take(UnloadWish("org/a"))
    other.take(UnloadWish("b"))
    other.take(UnloadWish("nope"))
    assert desk.heard() == [UnloadAsked(trio.current_time(), 100, "a"), UnloadAsked(trio.current_time(), 101, "b")]
    desk.sessions.answer_unload(AnswerUnload(101, "it is in use"))
    desk.sessions.answer_unload(AnswerUnload(100))
    assert await told(one) == [UnloadAnswer("org/a")]
    assert await told(other) == [UnloadAnswer("nope", "no model nope"), UnloadAnswer("b", "it is in use")]


async def test_an_unload_whose_proxy_is_gone_is_answered_to_nobody(autojump_clock, desk):
    session = desk.sessions.open()
    session.take(UnloadWish("a"))
    session.close()
    desk.sessions.answer_unload(AnswerUnload(100))
    assert await told(session) == []


async def test_the_end_of_muxd_ends_a_session_behind_what_was_said(autojump_clock, desk):
    session = desk.sessions.open()
    session.take(LeaseWish(1, "a"))
    desk.sessions.tell_holder(EndLease(100))
    desk.sessions.close()
    assert await session.messages() == [LeaseOver(1)]
    assert await session.messages() == []


async def test_the_places_of_a_limited_model_are_dealt_to_all_who_hold_a_lease(autojump_clock, desk):
    desk.limits["a"] = 4
    first, second = desk.sessions.open(), desk.sessions.open()
    first.take(LeaseWish(1, "a", (WaitingRequests(count=6),)))
    desk.sessions.tell_holder(GrantLease(100, "http://a", 1))
    assert await told(first) == [LeaseGranted(1, "http://a", 1, 4, 1)]
    second.take(LeaseWish(7, "a", (WaitingRequests(count=6),)))
    desk.sessions.tell_holder(GrantLease(101, "http://a", 1))
    assert await told(second) == [LeaseGranted(7, "http://a", 1, 0, 0)], "the first may use all of them still"
    assert await told(first) == [LeasePlaces(1, 2, 2)]
    first.take(DemandReport((LeaseDemand(1, 6, places=4, deal=1),)))
    assert await told(second) == [], "it had not heard yet"
    first.take(DemandReport((LeaseDemand(1, 6, places=3, deal=2),)))
    assert await told(second) == [LeasePlaces(7, 1, 1)]
    first.take(DemandReport((LeaseDemand(1, 6, places=2, deal=2),)))
    assert await told(second) == [LeasePlaces(7, 2, 2)]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(desk.sessions.places.go_round)
        first.close()
        await trio.sleep(NOTICED + ROUND)
        assert await told(second) == [LeasePlaces(7, 4, 3)]
        nursery.cancel_scope.cancel()


async def test_a_reload_that_lifts_or_sets_a_limit_is_told_to_whoever_holds_a_lease(autojump_clock, desk):
    desk.limits["a"] = 2
    session = desk.sessions.open()
    session.take(LeaseWish(1, "a"))
    desk.sessions.tell_holder(GrantLease(100, "http://a", 1))
    await told(session)
    desk.limits["a"] = 0
    desk.sessions.places.renew()
    assert await told(session) == [LeasePlaces(1, None, 1)]
    desk.limits["a"] = 3
    desk.sessions.places.renew()
    assert await told(session) == [LeasePlaces(1, 3, 2)]


async def test_who_re_claims_keeps_its_places_and_nobody_else_has_any_until_all_had_the_time_to(autojump_clock, desk):
    desk.limits["a"] = 2
    desk.sessions.places.close("a", 3.0)
    new, old = desk.sessions.open(), desk.sessions.open()
    new.take(LeaseWish(1, "a"))
    desk.sessions.tell_holder(GrantLease(100, "http://a", 1))
    assert await told(new) == [LeaseGranted(1, "http://a", 1, 0, 0)]
    old.take(LeaseClaim(1, "a", "http://a", 1, (), 1))
    desk.sessions.tell_holder(GrantLease(101, "http://a", 1))
    assert await told(old) == [LeaseGranted(1, "http://a", 1, 1, 0)]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(desk.sessions.places.go_round)
        await trio.sleep(1)
        assert await told(new) == []
        await trio.sleep(1)
        assert await told(new) == [LeasePlaces(1, 1, 1)]
        nursery.cancel_scope.cancel()
