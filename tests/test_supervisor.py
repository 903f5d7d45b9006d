"""The loop with real runners and simulated workers; what needs no proxy and no process of its own."""

import os
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from math import inf
from pathlib import Path

import pytest
import trio
import trio.testing

from muxd.children import Children
from muxd.config import Config, Daemon, Memory, Model, Simulation, SimulatorOptions
from muxd.config.readers import Address
from muxd.config.schema import Key
from muxd.core.events import Event, Verb, Waiting
from muxd.core.states import WorkerState
from muxd.engines.engine_client import open_http
from muxd.errors import ConfigError, LeaseNotFound, ModelNotFound, NeedsRestart
from muxd.gpus import GpuMemory, open_gpus
from muxd.proxy_child import UnmanagedProxy
from muxd.saved_state import StateFile
from muxd.supervisor import Supervisor
from muxd.workers import WorkerContext

GiB = 1 << 30


def a_model(name: str, **facts: object) -> Model:
    quick = SimulatorOptions(simulation=Simulation(load_time=0.2, sleep_time=0.02, wake_time=0.02, pace=0.02))
    memory = Memory(weights=50 * GiB)
    said = {"engine": "simulator", "engine_options": quick, "memory": memory}
    return Model(name, served_names=(f"org/{name}",), **said, **facts)  # type: ignore[arg-type]


wanted: list[Config] = []


@asynccontextmanager
async def supervised(folder: Path, *models: Model) -> AsyncIterator[Supervisor]:
    """What `wanted` ends with is what a reload reads."""
    for name in ("run", "state", "logs"):
        (folder / name).mkdir()
    config = Config(Daemon(folder / "socket", folder / "state", folder / "logs"), models=models)
    wanted.append(config)
    children, state = Children(folder / "run"), StateFile(folder / "state" / "state.json")
    send, mailbox = trio.open_memory_channel[Event](inf)
    with trio.fail_after(30):
        async with open_http() as http, trio.open_nursery() as nursery:
            context = WorkerContext(config, children, open_gpus(config), state, http, send.send_nowait)
            supervisor = Supervisor(context, mailbox, UnmanagedProxy(config), lambda: wanted[-1])
            await nursery.start(supervisor.run)
            yield supervisor
            supervisor.shutdown(hurry=True)
            await supervisor.finished.wait()
            assert not state.state.workers
            assert not list((folder / "state" / "workers").glob("*"))
            supervisor.close()
            nursery.cancel_scope.cancel()


async def lines(channel):
    return [line async for line in channel]


async def until(channel, kind):
    """The lines up to the first of this kind."""
    seen = [await channel.receive()]
    while seen[-1]["type"] != kind:
        seen.append(await channel.receive())
    return seen


async def test_a_shutdown_right_after_a_start_ends_what_has_hardly_begun(tmp_path):
    async with supervised(tmp_path, a_model("a")) as supervisor:
        ticket = supervisor.switch("a")
        supervisor.shutdown(hurry=True)
        assert (await lines(ticket))[-1]["error"]["code"] == "shutting_down"


async def test_a_lease_is_granted_revoked_and_over(tmp_path):
    async with supervised(tmp_path, a_model("a"), a_model("b")) as supervisor:
        number, told = supervisor.open_lease("a", (Waiting(),))
        seen = await until(told, "granted")
        assert [line["type"] for line in seen[:-1]] == ["switching"] * (len(seen) - 1)
        assert {line["lease"] for line in seen} == {str(number)}
        supervisor.report_demand(number, 0, ())
        other, told_other = supervisor.open_lease("b", (Waiting(),))
        await until(told, "revoked")
        supervisor.close_lease(number)
        await until(told_other, "granted")
        with pytest.raises(LeaseNotFound):
            supervisor.report_demand(number, 1, ())
        supervisor.close_lease(other)


