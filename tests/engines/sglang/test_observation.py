"""An SGLang that a launch script has started: what is asked of it, and what it is by its command line."""

import json
import os
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio

from muxd.config import Model
from muxd.config.command_lines import Command
from muxd.config.model_schema import Script
from muxd.engines.engine_client import EngineCallFailed, EngineClient, open_http
from muxd.engines.observed_server import ObservedServer
from muxd.engines.registry import engine_for
from muxd.engines.sglang.engine import SGLang
from muxd.http.server import serve_http
from tests.childworld import World, eventually

BOTH = ["kv_cache", "weights"]


def model(level=2, **script):
    return Model("legacy", script=Script(("/bin/bash", "/x/legacy.sh"), **script), served_names=("a",),
                 sleep_level=level)  # fmt: skip


class Server:
    """Notes what it is asked; `info` is what it tells of itself."""

    def __init__(self, info):
        self.info = info
        self.calls = []

    async def answer(self, request, exchange):
        key = (request.header(b"authorization") or b"").decode()
        self.calls.append((request.path, json.loads(request.body) if request.body else None, key))
        await exchange.send_json(200, self.info if request.path == "/model_info" else None)

    @asynccontextmanager
    async def running(self):
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        url = f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}"
        async with trio.open_nursery() as nursery, open_http() as http:
            await nursery.start(partial(serve_http, self.answer, listeners))
            yield EngineClient(http, url, "admin", lambda _: None, call_timeout=5.0, probe_timeout=5.0, api_key="api")
            nursery.cancel_scope.cancel()


async def test_what_was_discarded_is_read_again_from_where_the_server_says_that_it_was():
    server = Server({"model_path": "/weights/really"})
    async with server.running() as link:
        await engine_for(model()).wake(link, model(), BOTH)
    assert server.calls == [
        ("/model_info", None, "Bearer api"),
        ("/resume_memory_occupation", {"tags": ["weights"]}, "Bearer admin"),
        (
            "/update_weights_from_disk",
            {"model_path": "/weights/really", "load_format": "auto", "flush_cache": True},
            "Bearer admin",
        ),
        ("/resume_memory_occupation", {"tags": ["kv_cache"]}, "Bearer admin"),
        ("/continue_generation", {}, "Bearer admin"),
    ]


async def test_where_the_weights_are_may_be_asked_ahead_of_each_wake():
    server, engine = Server({"model_path": "/weights/really"}), engine_for(model())
    async with server.running() as link:
        await engine.prepare_wake(link, model(), BOTH)
        await engine.prepare_wake(link, model(1), BOTH)  # keeps them
        await engine.prepare_wake(link, model(), ["kv_cache"])
        assert [path for path, _, _ in server.calls] == ["/model_info"]
        await engine.wake(link, model(), BOTH)
        assert "/model_info" not in [path for path, _, _ in server.calls[1:]]


@pytest.mark.parametrize("is_woken", [True, False])
async def test_where_the_weights_were_in_a_former_sleep_is_not_where_they_are(is_woken):
    """It was given others while it was awake; or it ended asleep, and the next server was launched with others."""
    server, engine = Server({"model_path": "/weights/former"}), engine_for(model())
    async with server.running() as link:
        await engine.prepare_wake(link, model(), BOTH)
        if is_woken:
            await engine.wake(link, model(), BOTH)
        server.info = {"model_path": "/weights/others"}
        await engine.sleep(link, model(), 2, ["kv_cache"])
        server.calls.clear()
        await engine.wake(link, model(), BOTH)
    assert [path for path, _, _ in server.calls[:2]] == ["/model_info", "/resume_memory_occupation"]
    assert server.calls[2][1]["model_path"] == "/weights/others"


async def test_what_was_kept_in_host_memory_is_not_read_again():
    server = Server({})
    async with server.running() as link:
        await engine_for(model(1)).wake(link, model(1), BOTH)
    assert [path for path, _, _ in server.calls] == ["/resume_memory_occupation", "/continue_generation"]


@pytest.mark.parametrize("info", [None, {}, {"model_path": ""}, []])
async def test_a_server_that_does_not_say_is_not_woken(info):
    server = Server(info)
    async with server.running() as link:
        with pytest.raises(EngineCallFailed, match="no model_path"):
            await engine_for(model()).wake(link, model(), BOTH)
    assert [path for path, _, _ in server.calls] == ["/model_info"]


class Locked:
    """Asks for a key on every route but those of its health, as SGLang does."""

    def __init__(self, key):
        self.key = key

    async def answer(self, request, exchange):
        if request.path != "/ready" and request.header(b"authorization") != f"Bearer {self.key}".encode():
            await exchange.send_json(401, {"error": "Unauthorized"})
            return
        await exchange.send_json(200, {"loads": []})


