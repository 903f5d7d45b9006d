"""The supervisor takes over what a killed one has left, on a pretend host: what is told, measured and kept."""

import shutil
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from math import inf
from pathlib import Path

import pytest
import trio
import trio.testing
from msgspec.structs import replace

from muxd.core.events import Verb
from muxd.core.spec import Learned
from muxd.core.worker import PORT_RETRY
from muxd.errors import HandoverRefused
from muxd.protocol import LeaseClaim, LeaseGranted, LeaseOver
from muxd.supervisor import adoption, learned
from muxd.supervisor.handover import Handover
from muxd.supervisor.loop import TICK

from .fakes import FakeHost, GiB, a_model, fake_host
from .one_supervisor import OneSupervisor, one_supervisor, two_models

Act = Callable[[OneSupervisor], Awaitable[object]]


@asynccontextmanager
async def killed_after(folder: Path, act: Act, **of_a: object) -> AsyncIterator[FakeHost]:
    """A host whose muxd was killed once it had done that, with two models that do not fit together."""
    async with fake_host(folder, a_model("a", **of_a), a_model("b")) as host:
        async with trio.open_nursery() as nursery:
            muxd = OneSupervisor(host)
            await nursery.start(muxd.supervisor.run)
            await act(muxd)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        host.context.held_memory.clear()
        host.state.load()
        yield host


@asynccontextmanager
async def next_muxd(host: FakeHost) -> AsyncIterator[OneSupervisor]:
    """The muxd that takes over every child that lives; its shutdown leaves nothing behind."""
    left = {child.name: child for child in host.children.all if not child.has_ended}
    async with trio.open_nursery() as nursery:
        muxd = OneSupervisor(host, left)
        await nursery.start(muxd.supervisor.run)
        yield muxd
        muxd.supervisor.shutdown(hurry=True)
        await muxd.supervisor.finished.wait()
        assert muxd.saved.workers == {}
        assert not muxd.left_behind()
        muxd.supervisor.close()
        nursery.cancel_scope.cancel()


async def both(muxd: OneSupervisor) -> None:
    """B is loaded and sleeps; a serves."""
    for name in ("b", "a"):
        await muxd.switch(name)


async def test_what_serves_and_what_sleeps_is_taken_over_with_all_that_was_measured(autojump_clock, tmp_path):
    known = ("pid", "url", "level", "max_model_len", "is_generation", "memory", "state")
    before: dict[str, list[object]] = {}

    async def look(muxd: OneSupervisor) -> None:
        await both(muxd)
        before.update({name: [muxd.status(name)[key] for key in known] for name in ("a", "b")})

    async with killed_after(tmp_path, look) as host, next_muxd(host) as muxd:
        await muxd.until("a", "ready")
        assert {name: [muxd.status(name)[key] for key in known] for name in ("a", "b")} == before
        assert (muxd.status("a")["memory"]["awake"], muxd.status("b")["memory"]["asleep"]) == (50 * GiB, 2 * GiB)
        assert len(host.children.all) == 2
        for name in ("b", "a"):
            assert (await muxd.switch(name))["type"] == "ready"
        assert len(host.children.all) == 2
        assert host.server("b").calls.count("release") == 2


async def test_what_starts_and_wakes_took_is_known_to_the_next_muxd(autojump_clock, tmp_path):
    seen: list[dict[str, Learned]] = []

    async def look(muxd: OneSupervisor) -> None:
        for name in ("b", "a", "b", "a"):
            await muxd.switch(name)
        await trio.sleep(3 * TICK)
        seen.append(muxd.supervisor._view.learned())

    async with killed_after(tmp_path, look) as host, next_muxd(host) as muxd:
        await muxd.until("a", "ready")
        for name, known in muxd.supervisor._view.learned().items():
            assert known.seconds == pytest.approx(seen[0][name].seconds, abs=0.001)
            assert known.kept == seen[0][name].kept
    assert all({state for state, _ in seen[0][name].seconds} >= {"starting", "waking"} for name in ("a", "b"))


async def test_a_ready_worker_counts_as_busy_until_its_proxies_had_the_time_to_come_back(autojump_clock, tmp_path):
    async with killed_after(tmp_path, both) as host, next_muxd(host) as muxd:
        began = trio.current_time()
        assert (await muxd.switch("b"))["type"] == "ready"
        assert trio.current_time() - began >= adoption.GRACE


