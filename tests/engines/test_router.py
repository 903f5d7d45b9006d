"""The stand-in router, told of its workers as muxd tells it: both sides of the worker API against each other."""

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
import trio.testing

from muxd.config import Daemon, Model
from muxd.config.command_lines import Command
from muxd.config.engine_options import RemoteOptions
from muxd.config.half_options import HalfOptions
from muxd.config.router_options import RouterOptions
from muxd.engines.diagnosis import Evidence
from muxd.engines.engine import LaunchContext
from muxd.engines.engine_client import EngineCallFailed, EngineClient, open_http
from muxd.engines.remote.engine import RemoteServers
from muxd.engines.routers import RoutedServer, SGLangRouter, StandInRouter
from muxd.http.keepalive_client import KeepAliveClient
from muxd.http.request import Request
from muxd.http.response_writer import ResponseWriter
from muxd.http.server import serve_http
from muxd.ports import Reservation
from muxd.simulator.router import serve


class PretendWorker:
    """A server that says its name on every path."""

    def __init__(self, name: str, nursery: trio.Nursery) -> None:
        self.name = name
        self._nursery = nursery
        self._scope = trio.CancelScope()
        self.url = ""

    async def start(self) -> "PretendWorker":
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        self.url = f"http://127.0.0.1:{listener.socket.getsockname()[1]}"
        self._nursery.start_soon(self._serve, listener)
        return self

    async def _serve(self, listener: trio.SocketListener) -> None:
        with self._scope:
            await serve_http(self._answer, [listener])

    async def _answer(self, request: Request, writer: ResponseWriter) -> None:
        if request.path == "/stream":
            await writer.start_stream("text/event-stream")
            await writer.write(b"data: 1\n\n")
            await trio.sleep_forever()
        await writer.send_json(200, {"name": self.name, "body": request.body.decode()})

    def die(self) -> None:
        self._scope.cancel()


class RouterBench:
    def __init__(self, http: httpx.AsyncClient, calls: KeepAliveClient, url: str, nursery: trio.Nursery) -> None:
        self.http, self.url, self.nursery = http, url, nursery
        self.calls, self.router = calls, StandInRouter()
        self.link = EngineClient(calls, url, "", lambda _: None, call_timeout=5, probe_timeout=5)

    async def worker(self, name: str) -> PretendWorker:
        return await PretendWorker(name, self.nursery).start()

    async def knows(self, *urls: str) -> None:
        """Tell the router of these workers, until it passes requests to all of them."""
        with trio.fail_after(10):
            while set(await self.router.sync(self.link, list(map(RoutedServer, urls)))) != set(urls):
                await trio.sleep(0.01)

    async def who_answers(self, times: int) -> list[str]:
        return [(await self.http.post(f"{self.url}/x", content=b"hello")).json()["name"] for _ in range(times)]


@asynccontextmanager
async def router_bench() -> AsyncIterator[RouterBench]:
    reservation = Reservation(0)
    client = httpx.AsyncClient(trust_env=False, verify=False)
    async with client as http, open_http() as calls, trio.open_nursery() as nursery:
        nursery.start_soon(serve, reservation.port)
        bench = RouterBench(http, calls, f"http://127.0.0.1:{reservation.port}", nursery)
        with trio.fail_after(10):
            while not await bench.router.is_ready(bench.link):
                await trio.sleep(0.01)
        yield bench
        nursery.cancel_scope.cancel()
    reservation.close()


async def test_a_router_without_workers_lives_and_is_not_ready_for_requests():
    async with router_bench() as bench:
        assert await bench.router.is_alive(bench.link, Model("q"))
        assert await bench.link.probe("/readiness") == 503
        assert (await bench.http.get(f"{bench.url}/x")).status_code == 503


