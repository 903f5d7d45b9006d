"""A host of pretend processes, servers and GPUs, on which workers and the supervisor run under the autojump clock.

FakeHost       the others together, and the WorkerContext that has them
FakeChildren   spawns a FakeChild in the place of a shim and its process tree
FakeServer     what the child serves: SGLang's routes, and what SGLang dies of
FakePorts      who listens at a port, in the place of /proc
FakeGpus       the memory that the servers have at the moment

Engines, HTTP client, launch, state file and logs are the real ones.  Whatever a test says of a server's behaviour
(`host.servers["a"]`) holds from then on; ends lie in the future as times, so that nothing here needs a task of its own.
"""

import json
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from signal import SIGKILL
from typing import Any
from unittest.mock import patch

import httpx
import trio

from muxd.children import ChildRecord, ChildSpec, Dropped, ExitRecord
from muxd.config import Config, Daemon, Model, SimulatorOptions
from muxd.config.command_lines import Command
from muxd.config.declarations import keys_of
from muxd.core.events import Event
from muxd.engines.wake_proof import PROMPT
from muxd.errors import CannotSpawn
from muxd.gpus import GpuMemory
from muxd.ports import PortTaken
from muxd.saved_state import StateFile
from muxd.workers import WorkerContext

from .answering_client import AnsweringClient

GiB = 1 << 30

#: No process has this pid: the kernel gives smaller ones.
NO_PID = 1 << 22

#: The call of each route that changes what the server holds.
CALLS = {
    "/pause_generation": "pause",
    "/release_memory_occupation": "release",
    "/resume_memory_occupation": "resume",
    "/update_weights_from_disk": "reload",
    "/continue_generation": "continue",
    "/gate/activate": "activate",
}


@dataclass
class Behaviour:
    """How one model's servers behave, all times in seconds and sizes in bytes of each of its GPUs."""

    load_time: float = 1.0  # from its start until it is ready
    listens_after: float = 0.5  # from its start until it listens; inf: never
    imports: float = 3.0  # of one that is to wait at a gate: from its start until it is there; inf: never
    listens_at: int = 0  # the port; 0: as its command line says
    guesses: bool = False  # a script's: its port is no more than a guess
    ambiguous: set[int] = field(default_factory=set)  # the ports among which a script's is to be found
    call_time: float = 0.05  # of each call that changes the server
    stop_time: float = 0.1  # from the stop signal to its end; inf: it does not heed the signal
    kill_time: float = 0.0  # from SIGKILL to its end; inf: it survives
    awake: int = 50 * GiB
    asleep: int = 2 * GiB
    lag: float = 0.0  # from an answered release, or its end, until its memory is free
    #: What becomes of a call or of a GET, by its verb or path: "hang", "break", "die", or status and text of an answer.
    faults: dict[str, str | tuple[int, str]] = field(default_factory=dict)
    steps: bool = True  # its scheduler takes steps, and stamps its figures
    running: int = 0  # requests that it is at
    weights: int = 31  # what it answers depends on them: the token that it says; 0: on no numbers at all
    key: str | None = None  # the key that it wants on every route but /ready; None: any
    context_length: int | None = 4096
    is_generation: bool | None = True
    restless: bool = False  # each answer is of other weights than the one before
    says: str = ""  # its answer to whoever asks it for text; "": one that depends on its weights
    info: dict[str, Any] = field(default_factory=dict)  # its answer on /server_info
    processes: list[Command] = field(default_factory=list)  # of the worker, as /proc has them
    unseen: OSError | None = None  # why its processes cannot be seen
    dies_after: float = inf  # from its start until it ends by itself, with `exit` and `last_words` on its stderr
    exit: ExitRecord = ExitRecord(status=1)  # noqa: RUF009  it is frozen
    last_words: str = ""
    pid: bool = True  # whether its shim has forked it
    refuses_to_spawn: CannotSpawn | None = None
    dropped: Dropped = Dropped()  # noqa: RUF009  output that the disk refuses


