"""The loop, with real runners on a pretend host: what clients and operators are told, and what a reload does."""

import logging
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
from muxd.config import Config, Memory, Model
from muxd.config.command_lines import Command
from muxd.config.engine_options import SGLangOptions
from muxd.config.model_schema import DeclaredServer, Script
from muxd.config.readers import Address
from muxd.config.schema import Key
from muxd.core.events import Verb
from muxd.errors import ConfigError, ModelNotFound, NeedsRestart, ShuttingDown
from muxd.history.series import SeriesQuery
from muxd.protocol import ActivityReport, KeyUsage, LeaseGranted, ModelActivity, RevocationReason, UnloadWish
from muxd.supervisor import order_streams
from muxd.supervisor.progress_pace import REPEAT

from .fakes import NO_PID, Behaviour, GiB, a_model, fake_host
from .interpreters import make_interpreter
from .one_supervisor import OneSupervisor, all_of, one_supervisor, two_models, type_of

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


# A reload among everything else


def wants(muxd: OneSupervisor, *models: Model) -> Config:
    """What a reload reads from now on; gives what it read before."""
    before = muxd.host.wanted
    muxd.host.wanted = replace(before, models=models)
    return before


async def test_a_reload_and_questions_about_what_it_adds_do_not_meet_half_way(autojump_clock, tmp_path):
    async with one_supervisor(tmp_path, a_model("a")) as muxd, trio.open_nursery() as nursery:
        wants(muxd, a_model("a"), a_model("b"))
        nursery.start_soon(muxd.service.reload)
        while True:
            try:
                name = muxd.service.resolve("b")
                break
            except ModelNotFound:
                await trio.lowlevel.checkpoint()
        assert muxd.status(name)["state"] == "unloaded"
        await muxd.serves(name)


async def test_two_reloads_at_once_come_one_after_the_other(autojump_clock, tmp_path):
    async with two_models(tmp_path) as muxd:
        whole = wants(muxd, a_model("a"))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(muxd.service.reload)
            await trio.lowlevel.checkpoint()
            muxd.host.wanted = whole
            nursery.start_soon(muxd.service.reload)
        assert list(muxd.states()) == ["a", "b"]
        assert (await muxd.order("b", Verb.START))["state"] == "ready"


async def test_a_lease_for_what_a_reload_removes_meanwhile_is_refused(autojump_clock, tmp_path):
    async with two_models(tmp_path) as muxd:
        wants(muxd, a_model("a"))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(muxd.service.reload)
            asked = []
            while "b" in muxd.states():
                asked.append(muxd.wants("b"))
                await trio.lowlevel.checkpoint()
        assert asked
        for holder in asked:
            assert (await holder.told("failed")).error.code == "model_not_found"


async def test_a_changed_model_is_started_anew_after_its_requests_and_no_other_is_touched(autojump_clock, tmp_path):
    async with two_models(tmp_path) as muxd:
        for name in ("b", "a"):
            await muxd.switch(name)
        asleep, awake = muxd.status("b")["pid"], muxd.status("a")["pid"]
        busy = muxd.wants("a")
        await busy.told("granted")
        busy.reports(1)
        wants(muxd, a_model("a", env={"MARK": "new"}), a_model("b"))
        answer = await muxd.service.reload()
        assert [(step["model"], step["action"]) for step in answer["plan"]] == [("a", "restart")]
        await busy.told("revoked")
        assert muxd.status("a")["pid"] == awake
        busy.close()
        await muxd.until("a", "ready")
        assert muxd.status("a")["pid"] != awake
        assert muxd.host.children.all[-1].spec.env["MARK"] == "new"
        assert muxd.status("b")["pid"] == asleep


async def test_a_changed_timeout_touches_no_process(autojump_clock, tmp_path):
    async with two_models(tmp_path) as muxd:
        await muxd.switch("a")
        pid = muxd.status("a")["pid"]
        wants(muxd, a_model("a", switch_timeout=7.0), a_model("b"))
        answer = await muxd.service.reload()
        assert answer["plan"] == [{"model": "a", "action": "update", "changes": ["switch_timeout"]}]
        assert (muxd.status("a")["switch_timeout_s"], muxd.status("a")["pid"]) == (7.0, pid)


async def test_a_name_that_moves_to_another_model_means_that_one_and_its_worker_runs_on(autojump_clock, tmp_path):
    async with two_models(tmp_path) as muxd:
        await muxd.switch("b")
        pid = muxd.status("b")["pid"]
        wants(muxd, replace(a_model("a"), served_names=("a",)), replace(a_model("b"), served_names=("org/b", "org/a")))
        plan = (await muxd.service.reload())["plan"]
        assert [(step["model"], step["action"]) for step in plan] == [("a", "restart"), ("b", "update")]
        assert muxd.service.resolve("org/a") == "b"
        assert (muxd.status("b")["served_names"], muxd.status("b")["pid"]) == (["org/b", "org/a"], pid)


