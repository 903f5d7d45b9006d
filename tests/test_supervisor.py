"""The loop, with real runners on a pretend host: what clients and operators are told."""

import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import trio
import trio.testing

from muxd import __version__
from muxd.children import Dropped
from muxd.config import Memory, Model
from muxd.config.engine_options import SGLangOptions
from muxd.core.events import Verb
from muxd.errors import ModelNotFound
from muxd.protocol import LeaseGranted, RevocationReason, UnloadWish, WaitingRequests
from muxd.supervisor import order_streams
from muxd.supervisor.progress_pace import REPEAT

from .fakes import GiB, a_model, fake_host
from .one_supervisor import OneSupervisor, all_of, one_supervisor, two_models, type_of, wants

# Leases, switches, orders


async def test_a_shutdown_right_after_a_start_ends_what_has_hardly_begun(autojump_clock, tmp_path):
    async with one_supervisor(tmp_path, a_model("a")) as muxd:
        ticket = muxd.service.switch("a")
        muxd.supervisor.shutdown(hurry=True)
        assert (await all_of(ticket))[-1]["error"]["code"] == "shutting_down"


async def test_a_lease_is_granted_revoked_and_over(autojump_clock, tmp_path):
    async with two_models(tmp_path) as muxd:
        mine = muxd.wants("a")
        granted = await mine.told("granted")
        assert granted == LeaseGranted(1, muxd.status("a")["url"], 1)
        mine.reports(0)
        other = muxd.wants("b")
        revoked = await mine.told("revoked")
        assert (revoked.lease, revoked.reason, revoked.deadline_s) == (1, RevocationReason.SWITCH, 300.0)
        mine.close()
        await other.told("granted")
        mine.reports(1)  # it is over: nothing
        mine.close()  # once more: nothing
        assert muxd.status("a")["in_flight"] == 0
        other.close()


async def test_who_waits_is_told_how_it_goes_and_again_though_nothing_changed(autojump_clock, tmp_path):
    async with two_models(tmp_path) as muxd:
        muxd.host.servers["a"].load_time = 3 * REPEAT
        holder = muxd.wants("a")
        seen = []
        while not isinstance(message := await holder.hears(), LeaseGranted):
            seen.append((type_of(message), message.phase))
        assert seen.count(("switching", "starting")) == 3
        holder.close()


async def test_a_lease_whose_switch_is_called_off_is_restored(autojump_clock, tmp_path):
    async with two_models(tmp_path) as muxd:
        busy = muxd.wants("a")
        await busy.told("granted")
        busy.reports(1)
        older = muxd.service.switch("b")
        await busy.told("revoked")
        assert (await muxd.switch("a"))["type"] == "ready"
        await busy.told("restored")
        assert (await all_of(older))[-1]["error"]["code"] == "superseded"
        busy.close()


async def test_a_lease_that_is_not_let_go_is_taken_after_its_drain(autojump_clock, tmp_path):
    async with two_models(tmp_path, drain_timeout=20.0) as muxd:
        busy = muxd.wants("a")
        await busy.told("granted")
        busy.reports(1)
        assert (await muxd.switch("b"))["type"] == "ready"
        assert [type_of(await busy.hears()) for _ in range(2)] == ["revoked", "over"]
        assert muxd.states() == {"a": "asleep", "b": "ready"}


async def test_a_report_is_taken_in_at_once_but_never_before_what_was_told_earlier(autojump_clock, tmp_path):
    async with two_models(tmp_path) as muxd:
        holder = muxd.wants("a")
        holder.reports(0, WaitingRequests(count=2))
        assert muxd.status("a")["waiting"] == 0  # the lease was asked for, and the loop is yet to hear of it
        await trio.testing.wait_all_tasks_blocked()
        assert muxd.status("a")["waiting"] == 2
        holder.reports(0, WaitingRequests(count=3))
        assert muxd.status("a")["waiting"] == 3
        await holder.told("granted")
        other = muxd.wants("b")
        await trio.testing.wait_all_tasks_blocked()
        holder.reports(0)  # the switch that it brings about is told as ever
        await holder.told("revoked")
        holder.close()
        await other.told("granted")
        other.close()


