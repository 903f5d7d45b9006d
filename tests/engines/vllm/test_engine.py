"""What vLLM is started with, and the order of the calls that put it to sleep and wake it."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from muxd.config import Daemon, Model
from muxd.config.engine_options import VLLMOptions
from muxd.config.model_schema import Memory
from muxd.engines.engine import LaunchContext
from muxd.engines.engine_client import EngineCallFailed, EngineClient, open_http
from muxd.engines.vllm import engine as engine_module
from muxd.engines.vllm import guard
from muxd.engines.vllm.engine import DISCARDED, KV_CACHE, OFFLOADED, VLLM
from muxd.engines.vllm.installation import NO_ERROR_STACK, RELEASE_HOST_MEMORY, SHUTDOWN_TIMEOUT
from muxd.engines.vllm.key_checks import findings
from muxd.engines.vllm.kind import VLLM_KIND
from muxd.http.request import Request
from muxd.http.response_writer import ResponseWriter
from muxd.http.server import serve_http
from muxd.launchers.launcher import launcher_for

GiB = 1 << 30
DAEMON = Daemon(Path("/s"), Path("/state"), Path("/logs"))


def model(**keys: Any) -> Model:
    keys = {"model_path": "/models/a", "served_names": ("a",), "gpus": ("0",), "sleep_level": 1, **keys}
    return Model("qwen", engine="vllm", engine_options=VLLMOptions(python="/opt/vllm/bin/python"), **keys)


def context(folder: Path, gpu_size: int = 0) -> LaunchContext:
    return LaunchContext(4321, folder, folder / "tmp", "the-key", DAEMON, gpu_size=gpu_size)


def command(tmp_path: Path, gpu_size: int = 0, **keys: Any) -> list[str]:
    return list(VLLM().command(model(**keys), context(tmp_path, gpu_size)).argv)


class Server:
    """Answers 200 to every call; asleep until a wake of everything."""

    def __init__(self, *, wakes: bool = True) -> None:
        self.calls: list[str] = []
        self._wakes = wakes

    async def answer(self, request: Request, exchange: ResponseWriter) -> None:
        if request.path == "/is_sleeping":
            await exchange.send_json(200, {"is_sleeping": not self._wakes})
            return
        body = json.loads(request.body)
        self.calls.append(request.target.decode() + (f" {body}" if body else ""))
        await exchange.send_json(200, {})

    @asynccontextmanager
    async def running(self) -> AsyncIterator[EngineClient]:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        url = f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}"
        async with trio.open_nursery() as nursery, open_http() as http:
            await nursery.start(partial(serve_http, self.answer, listeners))
            yield EngineClient(http, url, "key", lambda _: None, call_timeout=5.0, probe_timeout=5.0)
            nursery.cancel_scope.cancel()


class Telling:
    """Answers as its pages say: a status, or JSON with 200."""

    def __init__(self, pages: dict[str, Any]) -> None:
        self._pages = pages

    async def answer(self, request: Request, exchange: ResponseWriter) -> None:
        page = self._pages.get(request.path, 404)
        await (exchange.send_json(page, {}) if isinstance(page, int) else exchange.send_json(200, page))


def telling(pages: dict[str, Any]) -> Server:
    server = Server()
    server.answer = Telling(pages).answer  # type: ignore[method-assign]
    return server


@pytest.mark.parametrize(
    ("pages", "said"),
    [
        ({"/v1/completions": 405}, True),
        ({"/pooling": 405, "/v1/embeddings": 405}, False),
        ({"/pooling": 405, "/v1/completions": 405}, None),
        ({"/v1/audio/transcriptions": 405}, None),
        ({"/v1/completions": 401, "/pooling": 401}, None),
    ],
)
async def test_what_a_server_makes_is_told_by_its_routes(pages, said):
    async with telling(pages).running() as link:
        assert await VLLM().is_generation(link) is said


async def test_a_server_that_was_seen_to_make_vectors_is_asked_for_one_after_a_wake():
    engine = VLLM()
    async with telling({"/pooling": 405, "/v1/embeddings": {"data": [{"embedding": [0.5, 0.25]}]}}).running() as link:
        await engine.is_generation(link)
        proof = await engine.proof(link, model())
    assert proof is not None
    assert proof.vector == (0.5, 0.25)


@pytest.mark.parametrize(
    ("version", "level", "is_fit"),
    [
        ("0.15.1", 1, False),
        ("0.16.0", 2, False),
        ("0.14.0", 0, False),
        ("0.15.1", 3, True),
        ("0.32.0", 1, True),
        (5, 2, True),
    ],
)
async def test_a_version_whose_sleep_is_broken_is_refused_with_the_way_out(version, level, is_fit):
    async with telling({"/version": {"version": version}}).running() as link:
        cause = await VLLM().unfitness(link, model(sleep_level=level))
    assert (cause is None) is is_fit
    if cause is not None:
        assert (cause.code, cause.refused) == ("engine_too_old", True)
        assert str(version) in cause.message
        assert "sleep_level = 3" in cause.remedy


async def test_a_server_that_tells_no_version_is_believed():
    async with telling({}).running() as link:
        assert await VLLM().unfitness(link, model()) is None


async def alive_at(monkeypatch: pytest.MonkeyPatch, pages: dict[str, Any], *times: float) -> list[bool]:
    """Return what the probe says at these times, of a model whose hang_timeout is 10 s."""
    engine, found = VLLM(), []
    probed = Model("qwen", engine="vllm", engine_options=VLLMOptions(hang_timeout=10.0))
    async with telling(pages).running() as link:
        for now in times:
            monkeypatch.setattr(engine_module.trio, "current_time", lambda now=now: now)
            found.append(await engine.is_alive(link, probed))
            monkeypatch.undo()
    return found


async def test_a_server_lives_as_long_as_its_engine_core_answers_asleep_too(monkeypatch):
    for asleep in (True, False):
        pages = {"/health": 200, "/is_sleeping": {"is_sleeping": asleep}}
        assert await alive_at(monkeypatch, pages, 0.0, 100.0) == [True, True]
    assert await alive_at(monkeypatch, {"/health": 200, "/is_sleeping": 500}, 0.0, 9.0, 11.0) == [True, True, False]
    assert await alive_at(monkeypatch, {"/health": 503, "/is_sleeping": {"is_sleeping": False}}, 0.0) == [False]
    assert await alive_at(monkeypatch, {"/health": 200, "/is_sleeping": 401}, 0.0, 11.0) == [True, True]


async def test_a_server_is_ready_once_its_health_says_so():
    for status in (200, 503):
        async with telling({"/health": status}).running() as link:
            assert await VLLM().is_ready(link) is (status == 200)


@pytest.mark.parametrize(
    ("page", "said"),
    [
        ('vllm:num_requests_running{engine="0"} 0.0\nvllm:num_requests_waiting{engine="0"} 0.0\n', True),
        ('vllm:num_requests_running{engine="0"} 0.0\nvllm:num_requests_waiting{engine="0"} 2.0\n', False),
        ('vllm:num_requests_running{engine="0"} 0.0\nvllm:num_requests_running{engine="1"} 1.0\n', False),
        ("vllm:kv_cache_usage_perc 0.0\n", None),
    ],
)
async def test_whether_it_runs_anything_is_told_by_its_metrics(page, said):
    class Link:
        async def page(self, path: str, most: int) -> bytes:
            assert path == "/metrics"
            return page.encode()

    assert await VLLM().is_idle(Link()) is said  # type: ignore[arg-type]


async def test_a_sleep_lets_what_runs_end_and_says_what_it_released():
    for level, calls, released in (
        (0, ["/sleep?level=0&mode=wait", "/release_kv_cache_memory"], [KV_CACHE]),
        (1, ["/sleep?level=1&mode=wait"], [KV_CACHE, OFFLOADED]),
        (2, ["/sleep?level=2&mode=wait"], [KV_CACHE, DISCARDED]),
    ):
        server = Server()
        async with server.running() as link:
            assert await VLLM().sleep(link, model(), level, []) == released
        assert server.calls == calls


async def test_weights_that_were_discarded_are_read_again_before_there_is_a_cache():
    server = Server()
    async with server.running() as link:
        await VLLM().wake(link, model(), [KV_CACHE, DISCARDED])
    assert server.calls == [
        "/wake_up?tags=weights",
        "/collective_rpc {'method': 'reload_weights'}",
        "/wake_up?tags=kv_cache",
        "/reset_prefix_cache",
    ]


@pytest.mark.parametrize(
    ("released", "calls"), [([KV_CACHE], ["/wake_up?tags=kv_cache"]), ([KV_CACHE, OFFLOADED], ["/wake_up"])]
)
async def test_what_was_kept_is_only_woken(released, calls):
    server = Server()
    async with server.running() as link:
        await VLLM().wake(link, model(), released)
    assert server.calls == calls


async def test_a_wake_that_did_nothing_is_a_failure():
    async with Server(wakes=False).running() as link:
        with pytest.raises(EngineCallFailed, match="still sleeps"):
            await VLLM().wake(link, model(), [KV_CACHE])


async def test_a_second_sleep_that_vllm_would_take_for_the_first_is_not_asked_for():
    server = Server()
    async with server.running() as link:
        with pytest.raises(EngineCallFailed):
            await VLLM().sleep(link, model(), 2, [KV_CACHE, OFFLOADED])
        assert await VLLM().sleep(link, model(), 2, [KV_CACHE]) == [KV_CACHE, DISCARDED]
    assert server.calls == ["/sleep?level=2&mode=wait"]


def test_its_command_line_has_the_guard_and_the_flags_that_muxd_owns(tmp_path):
    spec = launcher_for(model()).launch(model(args=("--dtype", "half")), VLLM(), context(tmp_path))
    text = " ".join(spec.argv)
    assert text.startswith("/opt/vllm/bin/python -m vllm.entrypoints.openai.api_server --model /models/a ")
    for flags in ("--host 127.0.0.1 --port 4321", "--middleware muxd_guard.RequireAdminKey", "--enable-sleep-mode"):
        assert flags in text
    assert "--served-model-name a qwen --" in text, "every name by which a client may ask for it"
    assert text.endswith("--dtype half")
    assert "the-key" not in text
    assert spec.modules == tmp_path
    assert spec.files[tmp_path / guard.KEY_FILE] == "the-key"


def test_a_model_that_never_sleeps_is_started_without_sleep_mode(tmp_path):
    assert "--enable-sleep-mode" not in command(tmp_path, sleep_level=3)


def test_all_its_gpus_are_used_unless_args_say_how(tmp_path):
    assert command(tmp_path, gpus=("0", "1"))[-2:] == ["--tensor-parallel-size", "2"]
    assert command(tmp_path, gpus=("0", "1"), args=("-dp", "2"))[-2:] == ["-dp", "2"]
    assert "--tensor-parallel-size" not in command(tmp_path, gpus=("0", "1"), args=("-dp", "2"))


def options(**keys: Any) -> VLLMOptions:
    return VLLMOptions(python="/opt/vllm/bin/python", **keys)


def test_its_keys_are_flags_before_its_args(tmp_path):
    keys = options(tensor_parallel_size=1, dtype="half", max_model_len=8192, gpu_memory_utilization=0.5)
    said = replace(model(gpus=("0", "1"), args=("--seed", "1")), engine_options=keys)
    words = list(VLLM().command(said, context(tmp_path)).argv)
    told = ["--tensor-parallel-size", "1", "--dtype", "half", "--max-model-len", "8192"]
    assert words[-10:] == [*told, "--gpu-memory-utilization", "0.5", "--seed", "1"]
    assert words.count("--tensor-parallel-size") == 1


def test_its_keys_say_what_its_flags_would():
    said = replace(model(memory=Memory(weights=GiB, kv=GiB)), engine_options=options(max_model_len=8192))
    assert (VLLM_KIND.context_length(said), VLLM_KIND.granted(said)) == (8192, 2 * GiB)
    share = replace(said, engine_options=options(gpu_memory_utilization=0.5))
    assert (VLLM_KIND.granted(share), VLLM_KIND.demanded(share, 80)) == (0, ("--gpu-memory-utilization", 40))


def test_what_a_key_says_is_not_said_again():
    twice = replace(model(args=("--dtype=half",)), engine_options=options(dtype="auto"))
    ((key, why),) = findings(twice, None)
    assert (key, why) == (("args",), "--dtype is said by the key dtype already; leave one of them out")


def test_its_cache_is_as_large_as_its_grant(tmp_path):
    memory = Memory(weights=10 * GiB, kv=8 * GiB, overhead=GiB)
    words = command(tmp_path, gpus=("0", "1"), memory=memory)
    assert words[words.index("--kv-cache-memory-bytes") + 1] == str(4 * GiB)
    assert "--kv-cache-memory-bytes" not in command(tmp_path, memory=memory, args=("--gpu-memory-utilization", "0.5"))


@pytest.mark.parametrize(
    ("gpu_size", "share"), [(80 * GiB, "0.1125"), (5 * GiB, "1.0000"), (9 * GiB * 20_000, "0.0001")]
)
def test_its_own_check_of_free_memory_is_for_its_grant_and_not_for_the_whole_gpu(tmp_path, gpu_size, share):
    memory = Memory(weights=10 * GiB, kv=8 * GiB, overhead=4 * GiB)
    words = command(tmp_path, gpu_size, gpus=("0", "1"), memory=memory)
    assert words[words.index("--gpu-memory-utilization") + 1] == share
    assert "--gpu-memory-utilization" not in command(tmp_path, gpu_size)


@pytest.mark.parametrize("level", [1, 2])
@pytest.mark.parametrize("lacks", [frozenset(), frozenset({SHUTDOWN_TIMEOUT, RELEASE_HOST_MEMORY, NO_ERROR_STACK})])
def test_what_its_vllm_lacks_is_not_asked_of_it(tmp_path, monkeypatch, level, lacks):
    monkeypatch.setattr(engine_module, "lacking_for", lambda model: lacks)
    spec = VLLM().command(model(sleep_level=level), context(tmp_path))
    assert ("--shutdown-timeout" in spec.argv) is ("--no-log-error-stack" in spec.argv) is (not lacks)
    assert (spec.env == {RELEASE_HOST_MEMORY: "1"}) is (level == 1 and not lacks)


async def asked(guarded: guard.RequireAdminKey, path: str, key: str = "") -> int:
    """Ask the guard as an ASGI server does; return the status."""
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        raise AssertionError

    headers = [(b"authorization", key.encode())] if key else []
    await guarded({"type": "http", "path": path, "headers": headers}, receive, send)
    return int(sent[0]["status"])


async def test_the_guard_lets_clients_in_and_keeps_control_routes_to_who_has_the_key(tmp_path, monkeypatch):
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200})

    (tmp_path / guard.KEY_FILE).write_text("the-key\n")
    monkeypatch.setattr(guard, "__file__", str(tmp_path / "muxd_guard.py"))
    guarded = guard.RequireAdminKey(app)
    for path in ("/v1/chat/completions", "/health", "/metrics", "/is_sleeping", "/pooling"):
        assert await asked(guarded, path) == 200
    for path in ("/sleep", "/wake_up", "/collective_rpc", "/reset_prefix_cache", "/server_info", "/docs", "/healthy"):
        assert await asked(guarded, path) == 401
        assert await asked(guarded, path, "Bearer no") == 401
        assert await asked(guarded, path, "Bearer the-key") == 200