async def test_requests_go_to_each_worker_in_turn_with_their_bodies():
    async with router_bench() as bench:
        one, two = await bench.worker("one"), await bench.worker("two")
        await bench.knows(one.url, two.url)
        assert await bench.link.probe("/readiness") == 200
        assert sorted(await bench.who_answers(4)) == ["one", "one", "two", "two"]
        answer = await bench.http.post(f"{bench.url}/v1/chat?x=1", content=b"body")
        assert answer.json()["body"] == "body"


async def test_what_is_said_of_the_workers_is_all_that_holds():
    async with router_bench() as bench:
        one, two = await bench.worker("one"), await bench.worker("two")
        await bench.knows(one.url, two.url)
        await bench.knows(two.url)
        assert await bench.who_answers(3) == ["two"] * 3
        await bench.knows()
        assert (await bench.http.get(f"{bench.url}/x")).status_code == 503


async def test_a_dead_worker_costs_no_request_and_is_told():
    async with router_bench() as bench:
        one, two = await bench.worker("one"), await bench.worker("two")
        await bench.knows(one.url, two.url)
        one.die()
        assert await bench.who_answers(4) == ["two"] * 4
        assert await bench.router.sync(bench.link, [RoutedServer(one.url), RoutedServer(two.url)]) == (two.url,)


async def test_a_worker_that_dies_in_the_middle_of_its_stream_breaks_that_stream():
    async with router_bench() as bench:
        one = await bench.worker("one")
        await bench.knows(one.url)

        async def read() -> None:
            async with bench.http.stream("GET", f"{bench.url}/stream", timeout=5) as answer:
                async for data in answer.aiter_raw():
                    assert data == b"data: 1\n\n"
                    one.die()

        with pytest.raises(httpx.RemoteProtocolError):
            await read()


@pytest.mark.parametrize("health", [(True, True), (False, True), (False, False)])
async def test_a_server_of_several_data_parallel_ranks_is_one_to_a_router_that_is_aware_of_them(health):
    asked = []

    async def answer(request: Request, writer: ResponseWriter) -> None:
        asked.append(request.method)
        ranks = [{"id": f"{n}", "url": f"http://a:1@{n}", "is_healthy": healthy} for n, healthy in enumerate(health)]
        await writer.send_json(200, {"workers": ranks})

    async with open_http() as http, trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(serve_http, answer, [listener])
        url = f"http://127.0.0.1:{listener.socket.getsockname()[1]}"
        link = EngineClient(http, url, "", lambda _: None, call_timeout=5, probe_timeout=5)
        known = await SGLangRouter().sync(link, [RoutedServer("http://a:1")])
        nursery.cancel_scope.cancel()
    assert known == (("http://a:1",) if any(health) else ())
    assert asked == ["GET"], "nothing is added or removed"


