"""SGLang as a launch script starts it: what the script is given, and what is asked of its server."""

import json
import os
from contextlib import asynccontextmanager
from functools import partial
from hashlib import sha256
from pathlib import Path

import pytest
import trio

from muxd.config import Model
from muxd.config.schema import Script
from muxd.engines import EngineCallFailed, LaunchPlan, Link, engine_for, open_http
from muxd.engines.script import LaunchedByScript, changed
from muxd.http.server import serve_http
from tests.childworld import World, eventually

PLAN = LaunchPlan(31001, Path("/w"), Path("/w/tmp"), "muxds-own", Path("/ledger"), 0)


def model(level=2, **script):
    return Model("legacy", script=Script(("/bin/bash", "/x/legacy.sh"), **script), served_names=("a",),
                 sleep_level=level)  # fmt: skip


def test_a_script_gets_environment_and_nothing_else():
    launch = engine_for(model(env={"PORT": "31001"})).launch(model(env={"PORT": "31001"}), PLAN)
    assert launch.argv == ("/bin/bash", "/x/legacy.sh")
    assert launch.files == {}
    assert "muxds-own" not in str(launch)
    assert launch.env["PORT"] == "31001"
    assert launch.env["TMPDIR"] == "/w/tmp"
    assert "CUDA_VISIBLE_DEVICES" not in launch.env
    assert launch.env["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID", "GPUs are counted as muxd counts them"


def test_a_script_or_what_it_reads_in_is_seen_to_be_another(tmp_path):
    path, other = tmp_path / "a.sh", tmp_path / "env"
    digests = {}
    for file in (path, other):
        file.write_text("x")
        digests[str(file)] = sha256(b"x").hexdigest()
    script = Script(("bash", str(path)), digests)
    assert changed(script) == ""
    other.write_text("y")
    assert changed(script) == str(other)
    other.unlink()
    assert changed(script) == "", "bash says what is not there"


@pytest.mark.parametrize(
    ("keys", "control", "others"),
    [({}, "", ""), ({"api_key": "k"}, "k", "k"), ({"admin_key": "a"}, "a", ""),
     ({"admin_key": "a", "api_key": "k"}, "a", "k")],
)  # fmt: skip
def test_calls_bring_the_keys_that_the_script_gave_its_server(keys, control, others):
    found = LaunchedByScript().launch(model(**keys), PLAN).keys
    assert (found.admin, found.api) == (control, others)


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
            yield Link(http, url, "admin", lambda _: None, call_timeout=5.0, probe_timeout=5.0, api_key="api")
            nursery.cancel_scope.cancel()


async def test_what_was_discarded_is_read_again_from_where_the_server_says_that_it_was():
    server = Server({"model_path": "/weights/really"})
    async with server.running() as link:
        await engine_for(model()).wake(link, model())
    assert server.calls == [
        ("/model_info", None, "Bearer api"),
        ("/resume_memory_occupation", {"tags": ["kv_cache", "weights"]}, "Bearer admin"),
        (
            "/update_weights_from_disk",
            {"model_path": "/weights/really", "load_format": "auto", "flush_cache": True},
            "Bearer admin",
        ),
        ("/continue_generation", {}, "Bearer admin"),
    ]


async def test_what_was_kept_in_host_memory_is_not_read_again():
    server = Server({})
    async with server.running() as link:
        await engine_for(model(1)).wake(link, model(1))
    assert [path for path, _, _ in server.calls] == ["/resume_memory_occupation", "/continue_generation"]


@pytest.mark.parametrize("info", [None, {}, {"model_path": ""}, []])
async def test_a_server_that_does_not_say_is_not_woken(info):
    server = Server(info)
    async with server.running() as link:
        with pytest.raises(EngineCallFailed, match="no model_path"):
            await engine_for(model()).wake(link, model())
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
     ["x", "--admin-api-key=k1", "--api-key", "k1"]],
)  # fmt: skip
async def test_a_key_that_muxd_did_not_see_is_found_in_the_servers_own_words(words):
    engine = LaunchedByScript()
    async with locked("k1") as link:
        assert await engine.unlock(link, [["bash", "/x/a.sh"], words]) is None
        assert await engine.is_alive(link, model())
        await link.call("pause", "/pause_generation", {})


async def test_a_server_that_asks_for_a_key_that_nobody_knows_is_locked_and_alive():
    engine = LaunchedByScript()
    async with locked("k1") as link:
        assert await engine.is_ready(link)
        cause = await engine.unlock(link, [["bash", "/x/a.sh"], ["--api-key"]])
        assert cause is not None
        assert cause.code == "engine_locked"
        assert await engine.is_alive(link, model())
        with pytest.raises(EngineCallFailed) as failed:
            await engine.sleep(link, model())
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
        assert mine in LaunchedByScript().leftovers(child.pid)
    finally:
        child.kill()
        await child.wait()
        os.unlink(mine)
