"""The order of the calls that put SGLang to sleep, seen by a server that answers as the test says."""

import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from functools import partial

import pytest
import trio

from muxd.config import Model
from muxd.engines.engine_client import EngineCallFailed, EngineClient, open_http
from muxd.engines.registry import engine_for, kind_of
from muxd.engines.sglang import engine as sglang_module
from muxd.engines.sglang.engine import LONGEST_PAGE, server_flags
from muxd.errors import MuxdError
from muxd.http.request import Request
from muxd.http.response_writer import ClientGone, ResponseWriter
from muxd.http.server import Handler, serve_http

MODEL = Model("qwen", model_path="Qwen/Qwen3-14B", served_names=("qwen",), sleep_level=2)
BOTH = ["kv_cache", "weights"]


class Server:
    """Answers 200 to every call; `busy` is how many times its load figures show a running request."""

    def __init__(self, busy: int = 0, stale: bool = False, set_back: bool = False) -> None:
        self.busy = busy
        self.stale = stale
        self.set_back = set_back  # its clock, from one answer to the next
        self.calls: list[tuple[str, object]] = []
        self.keys: set[str | None] = set()

    async def answer(self, request: Request, exchange: ResponseWriter) -> None:
        if request.path == "/v1/loads":
            stamp = 1e9 if self.stale else time.time()
            stamp -= 1000 * len(self.calls) if self.set_back else 0
            running, self.busy = (1, self.busy - 1) if self.busy else (0, 0)
            load = {"timestamp": stamp, "num_running_reqs": running, "num_waiting_reqs": 0}
            self.calls.append(("loads", running))
            await exchange.send_json(200, {"loads": [load]})
            return
        key = request.header(b"authorization")
        self.keys.add(key.decode() if key else None)
        self.calls.append((request.path, json.loads(request.body)))
        await exchange.send_json(200, None)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[tuple[EngineClient, list[str | None]]]:
        intents: list[str | None] = []
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        port = listeners[0].socket.getsockname()[1]
        async with trio.open_nursery() as nursery, open_http() as http:
            await nursery.start(partial(serve_http, self.answer, listeners))
            yield (
                EngineClient(
                    http, f"http://127.0.0.1:{port}", "key", intents.append, call_timeout=5.0, probe_timeout=5.0
                ),
                intents,
            )
            nursery.cancel_scope.cancel()


async def test_a_sleep_pauses_then_waits_until_nothing_runs_then_releases():
    server = Server(busy=3)
    async with server.running() as (link, intents):
        await engine_for(MODEL).sleep(link, MODEL, 2, [])
    tags = {"tags": ["kv_cache", "weights"]}
    assert server.calls == [
        ("loads", 1),
        ("/pause_generation", {"mode": "abort"}),
        ("loads", 1),
        ("loads", 1),
        ("loads", 0),
        ("/release_memory_occupation", tags),
    ]
    assert intents == ["pause", None, "release", None]
    assert server.keys == {"Bearer key"}


async def test_figures_that_the_pause_has_outwaited_are_not_those_from_before_it(monkeypatch):
    """A rank may have stamped others meanwhile, and begun a prefill since, which these do not show."""
    server, waits = Server(), [0.1]
    monkeypatch.setattr(sglang_module, "STALE", 0.01)

    async def until_recorded() -> None:
        await trio.sleep(waits.pop() if waits else 0)

    async with server.running() as (link, _):
        link.recorded = until_recorded
        await engine_for(MODEL).sleep(link, MODEL, 2, [])
    paused = ("/pause_generation", {"mode": "abort"})
    assert server.calls[:4] == [("loads", 0), ("loads", 0), paused, ("loads", 0)]


async def test_a_sleeper_that_goes_deeper_releases_only_what_it_still_has():
    model, server = replace(MODEL, sleep_level=0), Server()
    engine = engine_for(model)
    async with server.running() as (link, _):
        released = await engine.sleep(link, model, 0, [])
        assert released == ["kv_cache"]
        assert await engine.sleep(link, model, 2, released) == BOTH
    releases = [body for path, body in server.calls if path == "/release_memory_occupation"]
    assert releases == [{"tags": ["kv_cache"]}, {"tags": ["weights"]}]
    assert [path for path, _ in server.calls].count("/pause_generation") == 1


@pytest.mark.parametrize(("level", "levels"), [(0, {0, 2, 3}), (1, {0, 1, 3}), (2, {0, 2, 3}), (3, {3})])
def test_the_launch_settles_at_which_levels_a_server_can_sleep(level, levels):
    model = replace(MODEL, sleep_level=level)
    assert kind_of(model).levels(model) == levels
    flags = server_flags(model, 1)
    assert ("--enable-memory-saver" in flags, "--enable-weights-cpu-backup" in flags) == (level < 3, level == 1)


