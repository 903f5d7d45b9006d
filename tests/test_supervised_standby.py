"""Models with `standby = true` on a pretend host: what a supervisor does with processes that wait at their gates."""

import trio
import trio.testing

from muxd.core.events import Verb

from .fakes import a_model, fake_host
from .one_supervisor import OneSupervisor
from .test_supervised_adoption import next_muxd

STANDBY = {"sleep_level": 3, "standby": True}


async def test_a_switch_starts_the_next_one_from_its_gate_and_the_last_one_waits_again(autojump_clock, tmp_path):
    async with (
        fake_host(tmp_path, a_model("a", **STANDBY), a_model("b", **STANDBY)) as host,
        next_muxd(host) as muxd,
    ):
        await trio.sleep(10)
        assert muxd.states() == {"a": "standby", "b": "standby"}
        assert muxd.status("a")["next"] == "starts from its gate at its next request"
        began = trio.current_time()
        await muxd.serves("a")
        assert trio.current_time() - began < 1.5
        await muxd.serves("b")
        await trio.sleep(10)
        assert muxd.states() == {"a": "standby", "b": "ready"}
        assert host.server("a").calls == []
        assert (await muxd.order("a", Verb.STOP))["state"] == "stopped"
        assert host.server("a").child.signals == ["kill"]


async def test_a_gate_that_does_not_answer_costs_its_timeout_and_the_model_is_started_without_one(
    autojump_clock, tmp_path
):
    async with fake_host(tmp_path, a_model("a", probe_timeout=5.0, **STANDBY)) as host, next_muxd(host) as muxd:
        await trio.sleep(10)
        host.servers["a"].faults["activate"] = "hang"
        began = trio.current_time()
        await muxd.serves("a")
        assert trio.current_time() - began < 8
        assert [bool(child.server.gate) for child in host.children.all] == [True, False]
        assert muxd.status("a")["restarts"] == 1


async def test_the_next_muxd_goes_on_with_what_waits_at_its_gate(autojump_clock, tmp_path):
    async with fake_host(tmp_path, a_model("a", **STANDBY), a_model("b")) as host:
        async with trio.open_nursery() as nursery:
            muxd = OneSupervisor(host)
            await nursery.start(muxd.supervisor.run)
            await muxd.serves("b")
            await trio.sleep(10)
            assert muxd.states()["a"] == "standby"
            nursery.cancel_scope.cancel()
        host.context.held_memory.clear()
        host.state.load()
        async with next_muxd(host) as muxd:
            await muxd.until("a", "standby")
            await trio.sleep(5)
            await muxd.serves("a")
            assert len(host.children.all) == 2
            assert host.server("a").calls == ["activate"]


async def test_one_that_does_not_answer_the_next_muxd_is_ended_and_another_one_begun(autojump_clock, tmp_path):
    async with fake_host(tmp_path, a_model("a", **STANDBY)) as host:
        async with trio.open_nursery() as nursery:
            muxd = OneSupervisor(host)
            await nursery.start(muxd.supervisor.run)
            await trio.sleep(10)
            nursery.cancel_scope.cancel()
        host.state.load()
        host.servers["a"].faults["/health"] = "hang"
        async with next_muxd(host) as muxd:
            assert host.children.all[0].has_ended
            host.servers["a"].faults.clear()
            await muxd.serves("a")
            assert [bool(child.server.gate) for child in host.children.all] == [True, True]