async def test_a_model_that_a_client_lets_go_sleeps_if_nobody_uses_it(tmp_path):
    async with supervised(tmp_path, a_model("a"), a_model("b")) as supervisor:
        told = await supervisor.unload("a")
        assert (told["model"], told["sleeps"], told["reason"]) == ("a", False, "it is unloaded")
        await lines(supervisor.switch("a"))
        assert (await supervisor.unload("a"))["sleeps"]
        while supervisor.model_status("a")["state"] != "asleep":
            await trio.sleep(0.02)


async def test_the_longest_text_that_a_server_takes_is_known_from_its_first_start_on(tmp_path):
    async with supervised(tmp_path, a_model("a", args=("--context-length", "4096")), a_model("b")) as supervisor:
        assert supervisor.model_status("a")["max_model_len"] is None
        await lines(supervisor.switch("a"))
        assert supervisor.model_status("a")["max_model_len"] == 4096
        await lines(supervisor.order("a", Verb.STOP))
        assert supervisor.model_status("a")["max_model_len"] == 4096
        assert supervisor.model_status("b")["max_model_len"] is None


async def test_what_a_server_makes_is_known_from_its_first_start_on(tmp_path):
    models = (a_model("a"), a_model("b", args=("--is-embedding",)))
    async with supervised(tmp_path, *models) as supervisor:
        for name, said in (("a", True), ("b", False)):
            assert supervisor.model_status(name)["is_generation"] is None
            await lines(supervisor.switch(name))
            assert supervisor.model_status(name)["is_generation"] is said
            await lines(supervisor.order(name, Verb.STOP))
            assert supervisor.model_status(name)["is_generation"] is said


async def test_a_dropped_reader_does_not_stop_its_switch(tmp_path):
    async with supervised(tmp_path, a_model("a")) as supervisor:
        supervisor.switch("a").close()
        while supervisor.model_status("a")["state"] != "ready":
            await trio.sleep(0.02)


async def test_after_a_switch_there_and_back_the_state_file_has_no_call_under_way(tmp_path):
    async with supervised(tmp_path, a_model("a"), a_model("b")) as supervisor:
        for name in ("a", "b", "a"):
            assert (await lines(supervisor.switch(name)))[-1]["type"] == "ready"
            await trio.testing.wait_all_tasks_blocked()
        workers = StateFile(tmp_path / "state" / "state.json").load().workers
        assert {name: (worker.call, worker.released) for name, worker in workers.items()} == {
            "a": (None, []),
            "b": (None, ["kv_cache", "weights"]),
        }


async def test_names_are_resolved_and_a_wrong_one_names_the_nearest(tmp_path):
    async with supervised(tmp_path, a_model("qwen")) as supervisor:
        assert supervisor.resolve("org/qwen") == supervisor.resolve("qwen") == "qwen"
        with pytest.raises(ModelNotFound, match="did you mean qwen"):
            supervisor.resolve("qwem")


