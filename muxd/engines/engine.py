"""The interface of an engine: what muxd asks of one kind of server."""

import signal
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from msgspec import Struct, field

from muxd.config.command_lines import Command
from muxd.config.model_schema import Model
from muxd.config.schema import Daemon
from muxd.engines.observed_server import ObservedServer

from .diagnosis import Diagnosis, Evidence
from .engine_client import EngineClient
from .gate import LaunchGate
from .wake_proof import ProofAnswer


class LaunchContext(Struct, frozen=True):
    """What the supervisor has set aside for one launch."""

    port: int
    workdir: Path  # private to this launch; deleted when the server has ended
    tmpdir: Path  # likewise; its path is short enough for the sockets that an engine puts there
    admin_key: str
    daemon: Daemon  # muxd's own settings, such as where its files are
    free_gpu_memory: int = 0  # bytes, on that of the model's GPUs which has least; 0 where nobody could read it
    gate_port: int = 0  # the server waits at its engine's gate there before it takes memory; 0: it does not wait
    gpu_size: int = 0  # bytes that the smallest of its GPUs has in all; 0 where nobody could read it
    # Of a server that an earlier muxd has launched, and that is taken over as it is:
    chosen: Mapping[str, str] = field(default_factory=dict)  # what CommandSpec.chosen said then
    released: Sequence[str] = ()  # the tags of the memory that it has given up


#: Stands for the pid of a server's main process in its stop command.  No word of a command can have a NUL.
SERVER_PID = "\0server\0"


class CommandSpec(Struct, frozen=True):
    """An engine's own command: argv, its environment on top of muxd's own, files to write first (mode 0600)."""

    argv: tuple[str, ...]
    env: dict[str, str] = field(default_factory=dict)
    files: dict[Path, str] = field(default_factory=dict)
    modules: Path | None = None  # a folder of Python modules that the server is to find before any others
    stop_command: tuple[str, ...] = ()  # ends the server in the stop signal's place; may have SERVER_PID
    own_stop_signal: signal.Signals | None = None  # None: the engine's
    keys: "ServerKeys | None" = None  # the server's own keys; None: the server gets LaunchContext.admin_key
    chosen: dict[str, str] = field(default_factory=dict)  # what another launch would choose otherwise, such as a port


class LaunchSpec(CommandSpec, frozen=True):
    """How to start a server, and to stop it."""

    stop_signal: signal.Signals = signal.SIGTERM  # what ends an idle server soonest
    stop_port: int = 0  # the stop signal goes to the process that listens there; 0: to the main process


class ServerKeys(Struct, frozen=True):
    """The API keys that a server asks for: `admin` on its control routes, `api` on all others."""

    admin: str
    api: str = ""