async def test_a_proxy_goes_on_with_what_it_has_in_flight_and_is_waited_for(autojump_clock, tmp_path):
    async with killed_after(tmp_path, both) as host, next_muxd(host) as muxd:
        await muxd.until("a", "ready")
        session = muxd.service.open_session()
        url = muxd.status("a")["url"]
        session.take(LeaseClaim(1, "org/a", url, in_flight=3))
        session.take(LeaseClaim(2, "b", url))
        told = []
        while len(told) < 2:
            told += await session.messages()
        assert told == [LeaseGranted(1, url, 1), LeaseOver(2)]
        await trio.sleep(2 * adoption.GRACE)
        assert muxd.status("a")["in_flight"] == 3
        switch = muxd.service.switch("b")
        await muxd.until("a", "draining")
        session.close()
        assert [line async for line in switch][-1]["type"] == "ready"


@pytest.mark.parametrize("fault", ["hang", "break", (503, "")])
async def test_one_that_does_not_answer_is_ended_and_started_when_it_is_asked_for(autojump_clock, tmp_path, fault):
    async with killed_after(tmp_path, both) as host:
        host.servers["a"].faults["/ready"] = fault
        async with next_muxd(host) as muxd:
            await muxd.until("b", "asleep")
            assert muxd.states()["a"] == "unloaded"
            assert host.server("a").child.signals == ["kill"]
            host.servers["a"].faults.clear()
            assert await muxd.serves("a")
            assert len(host.children.all) == 3


async def test_one_at_whose_port_a_stranger_listens_gets_no_key_and_is_ended(autojump_clock, tmp_path):
    async with killed_after(tmp_path, both) as host:
        server = host.server("a")
        host.strangers[server.port] = None
        asked = len(server.asked)
        async with next_muxd(host) as muxd:
            assert muxd.states()["a"] == "unloaded"
            assert len(server.asked) == asked
            host.strangers.clear()


async def test_one_that_dies_later_is_started_again(autojump_clock, tmp_path):
    async with killed_after(tmp_path, both) as host, next_muxd(host) as muxd:
        await muxd.until("a", "ready")
        host.server("a").child.kill()
        await muxd.next_move("a", "ready")
        assert muxd.status("a")["restarts"] == 1


async def test_one_is_stopped_by_an_operator_as_any_other(autojump_clock, tmp_path):
    async with killed_after(tmp_path, both) as host, next_muxd(host) as muxd:
        assert (await muxd.order("b", Verb.STOP))["state"] == "stopped"
        assert host.server("b").child.has_ended


async def test_one_that_was_being_stopped_is_not_at_rest(autojump_clock, tmp_path):
    seen: list[bool] = []

    async def stop(muxd: OneSupervisor) -> None:
        await muxd.switch("a")
        muxd.host.servers["a"].stop_time = 5.0
        muxd.service.order("a", Verb.STOP)
        await muxd.until("a", "stopping")
        await trio.testing.wait_all_tasks_blocked()
        seen.append(muxd.saved.workers["a"].is_at_rest)

    async with killed_after(tmp_path, stop):
        assert seen == [False]


async def test_a_worker_is_at_rest_in_the_state_file_while_it_is(autojump_clock, tmp_path):
    seen: list[tuple[str, bool, int | None]] = []

    async def look(muxd: OneSupervisor) -> None:
        for name in ("b", "a", "b"):
            muxd.host.servers[name].faults.clear()
            await muxd.switch(name)
            await trio.testing.wait_all_tasks_blocked()
            seen.extend((key, each.is_at_rest, each.level) for key, each in sorted(muxd.saved.workers.items()))
        muxd.host.servers["b"].faults["release"] = "hang"
        muxd.service.switch("a")
        await muxd.until("b", "falling_asleep")
        await trio.sleep(1)
        seen.append(("b", muxd.saved.workers["b"].is_at_rest, None))

    async with killed_after(tmp_path, look) as host:
        for child in host.children.all:
            child.kill()
        assert seen == [
            ("b", True, None),
            ("a", True, None),
            ("b", True, 2),
            ("a", True, 2),
            ("b", True, None),
            ("b", False, None),
        ]


