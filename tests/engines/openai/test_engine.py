"""What a server of the user's own command is started with, and the steps that put it to sleep and wake it."""

import json
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from muxd.config import Model
from muxd.config.engine_options import OpenAIOptions
from muxd.config.server_commands import HookStep
from muxd.engines.diagnosis import Evidence
from muxd.engines.engine import SERVER_PID, LaunchContext
from muxd.engines.engine_client import EngineCallFailed, EngineClient, HookFailed, open_http
from muxd.engines.openai.engine import OpenAIServer
from muxd.http.request import Request
from muxd.http.response_writer import ResponseWriter
from muxd.http.server import serve_http
from muxd.launchers.argv import ArgvLauncher

SLEEP = (HookStep("POST", "/sleep?x=1", {"level": 1}, {"x-admin-key": "k"}), HookStep(command=("freeze", "{pids}")))
WAKE = (HookStep(command=("thaw", "{pid}", "on={gpus}")), HookStep("GET", "/warm"))


def model(**options: Any) -> Model:
    options = {"command": ("serve", "{model_path}", "--port={port}", "{gpus}"), "sleep": SLEEP, "wake": WAKE, **options}
    return Model("a", engine="openai", model_path="/m/a.gguf", gpus=("0", "2"), engine_options=OpenAIOptions(**options))


def context(folder: Path) -> LaunchContext:
    return LaunchContext(4321, folder, folder / "tmp", "the-key", folder / "ledger", 0)


class Server:
    """Answers what it is told to, and notes what it is asked; beside it run commands that only are noted."""

    def __init__(self) -> None:
        self.did: list[str] = []
        self.headers: list[bytes | None] = []
        self.status: dict[str, int] = {}
        self.failing = ""  # the program that fails
        self.intents: list[str | None] = []

    async def answer(self, request: Request, exchange: ResponseWriter) -> None:
        body = f" {json.loads(request.body)}" if request.body else ""
        self.did.append(f"{request.method} {request.target.decode()}{body}")
        self.headers += [request.header(b"authorization"), request.header(b"x-admin-key")]
        await exchange.send_json(self.status.get(request.path, 200), {"why": "no"})

    def pids(self) -> list[int]:
        return [7, 8]

    def listener(self) -> int:
        return 8

    async def run(self, argv: Sequence[str]) -> None:
        self.did.append(" ".join(argv))
        if self.failing == argv[0] == "freeze":
            raise HookFailed("exited with status 3: no card")
        if self.failing == argv[0]:
            await trio.sleep_forever()

    @asynccontextmanager
    async def running(self, call_timeout: float = 5.0) -> AsyncIterator[EngineClient]:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        url = f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}"
        async with trio.open_nursery() as nursery, open_http() as http:
            await nursery.start(partial(serve_http, self.answer, listeners))
            yield EngineClient(
                http, url, "", self.intents.append, call_timeout=call_timeout, probe_timeout=5.0, tree=self
            )
            nursery.cancel_scope.cancel()


def started(tmp_path: Path, **options: Any) -> OpenAIServer:
    engine = OpenAIServer()
    engine.command(model(**options), context(tmp_path))
    return engine


def test_it_is_started_by_its_own_command_without_any_key_of_muxds(tmp_path):
    launch = ArgvLauncher().launch(
        model(stop_command=("docker", "rm", "muxd-{model}", "{pid}"), stop_signal="SIGQUIT"),
        OpenAIServer(),
        context(tmp_path),
    )
    assert launch.argv == ("serve", "/m/a.gguf", "--port=4321", "0,2")
    assert launch.stop_command == ("docker", "rm", "muxd-a", SERVER_PID), "the shim fills the pid in"
    assert launch.stop_signal == signal.SIGQUIT
    assert launch.keys is not None
    assert (launch.keys.admin, launch.keys.api, launch.files) == ("", "", {})
    assert launch.env["CUDA_VISIBLE_DEVICES"] == "0,2"


@pytest.mark.parametrize(
    ("stop", "elsewhere"), [((), False), (("docker", "stop", "a"), True), (("kill", "-USR1", "{pid}"), False)]
)
def test_a_server_that_is_not_ended_by_its_process_may_be_elsewhere(tmp_path, stop, elsewhere):
    assert started(tmp_path, stop_command=stop).runs_elsewhere is elsewhere