async def test_a_dry_run_changes_nothing(autojump_clock, tmp_path):
    async with two_models(tmp_path) as muxd:
        wants(muxd, a_model("a"))
        answer = await muxd.service.reload(dry_run=True)
        assert (answer["applied"], [step["action"] for step in answer["plan"]]) == (False, ["remove"])
        assert list(muxd.states()) == ["a", "b"]


async def test_a_stop_is_forgotten_with_its_model(autojump_clock, tmp_path):
    async with two_models(tmp_path) as muxd:
        assert (await muxd.order("b", Verb.STOP))["state"] == "stopped"
        whole = wants(muxd, a_model("a"))
        await muxd.service.reload()
        muxd.host.wanted = whole
        await muxd.service.reload()
        assert muxd.saved.stopped == []
        assert not muxd.status("b")["stopped_by_operator"]


async def test_figures_over_time_are_forgotten_with_their_model(autojump_clock, tmp_path):
    told = ActivityReport(
        models=(ModelActivity("a", tokens=5), ModelActivity("b", tokens=5)), keys=(KeyUsage("", "b", requests=1),)
    )

    def models(muxd: OneSupervisor) -> set[str]:
        return set(muxd.service.series(SeriesQuery())["models"])

    async with two_models(tmp_path) as muxd:
        session = muxd.service.open_session()
        session.take(told)
        assert (models(muxd), muxd.status("b")["requests_per_min"]) == ({"a", "b"}, 1)
        whole = wants(muxd, a_model("a"))
        await muxd.service.reload()
        session.take(told)  # the last requests of "b" end
        assert models(muxd) == {"a"}
        muxd.host.wanted = whole
        await muxd.service.reload()
        assert (models(muxd), muxd.status("b")["requests_per_min"]) == ({"a"}, None)
        assert muxd.service.usage(1, None, "b")["usage"][0]["requests"] == 2
        session.close()


async def test_a_reload_that_takes_the_last_key_away_says_so(autojump_clock, tmp_path, caplog):
    alice, bob = Key("alice", "ab" * 32), Key("bob", "cd" * 32, revoked=True)
    async with one_supervisor(tmp_path, a_model("a")) as muxd:
        open_to_all = muxd.host.wanted
        for keys in ((), (alice, bob), (bob,)):
            muxd.host.wanted = replace(open_to_all, keys=keys)
            await muxd.service.reload()
        assert "no API key" not in caplog.text
        muxd.host.wanted = open_to_all
        answer = await muxd.service.reload()
        assert "no API key is left: anybody who reaches the proxy may use the models" in caplog.text
        assert answer["warnings"][0] in caplog.text


async def test_a_reload_that_cannot_read_its_files_changes_nothing(autojump_clock, tmp_path, monkeypatch):
    async with one_supervisor(tmp_path, a_model("a")) as muxd:
        reread = muxd.host.reread
        muxd.host.reread = lambda: (_ for _ in ()).throw(FileNotFoundError(2, "No such file", "a.sh"))
        with pytest.raises(ConfigError, match="nothing was changed"):
            await muxd.service.reload()
        muxd.host.reread = reread
        assert muxd.status("a")["state"] == "unloaded"


@pytest.mark.parametrize(
    ("about", "said"),
    [
        (
            {"rejected": {"real": "unrecognized arguments: --contxt-length 3"}},
            "models.real.args: the SGLang of {python} does not take args: it knows no --contxt-length; did you mean",
        ),
        ({"script": "exit 0"}, "models.real.python: {python}: no SGLang is installed in it; name the python of an"),
    ],
)
async def test_a_reload_with_flags_that_the_engine_refuses_changes_nothing(autojump_clock, tmp_path, about, said):
    python = make_interpreter(tmp_path / "python", **about)
    options = SGLangOptions(python=str(python))
    real = Model("real", model_path="o/r", served_names=("real",), engine_options=options)
    async with one_supervisor(tmp_path, real) as muxd:
        wants(muxd, replace(real, args=("--contxt-length", "3")))
        with pytest.raises(ConfigError) as refused:
            await muxd.service.reload()
        assert refused.value.message.startswith(said.format(python=python))
        assert refused.value.message.endswith("; nothing was changed")
        assert muxd.service.status()["reload_failed"]["reason"] == refused.value.message


async def test_a_reload_that_changes_no_flags_asks_no_engine(autojump_clock, tmp_path):
    python = make_interpreter(tmp_path / "python", script="exit 1")
    options = SGLangOptions(python=str(python))
    real = Model("real", model_path="o/r", served_names=("real",), args=("--x",), engine_options=options)
    async with one_supervisor(tmp_path, real) as muxd:
        wants(muxd, replace(real, drain_timeout=7.0))
        assert (await muxd.service.reload())["warnings"] == []
        assert not (tmp_path / "python.asked").exists()
        wants(muxd, replace(real, args=("--x", "--y")))
        (warning,) = (await muxd.service.reload())["warnings"]
        assert warning.startswith(f"models.real.python: {python}: it is no Python that works: it ended with status 1")