class Engine(Protocol):
    """One kind of server, and what is remembered of one server process between two probes.

    The methods raise EngineCallFailed; the probes is_ready and is_alive return False instead.
    """

    environment: Mapping[str, str]  # what every server of it needs in its environment, however it is started
    stop_signal: signal.Signals  # what ends an idle server soonest
    is_deaf_while_loading: bool  # a stop signal is lost on a server that is not ready yet
    notice: str  # what an operator should mend although the server serves; "": nothing
    tells_by_log: bool  # whether `diagnose` is to see the log of a server that serves, for what `notice` says
    is_silent: bool  # whether its server sleeps by steps of its own, and need neither answer nor listen now
    bootstrap_port: int  # at which a server that prefills tells those that decode where its KV cache is; 0: none
    runs_elsewhere: bool  # whether the server may be no descendant of its command, such as one that a hook starts

    @property
    def gate(self) -> LaunchGate | None:
        """Return where its servers can wait before they take memory; None: nowhere."""
        ...

    def command(self, model: Model, context: LaunchContext) -> CommandSpec:
        """Return the command that starts a server for `model`; the launcher adds `environment` and TMPDIR."""
        ...

    async def is_ready(self, link: EngineClient) -> bool:
        """Say whether the server is loaded, warm, and able to serve now."""
        ...

    async def is_alive(self, link: EngineClient, model: Model) -> bool:
        """Say whether the server answers and makes progress, awake or asleep; the probe must cost it nothing."""
        ...

    async def find_keys(self, link: EngineClient, processes: Sequence[Command]) -> Diagnosis | None:
        """Find the keys that a ready server asks for, where muxd did not give them; return why that is not possible.

        `processes`: the worker's own, those that listen at its port first.
        """
        ...

    async def observe(
        self, link: EngineClient | None, port: int, processes: Sequence[Command]
    ) -> ObservedServer | None:
        """Return what a launch script's server is; None where it is no server of this engine.

        Without a link, the answer holds what can be told while the server loads.
        """
        ...

    def is_server(self, process: Command) -> bool:
        """Say whether a process is a server of this engine, or of its container's client, by its command line."""
        ...

    def servers_among(self, processes: Iterable[Command]) -> list[Command]:
        """Return the servers of this engine among these processes, by their command lines, each once."""
        ...

    def port_told(self, process: Command) -> int | None:
        """Return the port that a server was told by its command line; None: that cannot be told."""
        ...

    def are_parts(self, names: Sequence[str]) -> bool:
        """Say whether processes with these names are parts of a server, such as a crashed one leaves for a moment."""
        ...

    async def context_length(self, link: EngineClient) -> int | None:
        """Return the longest text that the server takes, in tokens; None where the server does not say."""
        ...

    async def is_generation(self, link: EngineClient) -> bool | None:
        """Say whether the server generates text, and so refuses to embed; None where the server does not say."""
        ...

    async def unfitness(self, link: EngineClient, model: Model) -> Diagnosis | None:
        """Return why a ready server is of no use to its model, by what it says of itself; None where it is of use."""
        ...

    async def sleep(self, link: EngineClient, model: Model, level: int, released: Sequence[str]) -> list[str]:
        """Put the server to sleep at `level`, 0 to 2, or deeper where it sleeps; return all that it has released then.

        `released`: the engine's names of what the server has released before.  A server that is awake is first
        confirmed to run no request.
        """
        ...

    async def prepare_wake(self, link: EngineClient, model: Model, released: Sequence[str]) -> None:
        """Ask a sleeping server what `wake` needs to know, while the memory for it is still waited for."""
        ...

    async def wake(self, link: EngineClient, model: Model, released: Sequence[str]) -> None:
        """Wake a sleeping server: give back what it has `released`, and reload weights that were discarded."""
        ...

    async def is_idle(self, link: EngineClient) -> bool | None:
        """Say whether a server that is awake runs and queues no request; None where it does not say."""
        ...

    async def proof(self, link: EngineClient, model: Model) -> ProofAnswer | None:
        """Return what a server that runs nothing else answers to the wake proof; None where it has no weights to prove.

        The prompt must be read anew, not from a cache.  Raise EngineCallFailed where no answer comes within
        call_timeout, or one that this kind of model cannot give.
        """
        ...

    async def kept_memory(self, link: EngineClient, over: str) -> Diagnosis:
        """Return why GPU memory did not come back after a sleep that the server confirmed; `over` says how much."""
        ...

    async def metrics(self, link: EngineClient) -> bytes | None:
        """Return the server's metrics in Prometheus' text format; None where it was started without them.

        The caller limits the time.
        """
        ...

    def leftovers(self, pids: Iterable[int]) -> list[Path]:
        """Return the files outside its work folder that a live server with these processes leaves when it is killed."""
        ...

    def diagnose(self, evidence: Evidence, model: Model) -> Diagnosis | None:
        """Return why a server ended, or will never be ready; None where nothing tells."""
        ...

    def diagnose_answer(self, call: str, status: int, body: str) -> Diagnosis | None:
        """Return why a server answered a call with an error status; None where the answer does not tell."""
        ...

    def diagnose_stranger(self, program: str) -> Diagnosis:
        """Return that what a launch script started, and `program` listens for, is no server of this engine."""
        ...
