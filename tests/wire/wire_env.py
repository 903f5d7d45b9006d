"""The real proxy as a process, beside a fake muxd; every test has a model and a worker of its own.

The proxy and its muxd live as long as all tests that want no keys of their own.  Nothing is shared between two tests
but the process: so it need not be put back in order after each of them, and whatever a test leaves behind in there is
one more thing that the next ones must not notice.
"""

import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trio

from tests.proxy.fake_muxd import FakeMuxd
from tests.proxy.http_client import HttpClient, Reply, chat, get, post
from tests.proxy.worker import Call, Worker

#: A flipped bit makes no other model's name of one of these.
MODELS = [f"model-{number:03}-{number:03}" for number in range(600)]

#: Seconds for a process to start or to end, on a machine that has much else to do.
LONG = 30.0

# A listening socket as systemd passes it: clients wait for the proxy in its backlog, and no port is
# chosen that another process could take meanwhile.
_PASS = 'LISTEN_PID=$$ LISTEN_FDS=1 exec "$@" 3<&0 </dev/null'


@dataclass
class WireEnv:
    process: subprocess.Popen[bytes]
    muxd: FakeMuxd
    port: int
    log: Path
    _names: Iterator[str] = field(default_factory=lambda: iter(MODELS))

    def new_model(self, url: str) -> str:
        """The name of a model that no test has used; its lease is granted to `url` at the first request."""
        name = next(self._names)
        self.muxd.grants[name] = url
        return name

    async def connect(self) -> HttpClient:
        return HttpClient(await trio.open_tcp_stream("127.0.0.1", self.port))

    def memory(self) -> int:
        """The proxy's own memory in bytes: what it allocated, without the code that it shares."""
        for line in Path(f"/proc/{self.process.pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Anonymous:"):
                return int(line.split()[1]) << 10
        raise AssertionError("smaps_rollup has no line Anonymous")

    def assert_alive(self) -> None:
        assert self.process.poll() is None, self.log.read_text()

    def end(self) -> None:
        """It lived through all of its tests, complained of none, and ends when it is told to."""
        self.assert_alive()
        self.process.terminate()
        assert self.process.wait(LONG) == 0
        assert "Traceback" not in self.log.read_text()


@contextmanager
def open_wire_env(folder: Path, proxy_keys: str = "") -> Iterator[WireEnv]:
    """`proxy_keys`: lines for the `[proxy]` table."""
    muxd = FakeMuxd(folder / "muxd.sock")
    muxd.models = [_facts(name) for name in MODELS]
    with _running(muxd), socket.create_server(("127.0.0.1", 0), backlog=1000) as listener:
        port = listener.getsockname()[1]
        config = _write_config(folder, port, proxy_keys)
        log = folder / "proxy.log"
        argv = ["sh", "-c", _PASS, "sh", sys.executable, "-m", "muxd", "proxy", "--config", str(config)]
        with log.open("wb") as output:
            process = subprocess.Popen(argv, stdin=listener.fileno(), stdout=output, stderr=output)
        listener.close()
        try:
            yield WireEnv(process, muxd, port, log)
        finally:
            process.kill()
            process.wait(LONG)


def _facts(name: str) -> dict[str, Any]:
    return {"name": name, "served_names": [], "state": "unloaded", "switch_timeout_s": 600.0, "removed": False}


def _write_config(folder: Path, port: int, proxy_keys: str) -> Path:
    """Without request ids: what is passed on can be compared byte for byte."""
    path = folder / "muxd.toml"
    path.write_text(
        f'[muxd]\nsocket = "{folder}/muxd.sock"\nstate_dir = "{folder}"\nlog_dir = "{folder}"\n'
        f'[proxy]\nlisten = "127.0.0.1:{port}"\nrequest_id_headers = []\nhosts = ["*"]\n{proxy_keys}\n'
        f'[models.{MODELS[0]}]\nengine = "simulator"\n'
    )
    return path


@contextmanager
def _running(muxd: FakeMuxd) -> Iterator[None]:
    """In a thread: a test's event loop ends with the test, and this muxd must not."""
    started, over = threading.Event(), trio.Event()
    tokens: list[trio.lowlevel.TrioToken] = []

    async def live() -> None:
        async with muxd.running():
            tokens.append(trio.lowlevel.current_trio_token())
            started.set()
            await over.wait()

    with ThreadPoolExecutor(1) as pool:
        life = pool.submit(trio.run, live)
        assert started.wait(LONG)
        try:
            yield
        finally:
            if not life.done():
                tokens[0].run_sync_soon(over.set)
            life.result(LONG)


@dataclass
class WireModel:
    """One test's share of a WireEnv: a model that no other test has, and its worker."""

    wire_env: WireEnv
    worker: Worker
    model: str
    http_clients: list[HttpClient] = field(default_factory=list)

    def chat(self, **more: Any) -> bytes:
        return chat(self.model, **more)

    def post(self, headers: bytes = b"", **more: Any) -> bytes:
        """A whole request for a chat."""
        return post(self.chat(**more), headers)

    async def connect(self) -> HttpClient:
        http_client = await self.wire_env.connect()
        self.http_clients.append(http_client)
        return http_client

    async def ask(self, data: bytes) -> Reply:
        """On a connection of its own."""
        return await (await self.connect()).ask(data)

    async def begin(self, request: bytes | None = None, **more: Any) -> tuple[HttpClient, Call]:
        """A request that has arrived at the worker, which answers by the test's hand."""
        self.worker.answer = by_hand
        count = len(self.worker.calls)
        http_client = await self.connect()
        await http_client.send(request or self.post(**more))
        return http_client, await self.worker.calls.nth(count)

    async def memory(self) -> int:
        """The proxy's, in bytes, with all done that was asked of it before."""
        await self.caught_up()
        return self.wire_env.memory()

    async def caught_up(self) -> None:
        """Whatever was sent to the proxy before this has been seen by it: it reads in turns."""
        assert (await self.ask(get(b"/health"))).status == 200


@asynccontextmanager
async def open_wire_model(wire_env: WireEnv) -> AsyncIterator[WireModel]:
    worker = Worker()
    async with worker.running():
        wire_model = WireModel(wire_env, worker, wire_env.new_model(worker.url))
        try:
            yield wire_model
        finally:
            for http_client in wire_model.http_clients:
                http_client.close()
    wire_env.assert_alive()


async def by_hand(call: Call) -> None:
    """The test sends the answer, and sets `released` where the connection is to be used again."""
    await call.released.wait()