async def test_a_report_is_not_taken_in_before_what_an_operator_told_earlier(autojump_clock, tmp_path):
    async with two_models(tmp_path) as muxd:
        holder = muxd.wants("a")
        await holder.told("granted")
        holder.reports(1)
        other = muxd.wants("b")
        other.reports(0)  # nothing is wanted of b yet
        holder.reports(0)
        await trio.sleep(100.0)
        ticket = muxd.service.switch("a")
        other.reports(0, WaitingRequests(count=1))  # the loop has had no turn since
        assert (await all_of(ticket))[-1]["type"] == "ready"
        assert type_of(await holder.hears()) == "revoked"  # neither restored before that
        assert muxd.status("a")["state"] == "draining"  # nor after it
        holder.close()
        await other.told("granted")
        other.close()


async def test_servers_are_connected_to_while_something_else_is_waited_for(autojump_clock, tmp_path):
    async with two_models(tmp_path) as muxd:
        urls = [await muxd.serves(name) for name in "ab"]
        connected = muxd.host.http.prepared
        connected.clear()
        muxd.host.servers["b"].call_time = 1.0
        muxd.service.switch("a").close()
        await muxd.until("b", "falling_asleep")
        await trio.testing.wait_all_tasks_blocked()
        assert sorted(connected) == sorted(urls)
        assert muxd.status("a")["state"] == "asleep"
        await muxd.until("a", "ready")


async def test_a_reader_that_does_not_read_still_gets_the_last_line(autojump_clock, tmp_path, monkeypatch):
    monkeypatch.setattr(order_streams, "LAG", 8)
    async with two_models(tmp_path) as muxd:
        muxd.host.servers["a"].load_time = 100  # whoever reads gets 19 lines
        unread = muxd.service.switch("a")
        await muxd.until("a", "ready")
        lines = await all_of(unread)
        assert len(lines) == 8
        assert lines[-1]["type"] == "ready"
        assert lines[-1]["elapsed_s"] >= 100


async def test_a_dropped_reader_does_not_stop_its_switch(autojump_clock, tmp_path):
    async with one_supervisor(tmp_path, a_model("a")) as muxd:
        muxd.service.switch("a").close()
        await muxd.until("a", "ready")


async def test_a_model_that_a_client_lets_go_sleeps_if_nobody_uses_it(autojump_clock, tmp_path):
    async with two_models(tmp_path) as muxd:
        assert await muxd.lets_go("a") == "it is unloaded"
        holder = muxd.wants("a")
        await holder.told("granted")
        assert await muxd.lets_go("a") == "it is in use"
        holder.close()
        assert await muxd.lets_go("a") is None
        await muxd.until("a", "asleep")


async def test_an_unload_that_the_end_of_muxd_overtakes_ends_with_its_session(autojump_clock, tmp_path):
    async with fake_host(tmp_path, a_model("a")) as host:
        muxd = OneSupervisor(host)  # its loop does not run
        session = muxd.service.open_session()
        session.take(UnloadWish("a"))
        muxd.supervisor.close()
        assert await session.messages() == []


async def test_a_preloaded_model_is_ready_without_anybody_asking(autojump_clock, tmp_path):
    async with one_supervisor(tmp_path, a_model("a", preload=True), a_model("b", preload=True)) as muxd:
        await muxd.until("b", "ready")
        assert muxd.states() == {"a": "asleep", "b": "ready"}


async def test_a_stop_is_remembered_by_the_next_muxd(autojump_clock, tmp_path):
    async with two_models(tmp_path) as muxd:
        await muxd.switch("a")
        assert (await muxd.order("a", Verb.STOP))["state"] == "stopped"
        assert muxd.saved.stopped == ["a"]
        refused = await muxd.wants("a").told("failed")
        assert (refused.error.code, refused.retry_after_s) == ("model_stopped", None)
        assert (await muxd.order("a", Verb.START))["state"] == "ready"
        assert muxd.saved.stopped == []


async def test_a_stop_lets_requests_finish_and_one_with_now_does_not(autojump_clock, tmp_path):
    async with two_models(tmp_path) as muxd:
        busy = muxd.wants("a")
        await busy.told("granted")
        busy.reports(1)
        stop = muxd.service.order("a", Verb.STOP)
        assert (await busy.told("revoked")).deadline_s == 300.0
        assert muxd.states()["a"] == "draining"
        assert (await muxd.order("a", Verb.STOP, now=True))["state"] == "stopped"
        cut = await busy.told("revoked")
        assert (cut.deadline_s, cut.message) == (0.0, "a is stopped by an operator")
        assert (await all_of(stop))[-1]["state"] == "stopped"


