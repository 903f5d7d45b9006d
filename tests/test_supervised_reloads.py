"""A reload among everything else that goes on, on a pretend host: what it changes, and what it leaves alone."""

import logging
import os
from dataclasses import replace
from functools import partial

import pytest
import trio

from muxd.config import Config, Model, load_config
from muxd.config.engine_options import SGLangOptions
from muxd.config.readers import Address
from muxd.config.schema import Daemon, Key
from muxd.core.events import Verb
from muxd.errors import ConfigError, ModelNotFound, NeedsRestart, ShuttingDown
from muxd.history.series import SeriesQuery
from muxd.protocol import ActivityReport, KeyUsage, ModelActivity
from muxd.supervisor import reload

from .fakes import a_model
from .interpreters import make_interpreter
from .one_supervisor import OneSupervisor, one_supervisor, two_models, wants


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


async def test_a_model_that_a_reload_removes_while_the_one_before_restarts_it_is_gone(autojump_clock, tmp_path):
    async with two_models(tmp_path) as muxd:
        await muxd.switch("a")
        wants(muxd, a_model("a", env={"MARK": "new"}), a_model("b"))
        await muxd.service.reload()
        assert muxd.states()["a"] == "stopping"
        wants(muxd, a_model("b"))
        await muxd.service.reload()
        assert await muxd.serves("b")
        assert list(muxd.states()) == ["b"]


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


async def test_a_configuration_that_cannot_be_read_to_its_end_keeps_no_other_reload_waiting(tmp_path, monkeypatch):
    monkeypatch.setattr(reload, "READING", 0.05)
    path = tmp_path / "muxd.toml"
    os.mkfifo(path)
    running = Config(Daemon(tmp_path / "muxd.sock", tmp_path, tmp_path))
    with pytest.raises(ConfigError, match="could not be read within 0"):
        await reload.read_again(partial(load_config, path, {}), running)
    os.close(os.open(path, os.O_WRONLY))  # and the thread ends


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