@pytest.mark.parametrize("is_adopted", [False, True])
async def test_ranks_go_together_by_the_id_of_their_server_which_the_router_does_not_list(is_adopted):
    """Seen in sglang-router 0.3.2: a DELETE of a rank is accepted, and nothing comes of it."""
    told: list[tuple[str, str, Any]] = []
    ranks: list[dict[str, Any]] = []

    async def answer(request: Request, writer: ResponseWriter) -> None:
        told.append((request.method, request.path, request.json() if request.body else None))
        if request.method == "POST":
            known = {"worker_type": "prefill", "bootstrap_port": 8998, "is_healthy": True}
            ranks[:] = [known | {"id": f"rank {n}", "url": f"http://a:1@{n}"} for n in (0, 1)]
        elif request.method == "DELETE" and request.path == "/workers/server":
            ranks.clear()
        answers = {"workers": ranks} if request.method == "GET" else {"worker_id": "server"}
        await writer.send_json(200, answers)

    server = RoutedServer("http://a:1", "prefill", 8998)
    async with open_http() as http, trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(serve_http, answer, [listener])
        url = f"http://127.0.0.1:{listener.socket.getsockname()[1]}"
        link = EngineClient(http, url, "", lambda _: None, call_timeout=5, probe_timeout=5)
        router = SGLangRouter()
        assert await router.sync(link, [server]) == ()
        assert await router.sync(link, [server]) == ("http://a:1",)
        router = SGLangRouter() if is_adopted else router
        told.clear()
        assert await router.sync(link, []) == ("http://a:1",)
        assert await router.sync(link, []) == ()
        nursery.cancel_scope.cancel()
    body = {"url": "http://a:1", "worker_type": "prefill", "bootstrap_port": 8998}
    again = [("POST", "/workers", body)] if is_adopted else []
    asked = [("GET", "/workers", None), *again, ("DELETE", "/workers/server", None), ("GET", "/workers", None)]
    assert told == asked


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("launch_router.py: error: unrecognized arguments: --nonsense 1", "sglang-router does not know --nonsense"),
        (
            "launch_router.py: error: argument --max-idle-secs: invalid int value: 'x'",
            "sglang-router does not take its flags: argument --max-idle-secs: invalid int value: 'x'",
        ),
        (
            "ValueError: Configuration error: Invalid value for field 'max_tree_size': 0 - Must be > 0",
            "sglang-router does not take its flags: Invalid value for field 'max_tree_size': 0 - Must be > 0",
        ),
        (
            "OverflowError: can't convert negative int to unsigned",
            "sglang-router does not take its flags: can't convert negative int to unsigned",
        ),
    ],
)
def test_a_router_that_ends_for_its_flags_names_the_key_that_has_them(said, told):
    cause = SGLangRouter().diagnose(Evidence(f"usage: launch_router.py [--host HOST]\n{said}\n", status=2), Model("q"))
    assert cause is not None
    assert (cause.code, cause.refused, str(cause)) == ("bad_flag", True, f"{told}; correct router.args")


async def test_a_router_that_is_gone_cannot_be_told():
    async with router_bench() as bench:
        gone = await bench.worker("no router")
        gone.die()
        link = EngineClient(bench.calls, gone.url, "", lambda _: None, call_timeout=1, probe_timeout=1)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(EngineCallFailed):
            await bench.router.sync(link, ())


async def test_a_router_that_takes_its_time_to_come_is_looked_at_as_any_server_is():
    """Who its processes are, or where else one listens, is asked of every worker that is not ready within a second."""
    router, process = StandInRouter(), Command(7, 1, ["python3", "-m", "muxd.simulator.router"], {}, listens=False)
    assert not router.is_server(process)
    assert not router.servers_among([process])
    assert router.port_told(process) is None
    assert not router.are_parts(["python3"])
    async with open_http() as http:
        link = EngineClient(http, "http://w", "", lambda _: None, call_timeout=1.0, probe_timeout=1.0)
        assert await router.observe(link, 1, [process]) is None
        assert await router.find_keys(link, [process]) is None
        with pytest.raises(EngineCallFailed, match="does not sleep"):
            await router.sleep(link, Model("qwen"), 1, [])


def argv_of(tmp_path: Path, **keys: Any) -> list[str]:
    model = Model("qwen", engine="sglang", router=RouterOptions(policy="round_robin"), **keys)
    daemon = Daemon(tmp_path, tmp_path, tmp_path)
    context = LaunchContext(port=30001, workdir=tmp_path, tmpdir=tmp_path, admin_key="k", daemon=daemon)
    return list(SGLangRouter().command(model, context).argv)


def test_a_router_of_two_halves_is_told_so_and_each_halfs_policy(tmp_path):
    halves = {"prefill": HalfOptions(policy="cache_aware"), "decode": HalfOptions(replicas=2, policy="power_of_two")}
    argv = argv_of(tmp_path, **halves)
    assert "--pd-disaggregation" in argv
    assert argv[argv.index("--policy") + 1] == "round_robin"
    assert argv[argv.index("--prefill-policy") + 1] == "cache_aware"
    assert argv[argv.index("--decode-policy") + 1] == "power_of_two"
    assert argv.count("--prefill") == argv.count("--decode") == 2, "it starts with power_of_two only if it knows of two"
    assert "--pd-disaggregation" not in argv_of(tmp_path)