async def test_one_that_dies_again_and_again_does_not_begin_anew_with_its_delays(autojump_clock, tmp_path, monkeypatch):
    monkeypatch.setattr(learned, "monotonic", trio.current_time)
    seen: list[float] = []

    async def die(muxd: OneSupervisor) -> None:
        muxd.host.servers["a"].dies_after = 0.2
        muxd.wants("a")
        for _ in range(4):
            await muxd.next_move("a", "backoff")
        seen.append(trio.current_time())

    async with killed_after(tmp_path, die) as host:
        host.servers["a"].dies_after = inf
        async with next_muxd(host) as muxd:
            await muxd.until("a", "backoff")
            holder = muxd.wants("a")
            await holder.told("granted")
            assert trio.current_time() - seen[0] > 4.0, "the fourth delay"
            assert muxd.status("a")["restarts"] == 4
            holder.close()


async def test_one_whose_port_was_taken_comes_under_the_next_muxd_once_it_is_free(
    autojump_clock, tmp_path, monkeypatch
):
    monkeypatch.setattr(learned, "monotonic", trio.current_time)

    async def be_refused(muxd: OneSupervisor) -> None:
        assert (await muxd.wants("a").told("failed")).error.code == "port_taken"

    other = socket.create_server(("127.0.0.1", 0))
    of_a = {"port": other.getsockname()[1], "cool_down": 3600.0}
    async with killed_after(tmp_path, be_refused, **of_a) as host, next_muxd(host) as muxd:
        await muxd.until("a", "failed")
        assert (await muxd.wants("a").told("failed")).retry_after_s <= PORT_RETRY
        other.close()
        await muxd.until("a", "ready")


# Handovers


class Trial:
    """A successor that would run, or not."""

    def __init__(self, why: str = "") -> None:
        self.why = why

    async def why_not(self, config) -> str:
        await trio.lowlevel.checkpoint()
        return self.why


def of_successor(muxd: OneSupervisor, why: str) -> Handover:
    handover = muxd.supervisor.handover
    handover._successor = Trial(why)  # type: ignore[assignment]
    return handover


@pytest.mark.parametrize(("why", "message"), [("no module", "would not start: no module; nothing was changed")])
async def test_a_muxd_that_would_not_start_is_not_gone_to(autojump_clock, tmp_path, why, message):
    async with two_models(tmp_path) as muxd:
        handover = of_successor(muxd, why)
        with pytest.raises(HandoverRefused, match=message):
            await handover.prepare(upgrade=True, now=False)
        assert await muxd.serves("a")


async def test_a_successor_is_tried_again_when_muxd_has_waited_for_rest(autojump_clock, tmp_path):
    async with two_models(tmp_path) as muxd:
        muxd.host.servers["a"].load_time = 50.0
        handover = of_successor(muxd, "")
        holder = muxd.wants("a")
        await muxd.until("a", "starting")
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def ordered():
                with pytest.raises(HandoverRefused, match="would not start: no module; nothing was changed"):
                    await handover.prepare(upgrade=True, now=False)

            await trio.sleep(10)
            of_successor(muxd, "no module")
        await holder.told("granted")
        holder.close()
        assert await muxd.serves("b"), "others come again"


async def test_one_that_was_not_started_by_its_command_line_is_not_upgraded(autojump_clock, tmp_path):
    async with two_models(tmp_path) as muxd:
        with pytest.raises(HandoverRefused, match="only a muxd that was started by"):
            await muxd.service.prepare_handover(upgrade=True, now=False)


async def test_what_never_comes_to_rest_ends_the_handover_and_muxd_goes_on(autojump_clock, tmp_path, monkeypatch):
    monkeypatch.setattr("muxd.supervisor.handover.PATIENCE", 60.0)
    async with two_models(tmp_path, start_timeout=300.0) as muxd:
        muxd.host.servers["a"].load_time = 200.0
        holder = muxd.wants("a")
        await muxd.until("a", "starting")
        with pytest.raises(HandoverRefused, match="after 60 s a is starting; nothing was changed"):
            await muxd.service.prepare_handover(upgrade=False, now=False)
        await holder.told("granted")
        holder.close()
        assert await muxd.serves("b"), "others come again"


