"""What muxd asks of an engine."""

import signal
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from muxd.config import Model
from muxd.config.command_lines import Command
from muxd.observed_scripts import ObservedServer

from .diagnosis import Diagnosis
from .engine_client import EngineClient


@dataclass(frozen=True, slots=True)
class LaunchContext:
    """What the supervisor has set aside for one launch."""

    port: int
    workdir: Path  # private to this launch; gone when it ends
    tmpdir: Path  # likewise, and short enough for the sockets that an engine puts there
    admin_key: str
    simulated_gpu_ledger: Path
    simulated_gpu_memory: int  # bytes of each pretend GPU


@dataclass(frozen=True, slots=True)
class LaunchSpec:
    """How to start a server: argv, its environment on top of muxd's own, files to write first (mode 0600)."""

    argv: tuple[str, ...]
    env: dict[str, str] = field(default_factory=dict)
    files: dict[Path, str] = field(default_factory=dict)
    stop_signal: signal.Signals = signal.SIGTERM  # what ends an idle server soonest
    stop_port: int = 0  # whoever of its processes listens there is to be asked, not the first one
    keys: "ServerKeys | None" = None  # where the server is not told the plan's admin key


@dataclass(frozen=True, slots=True)
class ServerKeys:
    """What a server asks for: on its control routes, and on all others."""

    admin: str
    api: str = ""


class Engine(Protocol):
    """One kind of server, and what is remembered of one of its processes between two probes.

    Its methods raise EngineCallFailed; probes just answer no.
    """

    def launch(self, model: Model, plan: LaunchContext) -> LaunchSpec: ...

    async def is_ready(self, link: EngineClient) -> bool:
        """Loaded, warm, and able to serve now."""
        ...

    async def is_alive(self, link: EngineClient, model: Model) -> bool:
        """It answers and gets on with its work, awake or asleep; must not cost the engine anything."""
        ...

    async def unlock(self, link: EngineClient, processes: Sequence[Command]) -> Diagnosis | None:
        """Once it is ready: find the keys that it asks for, where muxd did not give them; why that is not possible.

        `processes`: its own, those that listen first.
        """
        ...

    async def see(self, link: EngineClient | None, port: int, processes: Sequence[Command]) -> ObservedServer | None:
        """What it is, where muxd did not start it itself; None where it is no server of this engine.

        Without a link: as far as can be told while it loads.
        """
        ...

    async def context_length(self, link: EngineClient) -> int | None:
        """The longest text that it takes, in tokens; None where it does not say."""
        ...

    async def sleep(self, link: EngineClient, model: Model) -> None:
        """To the model's deep level, 1 or 2.  Never while a request runs: idleness is confirmed first."""
        ...

    async def wake(self, link: EngineClient, model: Model) -> None: ...

    async def kept_memory(self, link: EngineClient, over: str) -> Diagnosis:
        """Why its memory did not come back though it said that it sleeps; `over` says how much."""
        ...

    async def metrics(self, link: EngineClient) -> bytes | None:
        """What it counts, in Prometheus' text format; None where it was not started to tell that.

        The caller limits the time.
        """
        ...

    def leftovers(self, pid: int) -> list[Path]:
        """Files outside its work folder that the live server `pid` will leave when it is killed."""
        ...