async def test_a_start_evicts_nobody(autojump_clock, tmp_path):
    async with two_models(tmp_path) as muxd:
        await muxd.switch("a")
        assert (await muxd.order("b", Verb.START))["error"]["code"] == "no_room"
        assert muxd.states() == {"a": "ready", "b": "unloaded"}


async def test_a_restart_is_another_process_and_no_failure(autojump_clock, tmp_path):
    async with two_models(tmp_path) as muxd:
        await muxd.switch("a")
        before = muxd.status("a")["pid"]
        assert (await muxd.order("a", Verb.RESTART))["state"] == "ready"
        assert muxd.status("a")["pid"] not in (None, before)
        assert muxd.status("a")["restarts"] == 0


async def test_a_sleeper_keeps_what_was_measured_and_wakes_for_the_next_request(autojump_clock, tmp_path):
    async with two_models(tmp_path) as muxd:
        await muxd.switch("a")
        assert (await muxd.order("a", Verb.SLEEP))["state"] == "asleep"
        memory = muxd.status("a")["memory"]
        assert (memory["awake"], memory["asleep"]) == (50 * GiB, 2 * GiB)
        await muxd.serves("a")
        assert ("a", "asleep", "waking") in await muxd.moves()


async def test_status_names_the_switch_that_is_under_way(autojump_clock, tmp_path):
    async with two_models(tmp_path) as muxd:
        await muxd.switch("a")
        muxd.host.servers["a"].faults["release"] = "hang"
        ticket = muxd.service.switch("b")
        await muxd.until("a", "falling_asleep")
        switch = muxd.service.status()["switch"]
        assert (switch["to"], switch["from"], switch["phase"]) == ("b", ["a"], "falling_asleep")
        assert (await all_of(ticket))[-1]["type"] == "ready"


# What servers say


async def test_the_longest_text_that_a_server_takes_is_known_from_its_first_start_on(autojump_clock, tmp_path):
    async with two_models(tmp_path) as muxd:
        assert muxd.status("a")["max_model_len"] is None
        await muxd.switch("a")
        assert muxd.status("a")["max_model_len"] == 4096
        await muxd.order("a", Verb.STOP)
        assert muxd.status("a")["max_model_len"] == 4096
        assert muxd.status("b")["max_model_len"] is None


async def test_what_a_server_makes_is_known_from_its_first_start_on(autojump_clock, tmp_path):
    async with two_models(tmp_path) as muxd:
        muxd.host.servers["b"].is_generation = False
        for name, said in (("a", True), ("b", False)):
            assert muxd.status(name)["is_generation"] is None
            await muxd.switch(name)
            assert muxd.status(name)["is_generation"] is said
            await muxd.order(name, Verb.STOP)
            assert muxd.status(name)["is_generation"] is said


async def test_after_a_switch_there_and_back_the_state_file_has_no_call_under_way(autojump_clock, tmp_path):
    async with two_models(tmp_path) as muxd:
        for name in ("a", "b", "a"):
            assert (await muxd.switch(name))["type"] == "ready"
            await trio.testing.wait_all_tasks_blocked()
        assert {name: (worker.call, worker.released) for name, worker in muxd.saved.workers.items()} == {
            "a": (None, []),
            "b": (None, ["kv_cache", "weights"]),
        }


async def test_names_are_resolved_and_a_wrong_one_names_the_nearest(autojump_clock, tmp_path):
    async with one_supervisor(tmp_path, a_model("qwen")) as muxd:
        assert muxd.service.resolve("org/qwen") == muxd.service.resolve("qwen") == "qwen"
        with pytest.raises(ModelNotFound, match="did you mean qwen"):
            muxd.service.resolve("qwem")


async def test_a_log_is_a_models_by_any_of_its_names_or_muxds_or_told_where_it_is(autojump_clock, tmp_path):
    async with one_supervisor(tmp_path, a_model("a")) as muxd:
        for name, file in (("org/a", "a.stderr.log"), ("muxd", "muxd.stderr.log")):
            files, lost = muxd.service.log_of(name)
            assert (files["stderr"].name, lost) == (file, None)
        for name, what in (
            ("proxy", "the proxy is a service of its own: see its unit's journal"),
            ("router", "no model has a router"),
            ("ui", "there is no console"),
            ("b", "no model b"),
        ):
            with pytest.raises(ModelNotFound, match=what):
                muxd.service.log_of(name)