@pytest.mark.parametrize("level", [0, 1, 2])
async def test_a_wake_from_level_0_brings_back_the_kv_cache_alone(level):
    model, server = replace(MODEL, sleep_level=level), Server()
    async with server.running() as (link, _):
        await engine_for(model).wake(link, model, ["kv_cache"])
    assert server.calls == [("/resume_memory_occupation", {"tags": ["kv_cache"]}), ("/continue_generation", {})]


@pytest.mark.parametrize("server", [Server(busy=10**6), Server(stale=True)], ids=["busy", "stale figures"])
async def test_what_is_not_seen_idle_is_never_released(server, monkeypatch):
    monkeypatch.setattr(sglang_module, "IDLE_TIMEOUT", 0.3)
    async with server.running() as (link, _):
        with pytest.raises(EngineCallFailed, match="not seen idle"):
            await engine_for(MODEL).sleep(link, MODEL, 2, [])
    assert "/release_memory_occupation" not in [path for path, _ in server.calls]


async def test_a_clock_that_is_set_back_meanwhile_keeps_nobody_from_sleep(monkeypatch):
    monkeypatch.setattr(sglang_module, "IDLE_TIMEOUT", 5.0)
    server = Server(set_back=True)
    async with server.running() as (link, _):
        await engine_for(MODEL).sleep(link, MODEL, 2, [])
    assert server.calls[-1][0] == "/release_memory_occupation"


@pytest.mark.parametrize(("level", "reloads"), [(0, True), (1, False), (2, True)])
async def test_a_wake_reloads_what_was_discarded_before_there_is_a_kv_cache_and_only_then_continues(level, reloads):
    model = Model("qwen", model_path="Qwen/Qwen3-14B", served_names=("qwen",), sleep_level=level)
    server = Server()
    async with server.running() as (link, _):
        await engine_for(model).wake(link, model, BOTH)
    reload = ("/update_weights_from_disk", {"model_path": model.model_path, "load_format": "auto", "flush_cache": True})
    staged = [("/resume_memory_occupation", {"tags": ["weights"]}), reload]
    assert server.calls == [
        *(staged if reloads else []),
        ("/resume_memory_occupation", {"tags": ["kv_cache"] if reloads else ["kv_cache", "weights"]}),
        ("/continue_generation", {}),
    ]


# Its metrics


@asynccontextmanager
async def telling(answer: Handler) -> AsyncIterator[EngineClient]:
    server = Server()
    server.answer = answer  # type: ignore[method-assign]
    async with server.running() as (link, _):
        with trio.fail_after(15):
            yield link


async def test_metrics_are_handed_on_as_they_are():
    async def answer(request: Request, exchange: ResponseWriter) -> None:
        assert (request.method, request.path) == ("GET", "/metrics")
        assert request.header(b"accept-encoding") == b"identity"
        await exchange.send_body("text/plain", b"\xff" * LONGEST_PAGE)

    async with telling(answer) as link:
        assert await engine_for(MODEL).metrics(link) == b"\xff" * LONGEST_PAGE


async def test_an_engine_that_was_not_told_to_count_has_no_metrics():
    async def answer(request: Request, exchange: ResponseWriter) -> None:
        await exchange.send_json(404, {"detail": "Not Found"})

    async with telling(answer) as link:
        assert await engine_for(MODEL).metrics(link) is None


async def test_a_page_without_an_end_is_refused():
    async def answer(request: Request, exchange: ResponseWriter) -> None:
        await exchange.start_stream("text/plain")
        with suppress(ClientGone):
            while True:
                await exchange.write(b"x 1\n" * 10_000)

    async with telling(answer) as link:
        with pytest.raises(EngineCallFailed, match=f"longer than {LONGEST_PAGE} bytes"):
            await engine_for(MODEL).metrics(link)


async def test_a_page_that_is_cut_short_is_none():
    async def answer(request: Request, exchange: ResponseWriter) -> None:
        await exchange.start_stream("text/plain")
        await exchange.write(b"x 1\n")
        raise MuxdError("cut")

    async with telling(answer) as link:
        with pytest.raises(EngineCallFailed, match="GET /metrics"):
            await engine_for(MODEL).metrics(link)


async def test_an_error_is_no_page():
    async def answer(request: Request, exchange: ResponseWriter) -> None:
        await exchange.send_json(500, "x 1")

    async with telling(answer) as link:
        with pytest.raises(EngineCallFailed, match="GET /metrics: 500"):
            await engine_for(MODEL).metrics(link)


async def test_where_nobody_listens_there_is_no_page():
    async with open_http() as http:
        dead = EngineClient(http, "http://127.0.0.1:1", "", print, call_timeout=1.0, probe_timeout=1.0)
        with pytest.raises(EngineCallFailed, match="GET /metrics: connection refused"):
            await engine_for(MODEL).metrics(dead)