def locked(key):
    server = Server(None)
    server.answer = Locked(key).answer
    return server.running()


@pytest.mark.parametrize(
    "words",
    [["python", "-m", "sglang.launch_server", "--api-key", "k1", "--port", "1"], ["sglang", "serve", "--api-key=k1"],
     ["x", "--admin-api-key=k1", "--api-key", "k1"], ["x", "--api-key", "k0", "--api-key=k1"]],
)  # fmt: skip
async def test_a_key_that_muxd_did_not_see_is_found_in_the_servers_own_words(words):
    engine = SGLang()
    async with locked("k1") as link:
        assert await engine.find_keys(link, [Command(1, 0, ["bash", "/x/a.sh"]), Command(2, 1, words)]) is None
        assert await engine.is_alive(link, model())
        await link.call("pause", "/pause_generation", {})


async def test_a_server_that_asks_for_a_key_that_nobody_knows_is_locked_and_alive():
    engine = SGLang()
    async with locked("k1") as link:
        assert await engine.is_ready(link)
        cause = await engine.find_keys(link, [Command(1, 0, ["bash", "/x/a.sh"]), Command(2, 1, ["--api-key"])])
        assert cause is not None
        assert cause.code == "engine_locked"
        assert await engine.is_alive(link, model())
        with pytest.raises(EngineCallFailed) as failed:
            await engine.sleep(link, model(), 2, [])
        assert failed.value.locked


@pytest.fixture
def world(tmp_path):
    world = World(tmp_path)
    yield world
    world.clean_up()


@pytest.mark.parametrize("around", ["{}; true", "setsid --wait {}; true", "( ( setsid {} & ) & ); {sleep}"])
async def test_what_a_server_below_a_shell_leaves_in_shared_memory_is_found(world, around):
    mine = Path(f"/dev/shm/sglang_loads_{world.sleep.split()[1]}")
    holds = f"import mmap, time; file = open('{mine}', 'wb+'); file.truncate(9); m = mmap.mmap(file.fileno(), 9); "
    server = f'python3 -c "{holds} print(1, flush=True); time.sleep(1000)"'
    child = world.spawn(world.sh(around.replace("{}", server).replace("{sleep}", world.sleep)))
    try:
        await eventually(lambda: world.stdout() == "1\n")
        assert mine in SGLang().leftovers(child.pids())
    finally:
        child.kill()
        await child.wait()
        os.unlink(mine)


SERVE = ["python3", "-m", "sglang.launch_server"]


class Told(Server):
    """Tells of itself what it is given, by path; of all else that it is not there."""

    async def answer(self, request, exchange):
        if request.path in self.info:
            await exchange.send_json(200, self.info[request.path])
        else:
            await exchange.send_json(404, {})


SERVER_INFO = {
    "model_path": "/w", "served_model_name": "w", "tp_size": 2, "dp_size": 1, "pp_size": 1, "base_gpu_id": 1,
    "enable_memory_saver": True, "enable_weights_cpu_backup": False, "is_embedding": True, "port": 30000,
}  # fmt: skip
NAMES = {"data": [{"id": "w"}]}


def process(*words, listens=True, **environ):
    return Command(7, 1, [*SERVE, *words], environ, listens)


async def seen(processes, **info):
    told = {f"/{path}": answer for path, answer in info.items()}
    async with Told({path.replace("__", "/"): answer for path, answer in told.items()}).running() as link:
        return await SGLang().observe(link, 31000, processes)


async def test_a_server_is_what_it_tells_of_itself_whatever_its_command_line_leaves_to_a_file():
    found = await seen(
        [process("--config", "x.yaml", CUDA_VISIBLE_DEVICES="4,5,6")], server_info=SERVER_INFO, v1__models=NAMES
    )
    assert found == ObservedServer(
        port=31000, model="/w", served="w", gpus=("5", "6"), sleep_level=2, is_embedding=True
    )


async def test_a_server_that_tells_nothing_is_what_its_command_line_says():
    words = ("--model-pa", "A/b", "--served-model", "x", "--tp", "2", "--enable-memory", "--enable-weights-cpu")
    found = await seen([process(*words)])
    assert found == ObservedServer(port=31000, model="A/b", served="x", gpus=("0", "1"), sleep_level=1)


async def test_a_model_is_called_as_its_command_line_does_wherever_its_files_are():
    found = await seen([process("--model", "A/b")], server_info=SERVER_INFO | {"model_path": "/root/.cache/A--b"})
    assert found.model == "A/b"


@pytest.mark.parametrize(
    ("words", "asks"),
    [
        (["--api-key", "k1"], True),
        (["--api-key=k1"], True),
        (["--admin-api-key", "k1"], False),
        (["--api-key="], False),
    ],
)
async def test_a_server_that_asks_clients_for_a_key_is_seen_to(words, asks):
    server = Command(1, 0, ["python", "-m", "sglang.launch_server", "--model-path", "m", *words], {}, listens=True)
    assert (await seen([server])).asks_key is asks