async def test_a_reload_that_a_shutdown_overtakes_changes_nothing(autojump_clock, tmp_path):
    async with two_models(tmp_path) as muxd:
        wants(muxd, a_model("a"))
        muxd.supervisor.shutdown()
        with pytest.raises(ShuttingDown, match="nothing was changed"):
            await muxd.service.reload()
        assert list(muxd.states()) == ["a", "b"]


async def test_a_reload_may_change_how_muxd_logs(autojump_clock, tmp_path):
    async with one_supervisor(tmp_path, a_model("a")) as muxd:
        handlers, level = list(logging.root.handlers), logging.root.level
        before = muxd.host.wanted
        muxd.host.wanted = replace(before, daemon=replace(before.daemon, log_level="debug"))
        try:
            await muxd.service.reload()
            assert logging.root.level == logging.DEBUG
        finally:
            logging.root.handlers, logging.root.level = handlers, level


async def test_a_configuration_that_was_written_since_is_told_until_it_is_read_again(autojump_clock, tmp_path):
    file = tmp_path / "muxd.toml"
    async with one_supervisor(tmp_path, a_model("a")) as muxd:
        assert muxd.service.status()["config_written"] is False
        file.write_text("")
        muxd.supervisor.reloader.config = replace(muxd.supervisor.reloader.config, path=file, files=(file,), read_at=1)
        await trio.sleep(10)
        assert muxd.service.status()["config_written"]
        await muxd.service.reload()
        assert muxd.service.status()["config_written"] is False


async def test_what_takes_a_restart_is_told_with_the_line_that_says_it(autojump_clock, tmp_path):
    file, part = tmp_path / "muxd.toml", tmp_path / "muxd.d/b.toml"
    file.write_text('[proxy]\nlisten = "127.0.0.1:1"\nmax_body = "1MiB"\n')
    part.parent.mkdir()
    part.write_text('\n\n[proxy]\nmax_body = "2MiB"\n')
    async with one_supervisor(tmp_path, a_model("a")) as muxd:
        running = muxd.host.wanted
        proxy = replace(running.proxy, listen=Address("127.0.0.1", 1), max_body=2 << 20, buffer_memory=1)
        muxd.host.wanted = replace(running, path=file, proxy=proxy)
        with pytest.raises(NeedsRestart) as told:
            await muxd.service.reload()
        assert told.value.message.startswith(
            f"{file}:2: proxy.listen, {part}:4: proxy.max_body, proxy.buffer_memory cannot be changed while muxd runs: "
        )


# What is seen of a launch script's server


def a_script(gpu: str, *, said: str) -> Model:
    """A model whose launch script is said to use one GPU."""
    declared = DeclaredServer(names=("org/a",), names_by="table", gpus=(said,), every=("0", "1"))
    return Model(
        "a",
        engine="simulator",
        served_names=("org/a",),
        gpus=(said,),
        script=Script(argv=("bash", "a.sh"), digest="d", said=declared),
    )


def serves(behaviour: Behaviour, gpu: str) -> None:
    words = ["python3", "-m", "muxd.simulator", "--model-path", "/models/a", "--port", "47000"]
    environ = {"CUDA_VISIBLE_DEVICES": gpu, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    behaviour.listens_at, behaviour.info = 47_000, {"model_path": "/models/a"}
    behaviour.processes = [Command(NO_PID + 1, 1, words, environ, True)]


async def test_a_server_on_other_gpus_than_it_was_granted_is_started_again_on_those(autojump_clock, tmp_path, caplog):
    async with one_supervisor(tmp_path, a_script("1", said="0"), a_model("b")) as muxd:
        await muxd.switch("b")
        serves(muxd.host.servers["a"], "1")
        assert await muxd.serves("a")
        assert muxd.status("a")["gpus"] == [1]
        told = "its server uses GPU 1, and its table says 0"
        assert (muxd.status("a")["reason"], f"a: {told}" in caplog.text) == (told, True)
        assert len([child for child in muxd.host.children.all if child.name == "a"]) == 2


async def test_what_is_learnt_of_a_server_where_it_belongs_takes_no_restart(autojump_clock, tmp_path):
    async with one_supervisor(tmp_path, a_script("0", said="0"), a_model("b")) as muxd:
        serves(muxd.host.servers["a"], "0")
        assert await muxd.serves("a")
        assert len(muxd.host.children.all) == 1
        assert muxd.supervisor.reloader.config.models[0].script.is_seen


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