async def test_what_the_disk_refuses_of_a_proxys_log_is_told_as_a_workers_is(autojump_clock, tmp_path, caplog):
    class Teller:
        log_files = {"stderr": tmp_path / "muxd-proxy.stderr.log"}  # noqa: RUF012
        dropped = Dropped(7, "No space left on device")

    async with one_supervisor(tmp_path, a_model("a")) as muxd:
        muxd.proxy.log_teller = Teller()
        assert muxd.service.log_of("proxy")[1] == {"bytes": 7, "reason": "No space left on device"}
        await trio.sleep(5)
        assert "muxd-proxy: 7 bytes of its log were lost" in caplog.text


async def test_version_and_the_proxys_settings_are_those_of_the_running_configuration(autojump_clock, tmp_path):
    async with one_supervisor(tmp_path, a_model("a")) as muxd:
        version = muxd.service.version()
        assert (version["version"], version["pid"]) == (__version__, os.getpid())
        assert abs(version["started"] - time.time()) < 3600
        assert list(muxd.service.proxy_settings()["models"]) == ["a"]


async def test_a_model_may_be_called_proxy(autojump_clock, tmp_path):
    async with one_supervisor(tmp_path, a_model("proxy")) as muxd:
        assert muxd.service.log_of("proxy")[0]["stderr"].name == "proxy.stderr.log"


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A temporary folder of our own with a short name."""
    with tempfile.TemporaryDirectory(prefix="t", dir="/tmp") as folder:
        monkeypatch.setattr(tempfile, "tempdir", folder)
        yield Path(folder)


async def test_below_a_deep_state_folder_workers_run_and_leave_nothing(autojump_clock, tmp_path, short):
    deep = tmp_path / ("d" * 60)
    deep.mkdir()
    async with one_supervisor(deep, a_model("a")) as muxd:
        assert (await muxd.switch("a"))["type"] == "ready"
        assert len(os.listdir(short)) == 1
    assert os.listdir(short) == []


# GPUs


async def test_what_can_never_be_loaded_is_refused_shown_and_told_in_the_log(autojump_clock, tmp_path, caplog):
    (tmp_path / "big").mkdir()
    (tmp_path / "big/config.json").write_text("{}")
    (tmp_path / "big/model.safetensors").touch()
    os.truncate(tmp_path / "big/model.safetensors", 90 * GiB)  # sparse
    unknown = SGLangOptions(python=str(tmp_path / "no python"))
    big = Model("big", model_path=str(tmp_path / "big"), engine_options=unknown)
    elsewhere = Model("elsewhere", model_path="o/a", gpus=("7",), engine_options=unknown)
    async with one_supervisor(tmp_path, big, elsewhere) as muxd:
        muxd.host.gpus.ids = ["0"]
        muxd.host.gpus.there = frozenset({"0"})
        await trio.sleep(5)
        for name, code in (("big", "model_too_large"), ("elsewhere", "gpu_missing")):
            assert (await muxd.switch(name))["error"]["code"] == code
            status = muxd.status(name)
            assert status["next"] == status["impossible"]
            assert f"model {name} {status['impossible']}" in caplog.messages
        assert "its weights alone need 85.5 GiB, and GPU 0 has 80.0 GiB" in muxd.status("big")["next"]
        wants(muxd, replace(big, args=("--quantization", "fp8")))
        await muxd.service.reload()
        assert muxd.status("big")["impossible"] is None


async def test_a_model_larger_than_its_gpu_is_refused_at_once_and_evicts_nobody(autojump_clock, tmp_path):
    async with two_models(tmp_path, memory=Memory(weights=200 * GiB)) as muxd:
        await muxd.serves("b")
        refused = await muxd.wants("a").told("failed")
        assert (refused.error.code, refused.retry_after_s) == ("model_too_large", None)
        assert "it needs 200.0 GiB on each of its GPUs, and GPU 0 has 80.0 GiB in all" in refused.error.message
        assert muxd.states() == {"a": "unloaded", "b": "ready"}