@pytest.mark.parametrize("name", ["a\0b\x1b[31mX", "x" * 200_000, "a\nb"])
async def test_what_can_be_no_name_is_not_taken_for_one(name):
    told = SERVER_INFO | {"model_path": name, "served_model_name": name}
    found = await seen([process("--config", "x.yaml")], server_info=told, v1__models={"data": [{"id": name}]})
    assert (found.model, found.served) == ("", "")
    found = await seen([process("--model", "\udc80", "--served-model-name", "\udc80")])
    assert (found.model, found.served) == ("", "")


async def test_a_server_of_more_gpus_than_a_host_has_has_none_that_can_be_told():
    found = await seen([process("--config", "x.yaml")], server_info=SERVER_INFO | {"tp_size": 9999, "pp_size": 9999})
    assert found.gpus == ()


async def test_what_answers_and_is_no_sglang_is_none():
    assert await seen([Command(7, 1, ["python3", "serve.py"], {}, True)]) is None
    assert await seen([Command(7, 1, ["python3", "serve.py"], {}, True)], server_info={"vllm_config": {}}) is None


async def test_a_server_below_a_program_that_nobody_knows_is_seen_by_what_it_tells():
    found = await seen([Command(7, 1, ["./serve"], {"CUDA_VISIBLE_DEVICES": "3,4"}, True)],
                       server_info=SERVER_INFO | {"base_gpu_id": 0})  # fmt: skip
    assert (found.model, found.gpus) == ("/w", ("3", "4"))


GPUS = {
    ("--tp", "2", "--dp-size", "4"): ("0", "1", "2", "3", "4", "5", "6", "7"),
    ("--tp", "2", "--pp-size", "2"): ("0", "1", "2", "3"),
    ("--tp", "4", "--dp", "4", "--enable-dp-attention"): ("0", "1", "2", "3"),
    ("--base-gpu-id", "2", "--tp", "2"): ("2", "3"),
    ("--tp", "8", "--nnodes", "2"): ("0", "1", "2", "3"),
    ("--tp", "auto"): (),
    (): ("0",),
}


@pytest.mark.parametrize(("words", "gpus"), GPUS.items())
async def test_gpus_are_those_that_its_flags_take_of_what_it_sees(words, gpus):
    assert (await seen([process(*words)])).gpus == gpus


ENVIRONMENTS = {"0, 3": ("0",), "3": ("3",), "": ("0",), "3,-1,2": ("3",), "one": (), "GPU-77": ()}


@pytest.mark.parametrize(("visible", "gpus"), ENVIRONMENTS.items())
async def test_gpus_that_cannot_be_told_are_none(visible, gpus):
    assert (await seen([process(CUDA_VISIBLE_DEVICES=visible)])).gpus == gpus
    assert (await seen([process(CUDA_VISIBLE_DEVICES=visible, CUDA_DEVICE_ORDER="FASTEST_FIRST")])).gpus in ((), ("0",))
    assert (await seen([process()._replace(environ=None)])).gpus == ()


CONTAINED = {
    ("docker", "run", "--gpus", '"device=5,6"'): ("5",),
    ("docker", "run", "--gpus", "all"): ("0",),
    ("docker", "run"): ("0",),
    ("docker", "run", "--gpus", "device=5,6", "-e", "CUDA_VISIBLE_DEVICES=1"): ("6",),
    ("podman", "run", "--device", "nvidia.com/gpu=4"): ("4",),
    ("docker", "run", "--runtime", "nvidia", "--env=NVIDIA_VISIBLE_DEVICES=2"): ("2",),
    ("docker", "run", "--env-file", "x"): (),
    ("docker", "run", "--device", "/dev/nvidia3"): (),
    ("docker", "exec", "it"): (),
    ("docker", "compose", "run"): (),
    ("srun",): (),
}


@pytest.mark.parametrize(("before", "gpus"), CONTAINED.items())
async def test_gpus_of_a_container_are_those_that_its_client_was_told(before, gpus):
    client = Command(7, 1, [*before, "image", *SERVE, "--model", "a"], {"CUDA_VISIBLE_DEVICES": "7"})
    assert (await seen([client], server_info=SERVER_INFO | {"tp_size": 1, "base_gpu_id": 0})).gpus == gpus


async def test_while_it_loads_it_is_what_its_command_line_says():
    found = await SGLang().observe(None, 0, [process("--port", "31007", CUDA_VISIBLE_DEVICES="1", listens=False)])
    assert (found.port, found.gpus) == (31007, ("1",))
