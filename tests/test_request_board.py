"""Requests of all proxies as operators ask for them, through the service of a supervisor on a pretend host."""

import pytest
import trio

from muxd.errors import BadRequest, RequestNotFound
from muxd.history.journal import ALL, EntryFilter
from muxd.history.series import SeriesQuery
from muxd.protocol import (
    ActivityReport,
    CancelWish,
    KeyUsage,
    ModelActivity,
    RequestsCancelled,
    RequestsTold,
    RequestsWanted,
    ToldRequest,
)

from .one_supervisor import OneSupervisor, two_models

ANY = frozenset[str]()


def a_request(id: str, state: str = "running", **more) -> ToldRequest:
    return ToldRequest(id, state, more.pop("model", "a"), more.pop("since", 1000.0), **more)


async def proxy_with(muxd: OneSupervisor, *requests: ToldRequest, left_out: int = 0) -> None:
    """Be a proxy that has these requests, until cancelled."""
    session = muxd.service.open_session()
    while True:
        for message in await session.messages():
            if isinstance(message, RequestsWanted):
                session.take(RequestsTold(message.number, requests, left_out))
            if isinstance(message, CancelWish):
                session.take(RequestsCancelled(message.number, sum(r.id == message.id for r in requests)))


@pytest.fixture
async def muxd(autojump_clock, tmp_path):
    async with two_models(tmp_path) as muxd, trio.open_nursery() as nursery:
        muxd.nursery = nursery
        yield muxd
        nursery.cancel_scope.cancel()


async def ids(muxd: OneSupervisor, states: frozenset[str] = ANY, **wanted) -> list[str]:
    found = await muxd.service.requests(states, EntryFilter(**wanted))
    return [request["id"] for request in found["requests"]]


async def test_those_of_all_proxies_are_one_list_running_ones_first_and_the_oldest_first(autojump_clock, muxd):
    muxd.nursery.start_soon(proxy_with, muxd, a_request("w", "waiting", since=1.0), a_request("r2", since=3.0))
    muxd.nursery.start_soon(proxy_with, muxd, a_request("r1", since=2.0, model="b", key="k"))
    await trio.testing.wait_all_tasks_blocked()
    assert await ids(muxd) == ["r1", "r2", "w"]
    assert await ids(muxd, frozenset({"waiting"})) == ["w"]
    assert await ids(muxd, model="b") == await ids(muxd, key="k") == ["r1"]


async def test_a_proxy_that_does_not_answer_is_left_out_after_a_second_and_one_that_goes_at_once(autojump_clock, muxd):
    silent = muxd.service.open_session()
    muxd.nursery.start_soon(proxy_with, muxd, a_request("r"))
    await trio.testing.wait_all_tasks_blocked()
    began = trio.current_time()
    assert await ids(muxd) == ["r"]
    assert trio.current_time() - began == 1.0
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ids, muxd)
        await trio.testing.wait_all_tasks_blocked()
        silent.close()
    assert trio.current_time() - began == 1.0


async def test_those_that_ended_are_kept_with_their_rate_and_can_be_followed(autojump_clock, muxd):
    session = muxd.service.open_session()
    done = a_request("e1", "ended", first_token_s=0.5, duration_s=2.5, completion_tokens=100, status=200, end="ok")
    session.take(ActivityReport(ended=(done,), left_out=4))
    found = await muxd.service.requests(frozenset({"ended"}), ALL)
    (request,) = found["requests"]
    assert (request["id"], request["tokens_per_s"], request["status"], request["entry"]) == ("e1", 50.0, 200, 1)
    follower = muxd.service.ended_requests(0, EntryFilter(model="b"))
    session.take(ActivityReport(ended=(a_request("e2", "ended"), a_request("e3", "ended", model="b"))))
    assert (await follower.receive())["request"] == "e3"
    with pytest.raises(BadRequest, match="there is no entry 9 yet, the newest is 4; begin anew with after=0"):
        muxd.service.ended_requests(9, ALL)
    session.close()


async def test_a_cancellation_reaches_every_proxy_and_is_told_with_who_ordered_it(autojump_clock, muxd):
    muxd.nursery.start_soon(proxy_with, muxd, a_request("x"))
    muxd.nursery.start_soon(proxy_with, muxd, a_request("x"), a_request("y"))
    await trio.testing.wait_all_tasks_blocked()
    assert await muxd.service.cancel_request("x", "alice") == {"cancelled": 2, "id": "x"}
    event = [event async for event in muxd.service.events(0, follow=False)][-1]
    assert (event["type"], event["order"], event["request"], event["by"]) == ("operator", "cancel", "x", "alice")
    with pytest.raises(RequestNotFound, match="no request z waits or runs"):
        await muxd.service.cancel_request("z", "alice")


async def test_without_a_proxy_there_is_nothing_and_nobody_waits(autojump_clock, muxd):
    began = trio.current_time()
    assert await ids(muxd) == []
    assert trio.current_time() == began


async def test_what_proxies_report_is_in_the_series_and_in_the_usage_of_each_key(autojump_clock, muxd):
    session = muxd.service.open_session()
    given = ModelActivity("a", tokens=120, first_tokens_s=(0.25,))
    session.take(ActivityReport((given,), (KeyUsage("alice", "a", 1, 0, 10, 0, 120),), seconds=1.0))
    told = muxd.service.series(SeriesQuery())["models"]["a"]
    assert round(sum(rate or 0 for rate in told["tokens_per_s"])) == 120
    assert [value for value in told["first_token_p50_s"] if value is not None] == [0.25]
    (usage,) = muxd.service.usage(1, None, None)["usage"]
    assert (usage["key"], usage["completion_tokens"]) == ("alice", 120)
    with pytest.raises(BadRequest, match=r"steps of 1 s are kept since .* or ask with step=10"):
        muxd.service.series(SeriesQuery(begin=1.0))
    session.close()


async def test_every_second_it_is_noted_what_runs_and_waits_and_what_gpu_memory_each_model_has(autojump_clock, muxd):
    holder = muxd.wants("a")
    await holder.told("granted")
    holder.reports(3)
    await trio.sleep(2.5)
    told = muxd.service.series(SeriesQuery())["models"]["a"]
    assert [value for value in told["in_flight"] if value is not None][-1] == 3
    assert max(value for value in told["gpu_bytes"] if value is not None) > 0
    holder.close()