async def test_who_gives_the_order_and_goes_takes_it_back(autojump_clock, tmp_path):
    async with two_models(tmp_path) as muxd:
        muxd.host.servers["a"].load_time = 50.0
        holder = muxd.wants("a")
        await muxd.until("a", "starting")
        with trio.move_on_after(1.0):
            await muxd.service.prepare_handover(upgrade=False, now=False)
        await holder.told("granted")
        holder.close()
        assert await muxd.serves("b")


async def test_a_stop_while_the_successor_is_tried_is_a_stop(autojump_clock, tmp_path):
    class Stops(Trial):
        async def why_not(self, config) -> str:
            muxd.supervisor.shutdown()
            return await super().why_not(config)

    async with two_models(tmp_path) as muxd:
        await muxd.switch("a")
        handover = of_successor(muxd, "")
        handover._successor = Stops()  # type: ignore[assignment]
        with pytest.raises(HandoverRefused, match="muxd was told to stop meanwhile"):
            await handover.prepare(upgrade=True, now=True)


async def test_a_stop_between_a_handover_s_answer_and_its_end_is_a_stop(autojump_clock, tmp_path):
    async with two_models(tmp_path) as muxd:
        await muxd.switch("a")
        handover = of_successor(muxd, "")
        await handover.prepare(upgrade=True, now=True)
        muxd.supervisor.shutdown()
        handover.leave()
        await muxd.supervisor.finished.wait()
        assert (handover.has_left, handover.is_upgrade) == (False, False)
        assert muxd.states()["a"] == "unloaded"


async def test_beside_what_cannot_be_killed_no_next_muxd_would_start(autojump_clock, tmp_path):
    async with one_supervisor(tmp_path, a_model("a"), stuck=True) as muxd:
        muxd.host.servers["a"].kill_time = muxd.host.servers["a"].stop_time = inf
        await muxd.switch("a")
        muxd.service.order("a", Verb.STOP, now=True)
        await muxd.until("a", "stuck")
        with pytest.raises(HandoverRefused, match="a cannot be killed"):
            await muxd.service.prepare_handover(upgrade=False, now=True)
        muxd.host.servers["a"].kill_time = 0.0
        muxd.host.server("a").child.kill()


@asynccontextmanager
async def left_by_handover(folder: Path, act: Act, **of_a: object) -> AsyncIterator[OneSupervisor]:
    """The next muxd of one that handed over once it had done that."""
    async with killed_after(folder, handed_over_after(act), **of_a) as host, next_muxd(host) as muxd:
        yield muxd


def handed_over_after(act: Act) -> Act:
    """Muxd leaves everything to the next one once it has done that."""

    async def hand_over(muxd: OneSupervisor) -> None:
        await act(muxd)
        await muxd.service.prepare_handover(upgrade=False, now=False)
        muxd.service.leave()
        assert muxd.supervisor.finished.is_set()

    return hand_over


def busy_when(verb: Verb, name: str = "a", **terms: int) -> Act:
    """An operator orders that of a model that answers a request."""

    async def act(muxd: OneSupervisor) -> None:
        await both(muxd)
        holder = muxd.wants("a")
        await holder.told("granted")
        holder.reports(1)
        muxd.service.order(name, verb, by="root", **terms)
        await muxd.until("a", "draining")

    return act


@pytest.mark.parametrize(
    ("verb", "terms", "then"),
    [(Verb.SLEEP, {"level": 2}, "asleep"), (Verb.STOP, {}, "stopped"), (Verb.RESTART, {}, "ready")],
)
async def test_an_order_whose_drain_had_begun_is_carried_out_by_the_next_muxd(
    autojump_clock, tmp_path, verb, terms, then
):
    async with left_by_handover(tmp_path, busy_when(verb, **terms)) as muxd:
        await muxd.until("a", "draining")
        session = muxd.service.open_session()
        session.take(LeaseClaim(1, "a", f"http://127.0.0.1:{muxd.saved.workers['a'].port}", in_flight=1))
        await trio.sleep(5 * adoption.GRACE)
        assert muxd.status("a")["state"] == "draining", "what it has in flight is waited for"
        session.close()
        await muxd.next_move("a", "asleep", "unloaded")
        await muxd.until("a", then)
        assert muxd.saved.orders == []