@pytest.mark.parametrize(
    ("server", "told"),
    [
        (RoutedServer("http://s"), {"url": "http://s"}),
        (RoutedServer("http://s", "decode"), {"url": "http://s", "worker_type": "decode"}),
        (
            RoutedServer("http://s", "prefill", 8998),
            {"url": "http://s", "worker_type": "prefill", "bootstrap_port": 8998},
        ),
    ],
)
def test_a_router_is_told_what_a_server_does_and_its_bootstrap_port(server, told):
    assert SGLangRouter()._worker(server) == told


@pytest.mark.parametrize(
    ("answering", "told"),
    [
        (("http://a:1",), "no answer from http://b:2; the other servers have its requests"),
        ((), "no answer from http://a:1, http://b:2"),
    ],
)
async def test_who_does_not_answer_is_named_and_others_only_where_there_are_any(monkeypatch, tmp_path, answering, told):
    servers = RemoteServers()

    async def sync(*_: object) -> tuple[str, ...]:
        return answering

    monkeypatch.setattr(servers, "sync", sync)
    model = Model("qwen", engine="remote", engine_options=RemoteOptions(urls=("http://a:1", "http://b:2")))
    daemon = Daemon(tmp_path, tmp_path, tmp_path)
    context = LaunchContext(port=30001, workdir=tmp_path, tmpdir=tmp_path, admin_key="k", daemon=daemon)
    servers.command(model, context)
    async with open_http() as http:
        link = EngineClient(http, "http://w", "", lambda _: None, call_timeout=1.0, probe_timeout=1.0)
        assert await servers.is_ready(link) is bool(answering)
    assert servers.notice == told


@pytest.mark.parametrize("args", [("--ca-cert-paths", "{0}/a.pem", "{0}/b.pem"), ("--ca-cert-paths={0}/a.pem",), ()])
def test_authorities_that_are_named_are_trusted_beside_the_hosts_own(tmp_path, monkeypatch, args):
    for name in ("host", "a", "b"):
        (tmp_path / f"{name}.pem").write_text(f"{name}'s")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "host.pem"))
    router = RouterOptions(args=tuple(arg.format(tmp_path) for arg in args))
    model = Model("q", engine="remote", engine_options=RemoteOptions(urls=("https://a:1", "unix:/s")), router=router)
    daemon = Daemon(tmp_path, tmp_path, tmp_path)
    context = LaunchContext(port=30001, workdir=tmp_path, tmpdir=tmp_path, admin_key="k", daemon=daemon)
    command = RemoteServers().command(model, context)
    texts = [text for file, text in command.files.items() if str(file) == command.env.get("SSL_CERT_FILE")]
    trusted = {3: ["host's\na's\nb's"], 1: ["host's\na's"], 0: []}[len(args)]
    assert texts == trusted
    assert len(command.files) == 1 + bool(args), "the bridge to the Unix socket has one as well"


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (
            "python3: Error while finding module specification for 'sglang_router.launch_router' "
            "(ModuleNotFoundError: No module named 'sglang_router')",
            "(No module named 'sglang_router')",
        ),
        (
            "ImportError: cannot import name 'Router' from 'sglang_router' (unknown location)",
            "(cannot import name 'Router' from 'sglang_router' (unknown location))",
        ),
    ],
)
def test_a_python_without_the_router_is_told_with_what_it_lacks(said, why):
    cause = SGLangRouter().diagnose(Evidence(f"{said}\n", status=1), Model("q"))
    assert cause is not None
    assert cause.code == "engine_missing"
    assert cause.message == f"{sys.executable} has no sglang-router that works {why}"