class FakeServer:
    """One server: what it holds, and what its calls do to that."""

    def __init__(self, model: Model, behaviour: Behaviour, port: int, host: "FakeHost", gate: int = 0) -> None:
        self.model, self.behaviour, self.port = model, behaviour, port
        self.child: FakeChild  # set by FakeChildren
        self.host = host
        self.started = trio.current_time()
        self.gate = gate  # its port; 0: none
        self.loads_from = inf if gate else self.started  # when it has passed its gate
        self.asked: list[str] = []  # the path of every request
        self.calls: list[str] = []
        self.released: set[str] = set()  # the tags of the memory that it has given up
        self.paused = False
        self._memory = [
            (self.started, 0 if gate else behaviour.awake)
        ]  # from when on it has how many bytes of each of its GPUs

    def memory_at(self, now: float) -> int:
        if now >= self.child.ends_at + self.behaviour.lag:
            return 0
        return next(size for since, size in reversed(self._memory) if since <= now)

    @property
    def listens(self) -> bool:
        return not self.child.has_ended and trio.current_time() >= self.loads_from + self.behaviour.listens_after

    @property
    def is_at_gate(self) -> bool:
        return (
            not self.child.has_ended
            and bool(self.gate)
            and trio.current_time() >= self.started + self.behaviour.imports
        )

    def open_gate(self) -> None:
        """Let it go on, whoever says so."""
        self.loads_from = trio.current_time()
        self._memory.append((self.loads_from, self.behaviour.awake))

    @property
    def is_loaded(self) -> bool:
        return trio.current_time() >= self.loads_from + self.behaviour.load_time

    async def answer(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path
        self.asked.append(path)
        verb = CALLS.get(path, path)
        fault = self.behaviour.faults.get(verb)
        if verb in CALLS.values():
            self.calls.append(verb)
        if fault == "die":
            self.child.end(ExitRecord(signal=SIGKILL), last_words=self.behaviour.last_words)
        if fault == "hang":
            await self.child.wait()
        if fault == "break" or self.child.has_ended:
            raise httpx.ReadError("the connection broke")
        if isinstance(fault, tuple):
            return an_answer(*fault)
        if request.url.port == self.gate:
            if verb == "activate":
                self.open_gate()
            return an_answer(200 if path in ("/health", "/gate/activate") else 404, "OK")
        key = self.behaviour.key
        if key is not None and path != "/ready" and request.headers.get("authorization") != f"Bearer {key}":
            return an_answer(401)
        if request.method == "POST" and path in ("/v1/completions", "/generate"):
            await trio.sleep(self.behaviour.call_time)
            self.behaviour.weights += self.behaviour.restless
            return an_answer(200, self.behaviour.says or json.dumps(generated(self.behaviour.weights)))
        if verb not in CALLS.values():
            return self._get(path)
        return await self._call(verb, set(json.loads(request.content).get("tags", ())))

    def _get(self, path: str) -> httpx.Response:
        stamp = trio.current_time() if self.behaviour.steps else self.started
        load = {"timestamp": stamp, "num_running_reqs": self.behaviour.running, "num_waiting_reqs": 0}
        pages = {
            "/v1/loads": {"loads": [load]},
            "/v1/models": {
                "data": [{"id": self.model.served_names[0], "max_model_len": self.behaviour.context_length}]
            },
            "/model_info": {"is_generation": self.behaviour.is_generation, "model_path": self.model.model_path},
            "/server_info": self.behaviour.info,
        }
        if path == "/ready":
            return an_answer(200 if self.is_loaded and not self.paused else 503)
        if path == "/metrics":
            return an_answer(200, "sglang:num_requests_total 1\n")
        return an_answer(200, json.dumps(pages[path])) if path in pages else an_answer(404)

    async def _call(self, verb: str, tags: set[str]) -> httpx.Response:
        """Do what the call says, or die of it, as SGLang does: of a release while busy, of a second one, and so on."""
        is_fatal = (verb == "release" and tags & self.released) or (verb == "resume" and not tags <= self.released)
        is_fatal = is_fatal or (verb == "reload" and "weights" in self.released)
        if is_fatal or (verb == "release" and (self.behaviour.running or not self.paused)):
            words = f"Exception: a {verb} with {self.released} released\n"
            self.child.end(ExitRecord(signal=SIGKILL), last_words=words)
            raise httpx.ReadError("the connection broke")
        await trio.sleep(self.behaviour.call_time)
        now = trio.current_time()
        match verb:
            case "pause":
                self.paused = True
            case "release":
                self.released |= tags
                self._memory.append((now + self.behaviour.lag, self.behaviour.asleep))
            case "resume":
                self.released -= tags
                self._memory.append((now, self.behaviour.awake))
                if any(gpu.free < 0 for gpu in self.host.gpus.now().values()):
                    self.child.end(
                        ExitRecord(signal=SIGKILL), last_words="torch.OutOfMemoryError: CUDA out of memory.\n"
                    )
            case "continue":
                self.paused = False
        if self.child.has_ended:
            raise httpx.ReadError("the connection broke")
        return an_answer(200)


class FakeChild:
    """A child as muxd sees it.  Its end is a time, which `stop` and `kill` bring nearer."""

    def __init__(self, spec: ChildSpec, number: int, server: FakeServer) -> None:
        self.name, self.spec, self.server = spec.name, spec, server
        self.pid = NO_PID + number if server.behaviour.pid else None
        self.shim_pid = NO_PID - number
        self.record = ChildRecord(spec.name, self.shim_pid, number, "boot", f"token{number}", "lock", "exit")
        self.signals: list[str] = []
        self.ends_at, self._exit = inf, ExitRecord(status=0)
        self._last_words = ""
        self._news = trio.Event()
        server.child = self
        behaviour = server.behaviour
        if behaviour.dies_after < inf:
            self.end(behaviour.exit, after=behaviour.dies_after, last_words=behaviour.last_words)

    @property
    def has_ended(self) -> bool:
        return trio.current_time() >= self.ends_at

    @property
    def dropped(self) -> Dropped:
        return self.server.behaviour.dropped

    def pids(self) -> list[int]:
        return []

    def end(self, exit: ExitRecord, *, after: float = 0.0, last_words: str = "") -> None:
        """Let it end so, unless it ends sooner anyway; what it says last is in its log then."""
        if (at := trio.current_time() + after) < self.ends_at:
            self.ends_at, self._exit, self._last_words = at, exit, last_words
            self._news.set()
            self._news = trio.Event()

    def say(self, text: str) -> None:
        with self.spec.stderr.open("a") as file:
            file.write(text)

    def stop(self) -> None:
        self.signals.append("stop")
        behaviour = self.server.behaviour
        self.end(ExitRecord(status=0, requested=True), after=behaviour.stop_time)
        self.end(ExitRecord(signal=SIGKILL, requested=True), after=self.spec.stop_timeout + behaviour.kill_time)

    def kill(self) -> None:
        self.signals.append("kill")
        self.end(ExitRecord(signal=SIGKILL, requested=True), after=self.server.behaviour.kill_time)

    async def wait(self) -> ExitRecord:
        await trio.lowlevel.checkpoint()
        while not self.has_ended:
            with trio.move_on_at(self.ends_at):
                await self._news.wait()
        text, self._last_words = self._last_words, ""
        self.say(text)
        lost = self.server.behaviour.dropped
        return ExitRecord(
            self._exit.status,
            self._exit.signal,
            self._exit.error,
            self._exit.requested,
            lost.bytes,
            self._exit.swept,
            self._exit.left,
            self._exit.time,
            self._exit.errno,
            lost.why,
        )


class FakeChildren:
    """Spawns what the host's behaviours say."""

    def __init__(self, host: "FakeHost") -> None:
        self._host = host
        self.all: list[FakeChild] = []

    def spawn(self, spec: ChildSpec) -> FakeChild:
        if any(child.name == spec.name and not child.has_ended for child in self.all):
            raise CannotSpawn(f"cannot start {spec.name}: it still runs", name=spec.name)
        known = (*self._host.wanted.models, *self._host.context.config.models)  # a reload may be about to remove it
        model = next(model for model in known if model.name == spec.name)
        behaviour = self._host.servers[spec.name]
        if behaviour.refuses_to_spawn is not None:
            raise behaviour.refuses_to_spawn
        port, gate = (
            int(spec.argv[spec.argv.index(flag) + 1]) if flag in spec.argv else 0
            for flag in ("--port", "--gated-launch-port")
        )
        spec.stderr.touch()
        child = FakeChild(
            spec, len(self.all) + 1, FakeServer(model, behaviour, behaviour.listens_at or port, self._host, gate)
        )
        self.all.append(child)
        return child

    def adopt(self, record: ChildRecord) -> FakeChild | None:
        return next((child for child in self.all if child.record == record and not child.has_ended), None)


class FakePorts:
    """Who listens on the port of one life of a worker."""

    def __init__(self, host: "FakeHost", port: int, shim: int) -> None:
        self.port = port
        self._host = host
        self._server = next(child.server for child in host.children.all if child.shim_pid == shim)
        self.is_guess = self._server.behaviour.guesses
        self.ambiguous = self._server.behaviour.ambiguous

    async def is_own(self) -> bool:
        await trio.lowlevel.checkpoint()
        if isinstance(error := self._host.strangers.get(self.port), OSError):
            raise error
        if self.port in self._host.strangers:
            raise PortTaken(f"port {self.port} was taken by another process")
        return self.is_there() and self.port in (self._server.port, self._server.gate)

    def is_there(self) -> bool:
        is_there = self._server.is_at_gate if self.port == self._server.gate else self._server.listens
        return is_there and not self.is_taken()

    def is_taken(self) -> bool:
        return self.port in self._host.strangers

    async def elsewhere(self) -> int | None:
        await trio.lowlevel.checkpoint()
        return self._server.port if self._server.listens and self._server.port != self.port else None

    async def find(self) -> int | None:
        return await self.elsewhere()

    async def commands(self) -> list[Command]:
        await trio.lowlevel.checkpoint()
        if (error := self._server.behaviour.unseen) is not None:
            raise error
        return self._server.behaviour.processes


class FakeGpus:
    """GPUs of 80 GiB; beside the servers' memory there is what `strangers` have."""

    measured = True

    def __init__(self, host: "FakeHost") -> None:
        self._host = host
        self.ids = sorted({gpu for model in host.wanted.models for gpu in model.gpus})
        self.there: frozenset[str] = frozenset()
        self.total = 80 * GiB
        self.strangers: Callable[[float], int] = lambda now: 0
        self.fails = 0  # so many readings fail
        self.latest = self.now()

    def now(self) -> dict[str, GpuMemory]:
        now, servers = trio.current_time(), [child.server for child in self._host.children.all]
        used = {gpu: sum(s.memory_at(now) for s in servers if gpu in s.model.gpus) for gpu in self.ids}
        return {gpu: GpuMemory(gpu, "a GPU", self.total, size + self.strangers(now)) for gpu, size in used.items()}

    async def read(self, *, holders: bool = False) -> dict[str, GpuMemory]:
        await trio.lowlevel.checkpoint()
        if self.fails:
            self.fails -= 1
            return {}
        self.latest = self.now()
        return self.latest

    def cover(self, gpus: Iterable[str]) -> None:
        self.ids = sorted(set(gpus))


class FakeHost:
    """Make it with `fake_host`, in a trio task: its clock is trio's."""

    def __init__(self, folder: Path, models: tuple[Model, ...], http: AnsweringClient) -> None:
        for name in ("state", "logs"):
            (folder / name).mkdir(exist_ok=True)
        folders = (folder / name for name in ("socket", "state", "logs", "cache"))
        self.wanted = Config(Daemon(*folders), models=models)
        self.servers: defaultdict[str, Behaviour] = defaultdict(Behaviour)  # by model
        self.strangers: dict[int, OSError | None] = {}  # ports that others listen at; an error: /proc cannot be read
        self.children = FakeChildren(self)
        self.gpus = FakeGpus(self)
        self.state = StateFile(folder / "state" / "state.json")
        self.http = http
        self._send, self.mailbox = trio.open_memory_channel[Event](inf)
        self.context = WorkerContext(
            self.wanted,
            self.children,  # type: ignore[arg-type]
            self.gpus,  # type: ignore[arg-type]
            self.state,
            http,
            self._send.send_nowait,
            own_port=lambda port, shim, *_: FakePorts(self, port, shim),  # type: ignore[arg-type, return-value]
        )

    def reread(self) -> Config:
        """Read the configuration again, as a reload does."""
        return self.wanted

    def server(self, name: str) -> FakeServer:
        """The model's server that was started last."""
        return next(child.server for child in reversed(self.children.all) if child.name == name)

    async def answer(self, request: httpx.Request) -> httpx.Response:
        await trio.lowlevel.checkpoint()
        for child in self.children.all:
            server = child.server
            if (server.port == request.url.port and server.listens) or (
                server.gate == request.url.port and server.is_at_gate
            ):
                return await server.answer(request)
        raise httpx.ConnectError("connection refused")


class InlineThread:
    """A thread that is over when it was started: the test's clock does not run meanwhile."""

    def __init__(self, target: Callable[[], None], daemon: bool) -> None:
        self.start = target


class InlineKeptThread:
    """A KeptThread whose work is over when it was begun."""

    def begin(self, work: Callable[[], None], then: Callable[[], None]) -> None:
        work()
        then()

    def end(self) -> None:
        pass


@asynccontextmanager
async def fake_host(folder: Path, *models: Model) -> AsyncIterator[FakeHost]:
    """A host with these models; what waits longer than an hour of the test's clock waits for ever, and fails."""
    hosts: list[FakeHost] = []
    transport = AnsweringClient(lambda request: hosts[0].answer(request))
    await trio.sleep(100)  # a clock of a real host is not at 0 either
    with trio.fail_after(3600), patch("muxd.threads.Thread", InlineThread):
        async with transport as http:
            hosts.append(FakeHost(folder, models, http))
            yield hosts[0]


def generated(weights: int) -> dict[str, Any]:
    """What SGLang's /generate answers to the wake proof."""
    logprob = -1.5 if weights else None
    said = [[logprob, weights, None], [logprob, weights, None]]
    heard = [[None, PROMPT[0], None], *([logprob, token, None] for token in PROMPT[1:])]
    meta = {
        "input_token_logprobs": heard,
        "output_token_logprobs": said,
        "output_top_logprobs": [[one] for one in said],
    }
    return {"output_ids": [weights, weights], "meta_info": meta}


def an_answer(status: int, text: str = "") -> httpx.Response:
    return httpx.Response(status, stream=httpx.ByteStream(text.encode()))


def a_model(name: str, **keys: object) -> Model:
    """A model of the simulator's engine, which is SGLang in all that counts here."""
    options = SimulatorOptions(**{key: keys.pop(key) for key in keys_of(SimulatorOptions) if key in keys})  # type: ignore[arg-type]
    said: dict[str, Any] = {"engine": "simulator", "engine_options": options, **keys}
    return Model(name, model_path=f"/models/{name}", served_names=(f"org/{name}",), **said)