async def test_a_restart_whose_processes_have_ended_is_a_start_for_the_next_muxd(autojump_clock, tmp_path):
    async def act(muxd: OneSupervisor) -> None:
        await both(muxd)
        muxd.host.servers["a"].load_time = 30.0
        muxd.service.order("a", Verb.RESTART)
        await muxd.until("a", "starting")

    async with left_by_handover(tmp_path, act) as muxd:
        await muxd.until("a", "ready")
        await trio.sleep(60.0)
        assert len(muxd.host.children.all) == 3, "it is not started a third time"


async def test_what_was_given_again_is_left_to_no_muxd_that_follows_a_crash(autojump_clock, tmp_path):
    async with left_by_handover(tmp_path, busy_when(Verb.SLEEP)) as muxd:
        assert muxd.saved.orders == []


async def test_a_stop_whose_drain_had_begun_goes_on_after_a_crash(autojump_clock, tmp_path):
    async with killed_after(tmp_path, busy_when(Verb.STOP)) as host, next_muxd(host) as muxd:
        await muxd.next_move("a", "unloaded")
        assert muxd.status("a")["state"] == "stopped"
        assert host.server("a").child.signals == ["stop"]


async def test_a_switch_that_waited_is_made_by_the_next_muxd_for_the_same_operator(autojump_clock, tmp_path):
    async def act(muxd: OneSupervisor) -> None:
        await both(muxd)
        holder = muxd.wants("a")
        await holder.told("granted")
        holder.reports(1)
        muxd.service.switch("b", by="root")
        await muxd.until("a", "draining")

    async with left_by_handover(tmp_path, act) as muxd:
        assert (await muxd.switch("b"))["type"] == "ready"
        asked = [event async for event in muxd.service.events(0, follow=False) if event["type"] == "operator"]
        assert [(event["order"], event["by"]) for event in asked] == [("switch", "root"), ("switch", None)]


async def test_what_was_ordered_before_a_reboot_is_not_given_again(autojump_clock, tmp_path):
    async with killed_after(tmp_path, handed_over_after(busy_when(Verb.RESTART))) as host:
        for child in host.children.all:
            child.kill()
        shutil.rmtree(tmp_path / "state" / "workers")
        host.state.state.workers.clear()
        host.state.boot_id = "another"
        async with next_muxd(host) as muxd:
            await trio.sleep(60.0)
            assert muxd.status("a")["state"] == "unloaded"
            assert muxd.saved.orders == []


@pytest.mark.parametrize(
    ("verb", "passed", "then"),
    [
        (Verb.RESTART, 601.0, None),
        (Verb.RESTART, 599.0, "ready"),
        (Verb.STOP, 3600.0, "stopped"),
    ],
)
async def test_an_order_is_dropped_where_no_muxd_was_there_for_longer_than_a_request_may_wait(
    autojump_clock, tmp_path, verb, passed, then
):
    async with killed_after(tmp_path, handed_over_after(busy_when(verb))) as host:
        (order,) = host.state.state.orders
        assert order.left is not None
        host.state.state.orders = [replace(order, left=order.left - passed)]
        async with next_muxd(host) as muxd:
            if then is not None:
                await muxd.next_move("a", "unloaded")
                await muxd.until("a", then)
            await trio.sleep(60.0)
            assert muxd.status("a")["state"] == (then or "ready")
            dropped = [each async for each in muxd.service.events(0, follow=False) if each["type"] == "order_dropped"]
            assert [(each["model"], each["order"], each["by"]) for each in dropped] == (
                [] if then else [("a", "restart", "root")]
            )
            assert len(host.children.all) == (3 if then == "ready" else 2)
            assert muxd.saved.orders == []


async def test_what_has_begun_is_not_waited_for_where_that_is_said(autojump_clock, tmp_path):
    async with two_models(tmp_path) as muxd:
        muxd.host.servers["a"].load_time = 50.0
        holder = muxd.wants("a")
        await muxd.until("a", "starting")
        began = trio.current_time()
        await muxd.service.prepare_handover(upgrade=False, now=True)
        assert trio.current_time() == began
        holder.close()
