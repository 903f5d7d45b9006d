"""Switches with their reasons, as operators ask the service of a supervisor on a pretend host."""

from math import inf

import pytest
import trio
import trio.testing

from muxd.core.events import Verb
from muxd.errors import ConfigError
from muxd.history.journal import ALL, EntryFilter
from muxd.protocol import LeaseWish

from .fakes import a_model
from .one_supervisor import OneSupervisor, one_supervisor, two_models


def told(muxd: OneSupervisor, before: float = inf, **wanted) -> list[dict]:
    return muxd.service.recent_switches(EntryFilter(**wanted), before)


async def events(muxd: OneSupervisor, kind: str) -> list[dict]:
    return [event async for event in muxd.service.events(0, follow=False) if event["type"] == kind]


async def test_a_switch_is_told_with_the_request_that_asked_for_it_and_the_four_parts_of_its_time(
    autojump_clock, tmp_path
):
    async with two_models(tmp_path) as muxd:
        assert told(muxd) == []
        await muxd.serves("a")
        session = muxd.service.open_session()
        session.take(LeaseWish(1, "b", request="f63", key="alice"))
        began = trio.current_time()
        await muxd.until("b", "ready")
        took = trio.current_time() - began
        first, second = told(muxd)
        assert (first["to"], first["from"], first["asked_by"]) == ("a", [], [])
        assert (second["to"], second["from"], second["result"]) == ("b", ["a"], "ready")
        assert second["asked_by"] == [{"request": "f63", "key": "alice"}]
        assert second["waiting"] == 1
        parts = sum(second[f"{part}_s"] for part in ("drain", "sleep", "free", "wake"))
        assert abs(parts - second["duration_s"]) < 0.01
        assert second["duration_s"] <= took + 0.001
        assert [each["model"] for each in second["compared"]] == ["b"]
        event = (await events(muxd, "switch"))[-1]
        assert (event["model"], event["cause"], event["asked_by"]) == ("b", second["cause"], "alice")
        assert event["duration_s"] == second["duration_s"]
        session.close()


async def test_one_under_way_is_told_and_those_of_a_model_are_those_by_which_it_came_or_left(autojump_clock, tmp_path):
    async with two_models(tmp_path) as muxd:
        await muxd.serves("a")
        muxd.host.servers["b"].load_time = 50.0
        channel = muxd.service.switch("b", "root")
        await trio.sleep(20)
        (first, last) = told(muxd, model="a")
        assert (last["to"], last["result"], last["cause"]) == ("b", None, "operator")
        assert last["asked_by"] == [{"operator": "root"}]
        assert last["duration_s"] >= 19
        assert told(muxd, model="b") == [last]
        assert told(muxd, model="b", before=first["began"]) == []
        assert told(muxd, last=1) == [last]
        channel.close()


async def test_one_that_fails_or_is_called_off_is_told_as_that(autojump_clock, tmp_path):
    async with one_supervisor(tmp_path, a_model("a"), a_model("b")) as muxd:
        await muxd.serves("a")
        holder = muxd.wants("a")
        await holder.told("granted")
        holder.reports(1)
        first = muxd.service.switch("b", "root")
        await muxd.until("a", "draining")
        await muxd.order("b", Verb.STOP)
        assert told(muxd)[-1]["result"] == "called_off"
        holder.close()
        first.close()


async def test_a_reload_that_fails_is_an_event_with_its_reason_and_who_wanted_it(autojump_clock, tmp_path):
    async with two_models(tmp_path) as muxd:

        def broken():
            raise ConfigError(["muxd.toml:1: no"])

        working, muxd.host.reread = muxd.host.reread, broken
        with pytest.raises(ConfigError):
            await muxd.service.reload(by="alice")
        with pytest.raises(ConfigError):
            await muxd.service.reload(dry_run=True)
        (event,) = await events(muxd, "reload_failed")
        assert (event["reason"], event["code"], event["by"]) == ("muxd.toml:1: no", "config_invalid", "alice")
        assert muxd.service.status()["reload_failed"]["reason"] == "muxd.toml:1: no"
        muxd.host.reread = working
        await muxd.service.reload()
        assert muxd.service.status()["reload_failed"] is None


async def test_a_change_of_a_state_tells_how_long_the_last_one_was(autojump_clock, tmp_path):
    async with two_models(tmp_path) as muxd:
        muxd.host.servers["a"].load_time = 7.0
        await muxd.serves("a")
        await trio.testing.wait_all_tasks_blocked()  # whoever is granted is told first
        started, ready = (await events(muxd, "state"))[:2]
        assert (started["to"], started["was_s"]) == ("starting", None)
        assert ready["to"] == "ready"
        assert 7.0 <= ready["was_s"] < 8.0


async def test_who_gave_an_order_is_in_its_event(autojump_clock, tmp_path):
    async with two_models(tmp_path) as muxd:
        muxd.service.order("a", Verb.START, by="root").close()
        muxd.service.order("a", Verb.START, by="54321").close()  # nobody is called so
        muxd.service.switch("b").close()
        told = [(event["order"], event["by"], event.get("uid")) for event in await events(muxd, "operator")]
        assert told == [("start", "root", 0), ("start", "54321", 54321), ("switch", None, None)]
        await muxd.until("a", "ready")
        (switch, *_) = muxd.service.recent_switches(ALL, inf)
        assert switch["cause"] == "order"