@pytest.mark.parametrize(("status", "is_up"), [(200, True), (202, True), (301, False), (404, False), (503, False)])
async def test_it_is_ready_and_lives_by_a_2xx_at_its_own_paths(tmp_path, status, is_up):
    server = Server()
    engine = started(tmp_path, ready_path="/up?x=1", health_path="/alive")
    async with server.running() as link:
        server.status = {"/up": status, "/alive": 200}
        assert await engine.is_ready(link) is is_up
        server.status = {"/up": 200, "/alive": status}
        assert await engine.is_alive(link, model(health_path="/alive")) is is_up
        assert await engine.is_alive(link, model(ready_path="/up")), "without a health_path the other one counts"
    assert server.did == ["GET /up?x=1", "GET /alive", "GET /up"]


async def test_it_sleeps_and_wakes_by_its_steps_each_written_ahead(tmp_path):
    server, engine = Server(), started(tmp_path)
    async with server.running() as link:
        released = await engine.sleep(link, model(), 1, [])
        assert server.did == ["POST /sleep?x=1 {'level': 1}", "freeze 7 8"]
        assert server.headers == [None, b"k"]
        assert server.intents == ["sleep step 1 of 2", None, "sleep step 2 of 2", None]
        assert engine.is_silent, "nobody knows what it answers in its sleep"
        await engine.wake(link, model(), released)
        assert not engine.is_silent
        assert server.did[2:] == ["thaw 8 on=0,2", "GET /warm"]


async def test_a_new_process_of_a_model_that_slept_is_awake(tmp_path):
    server, engine = Server(), started(tmp_path)
    async with server.running() as link:
        await engine.sleep(link, model(), 1, [])
        engine.command(model(), context(tmp_path))
        assert not engine.is_silent


@pytest.mark.parametrize(
    ("status", "failing", "reason", "left"),
    [
        ({"/sleep": 500}, "", 'sleep step 1 of 2: POST /sleep?x=1: 500 {"why":"no"}', "sleep step 1 of 2"),
        ({}, "freeze", "sleep step 2 of 2: freeze exited with status 3: no card", "sleep step 2 of 2"),
    ],
)
async def test_a_step_that_fails_is_told_and_stays_in_doubt(tmp_path, status, failing, reason, left):
    server, engine = Server(), started(tmp_path)
    server.status, server.failing = status, failing
    async with server.running() as link:
        with pytest.raises(EngineCallFailed) as caught:
            await engine.sleep(link, model(), 1, [])
        assert caught.value.message.replace(" ", "") == reason.replace(" ", "")
        assert server.intents[-1] == left
        assert not engine.is_silent, "it counts as awake"


async def test_a_command_that_does_not_end_has_call_timeout(tmp_path):
    server, engine = Server(), started(tmp_path)
    server.failing = "thaw"
    async with server.running(call_timeout=0.01) as link:
        with pytest.raises(EngineCallFailed, match=r"wake step 1 of 2: thaw did not end in 0\.01 s"):
            await engine.wake(link, model(), [])


def test_why_it_ended_is_told_by_its_log_where_any_server_would_say_so():
    engine = OpenAIServer()
    said = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.\n"
    found = engine.diagnose(Evidence(said, status=1), model())
    assert found is not None
    assert (found.code, "by its command" in found.remedy) == ("out_of_memory", True)
    assert engine.diagnose(Evidence("loading\n", status=1), model()) is None
    assert engine.diagnose(Evidence(said, is_alive=True), model()) is None


@pytest.mark.parametrize(
    ("routes", "asked"),
    [
        ((), "/v1/completions"),
        (("/v1/completions", "/v1/embeddings"), "/v1/completions"),
        (("/v1/embeddings",), "/v1/embeddings"),
        (("/v1/chat/completions",), None),
    ],
)
async def test_the_wake_proof_is_asked_on_a_route_that_it_answers(tmp_path, routes, asked):
    server, engine = Server(), started(tmp_path)
    proved = replace(model(routes=routes), upstream_name="phi")
    async with server.running() as link:
        if asked is None:
            assert await engine.proof(link, proved) is None
        else:
            with pytest.raises(EngineCallFailed):
                await engine.proof(link, proved)
            assert server.did[0].startswith(f"POST {asked} {{'model': 'phi', ")