async def test_a_preloaded_model_is_ready_without_anybody_asking(tmp_path):
    async with supervised(tmp_path, a_model("a", preload=True), a_model("b", preload=True)) as supervisor:
        states = {}
        while states != {"a": "asleep", "b": "ready"}:
            await trio.sleep(0.02)
            states = {name: supervisor.model_status(name)["state"] for name in ("a", "b")}


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A temporary folder of our own with a short name."""
    with tempfile.TemporaryDirectory(prefix="t", dir="/tmp") as folder:
        monkeypatch.setattr(tempfile, "tempdir", folder)
        yield Path(folder)


async def test_below_a_deep_state_folder_workers_run_and_leave_nothing(tmp_path, short):
    deep = tmp_path / ("d" * 60)
    deep.mkdir()
    async with supervised(deep, a_model("a")) as supervisor:
        assert (await lines(supervisor.switch("a")))[-1]["type"] == "ready"
        assert len(os.listdir(short)) == 1
    assert os.listdir(short) == []


# A reload among everything else


def with_models(config: Config, *models: Model) -> Config:
    return replace(config, models=models)


async def test_a_reload_and_questions_about_what_it_adds_do_not_meet_half_way(tmp_path):
    async with supervised(tmp_path, a_model("a")) as supervisor, trio.open_nursery() as nursery:
        wanted.append(with_models(wanted[-1], a_model("a"), a_model("b")))
        nursery.start_soon(supervisor.reload)
        while True:
            try:
                name = supervisor.resolve("b")
                break
            except ModelNotFound:
                await trio.lowlevel.checkpoint()
        assert supervisor.model_status(name)["state"] == "unloaded"
        _, told = supervisor.open_lease(name, (Waiting(),))
        supervisor.status()
        await until(told, "granted")


async def test_two_reloads_at_once_come_one_after_the_other(tmp_path):
    async with supervised(tmp_path, a_model("a"), a_model("b")) as supervisor:
        whole = wanted[-1]
        wanted.append(with_models(whole, a_model("a")))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(supervisor.reload)
            await trio.lowlevel.checkpoint()
            wanted.append(whole)
            nursery.start_soon(supervisor.reload)
        assert [model["name"] for model in supervisor.status()["models"]] == ["a", "b"]
        ends = await lines(supervisor.order("b", Verb.START))
        assert ends[-1]["state"] == "ready"


async def test_a_lease_for_what_a_reload_removes_meanwhile_is_refused(tmp_path):
    async with supervised(tmp_path, a_model("a"), a_model("b")) as supervisor:
        wanted.append(with_models(wanted[-1], a_model("a")))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(supervisor.reload)
            asked = []
            while "b" in [model["name"] for model in supervisor.status()["models"]]:
                asked.append(supervisor.open_lease("b", (Waiting(),))[1])
                await trio.lowlevel.checkpoint()
        for told in asked:
            assert (await lines(told))[-1]["error"]["code"] == "model_not_found"


async def test_a_stop_is_forgotten_with_its_model(tmp_path):
    async with supervised(tmp_path, a_model("a"), a_model("b")) as supervisor:
        assert (await lines(supervisor.order("b", Verb.STOP)))[-1]["state"] == "stopped"
        whole = wanted[-1]
        wanted.append(with_models(whole, a_model("a")))
        await supervisor.reload()
        wanted.append(whole)
        await supervisor.reload()
        assert StateFile(tmp_path / "state" / "state.json").load().stopped == []
        assert not supervisor.model_status("b")["stopped_by_operator"]


async def test_a_reload_that_takes_the_last_key_away_says_so(tmp_path, caplog):
    alice, bob = Key("alice", "ab" * 32), Key("bob", "cd" * 32, revoked=True)
    async with supervised(tmp_path, a_model("a")) as supervisor:
        open_to_all = wanted[-1]
        for keys in ((), (alice, bob), (bob,)):
            wanted.append(replace(open_to_all, keys=keys))
            await supervisor.reload()
        assert "no API key" not in caplog.text
        wanted.append(open_to_all)
        answer = await supervisor.reload()
        assert "no API key is left: anybody who reaches the proxy may use the models" in caplog.text
        assert answer["warnings"][0] in caplog.text


async def test_a_reload_that_cannot_read_its_files_changes_nothing(tmp_path):
    async with supervised(tmp_path, a_model("a")) as supervisor:
        wanted.append(None)  # type: ignore[arg-type]
        supervisor._reread = lambda: (_ for _ in ()).throw(FileNotFoundError(2, "No such file", "a.sh"))
        with pytest.raises(ConfigError, match="nothing was changed"):
            await supervisor.reload()
        assert supervisor.model_status("a")["state"] == "unloaded"
        wanted.pop()


async def test_a_log_is_a_models_by_any_of_its_names_or_the_proxys_or_told_where_it_is(tmp_path):
    async with supervised(tmp_path, a_model("a")) as supervisor:
        files, lost = supervisor.log_of("org/a")
        assert (files["stderr"].name, lost) == ("a.stderr.log", None)
        for name, who in (("muxd", "muxd writes its own log to its stderr"), ("proxy", "the proxy is a service")):
            with pytest.raises(ModelNotFound, match=f"{who}.*: see its unit's journal"):
                supervisor.log_of(name)
        with pytest.raises(ModelNotFound, match="no model b"):
            supervisor.log_of("b")


async def test_a_model_may_be_called_proxy(tmp_path):
    async with supervised(tmp_path, a_model("proxy")) as supervisor:
        assert supervisor.log_of("proxy")[0]["stderr"].name == "proxy.stderr.log"


async def test_a_configuration_that_was_written_since_is_told_until_it_is_read_again(tmp_path):
    file = tmp_path / "muxd.toml"
    async with supervised(tmp_path, a_model("a")) as supervisor:
        assert supervisor.status()["config_written"] is False
        file.write_text("")
        supervisor.config = replace(supervisor.config, path=file, files=(file,), read_at=1)
        while not supervisor.status()["config_written"]:
            await trio.sleep(0.05)
        await supervisor.reload()
        assert supervisor.status()["config_written"] is False


async def test_what_takes_a_restart_is_told_with_the_line_that_says_it(tmp_path):
    file, part = tmp_path / "muxd.toml", tmp_path / "muxd.d/b.toml"
    file.write_text('[proxy]\nlisten = "127.0.0.1:1"\nmax_body = "1MiB"\n')
    part.parent.mkdir()
    part.write_text('\n\n[proxy]\nmax_body = "2MiB"\n')
    async with supervised(tmp_path, a_model("a")) as supervisor:
        running = wanted[-1]
        proxy = replace(running.proxy, listen=Address("127.0.0.1", 1), max_body=2 << 20, buffer_memory=1)
        wanted.append(replace(running, path=file, proxy=proxy))
        with pytest.raises(NeedsRestart) as told:
            await supervisor.reload()
        assert told.value.message.startswith(
            f"{file}:2: proxy.listen, {part}:4: proxy.max_body, proxy.buffer_memory cannot be changed while muxd runs: "
        )


async def test_what_survives_sigkill_is_named_at_the_end(tmp_path):
    async with supervised(tmp_path, a_model("a"), a_model("b")) as supervisor:
        assert supervisor.stuck == []
        worker = supervisor._scheduler.host.workers["b"]
        worker.state = WorkerState.STUCK
        assert supervisor.stuck == ["b"]
        worker.state = WorkerState.UNLOADED


class TwoCards:
    measured = True
    there = frozenset({"0", "1"})

    def __init__(self) -> None:
        self.latest = {gpu: GpuMemory(gpu, "a GPU", GiB, 0) for gpu in sorted(self.there)}

    async def read(self) -> dict[str, GpuMemory]:
        await trio.lowlevel.checkpoint()
        return self.latest

    def cover(self, config: Config) -> None:
        pass


async def test_what_can_never_be_loaded_is_refused_shown_and_told_in_the_log(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(f"{__name__}.open_gpus", lambda _: TwoCards())
    (tmp_path / "big").mkdir()
    (tmp_path / "big/config.json").write_text("{}")
    (tmp_path / "big/model.safetensors").touch()
    os.truncate(tmp_path / "big/model.safetensors", 3 * GiB)  # sparse
    big, elsewhere = Model("big", model_path=str(tmp_path / "big")), Model("elsewhere", model_path="o/a", gpus=("7",))
    async with supervised(tmp_path, big, elsewhere) as supervisor:
        for name, code in (("big", "model_too_large"), ("elsewhere", "gpu_missing")):
            assert (await lines(supervisor.switch(name)))[-1]["error"]["code"] == code
            status = supervisor.model_status(name)
            assert status["next"] == status["impossible"]
            assert f"model {name} {status['impossible']}" in caplog.messages
        assert "its weights alone need 2.8 GiB, and GPU 0 has 1.0 GiB" in supervisor.model_status("big")["next"]
        wanted.append(replace(supervisor.config, models=(replace(big, args=("--quantization", "fp8")),)))
        await supervisor.reload()
        assert supervisor.model_status("big")["impossible"] is None
