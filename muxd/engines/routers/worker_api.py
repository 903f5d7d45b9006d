"""The interface of a router, and what all routers have in common.

A router is started, probed and ended like any other server, and never sleeps.  It is told its workers by the worker API
of sglang-router 0.3.2 (`GET` and `POST /workers`, `DELETE /workers/{id}`).  That API answers 202 and does the work
afterwards: it asks the worker what it is, and lists it once it has answered.  So what a router says of its workers is
asked again and again, and what it was asked for is asked for again only where nothing came of it.
"""

import re
import signal
from collections.abc import Iterable, Mapping, Sequence
from math import inf
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import trio

from muxd.config.command_lines import Command
from muxd.config.model_schema import Model
from muxd.engines import diagnosis
from muxd.engines.diagnosis import Diagnosis, Evidence
from muxd.engines.engine import CommandSpec, Engine, LaunchContext
from muxd.engines.engine_client import EngineCallFailed, EngineClient
from muxd.engines.observed_server import ObservedServer
from muxd.engines.wake_proof import ProofAnswer

#: Seconds after which a router that has not carried out a change is asked for it again.
ASKED_AGAIN = 5.0

#: What a router says of its workers, by the URLs of their servers.
Listed = dict[str, list[dict[str, Any]]]

_RANK = re.compile(r"@\d+$")


class RoutedServer(NamedTuple):
    """A server to which a router passes requests."""

    url: str
    half: str = ""  # "prefill" or "decode"; "": it serves requests whole
    bootstrap_port: int = 0  # of one that prefills; 0: it has none


class Router(Engine, Protocol):
    """One kind of router."""

    async def sync(self, link: EngineClient, workers: Sequence[RoutedServer]) -> tuple[str, ...]:
        """Have the router pass requests to these servers alone; return the URLs of those that it passes them to now.

        Among these are such as it was told to leave out, and has not yet.  Raise EngineCallFailed.
        """
        ...


class _Change(NamedTuple):
    """What a router is asked for."""

    url: str
    id: str  # of the worker that it is to leave out; "": all ranks of the server
    is_added: bool


class WorkerApiRouter:
    """A router that speaks the worker API; subclasses say how it is started."""

    environment: Mapping[str, str] = {}
    stop_signal = signal.SIGTERM
    is_deaf_while_loading = False
    notice = ""
    _api_key = ""  # that its workers ask for; "": none
    _is_external = False  # they have OpenAI's routes alone
    is_silent = False
    tells_by_log = False
    runs_elsewhere = False
    bootstrap_port = 0
    gate = None

    def __init__(self) -> None:
        self._asked: dict[_Change, float] = {}  # changes that nothing has come of, and when each was last asked for
        self._ids: dict[str, str] = {}  # by URL: what the router called a server when it was last told of it

    def command(self, model: Model, context: LaunchContext) -> CommandSpec:
        """Return the command that starts a router with no workers."""
        self._asked, self._ids = {}, {}
        chosen = self._choose(model, context)
        return CommandSpec(self._argv(model, context), chosen=chosen)

    def _choose(self, model: Model, context: LaunchContext) -> dict[str, str]:
        """Choose what the next launch would choose otherwise, or take it as it was chosen for the running router."""
        return {}

    def _argv(self, model: Model, context: LaunchContext) -> tuple[str, ...]:
        raise NotImplementedError

    async def sync(self, link: EngineClient, workers: Sequence[RoutedServer]) -> tuple[str, ...]:
        wanted = {worker.url: worker for worker in workers}
        urls = tuple(wanted)
        listed = await listed_by(link)
        changes = [_Change(url, "", True) for url in urls if url not in listed]
        for url, ranks in listed.items():
            if url not in urls:
                changes += [_Change(url, id, False) for id in dict.fromkeys(rank["id"] for rank in ranks)]
        self._asked = {change: since for change, since in self._asked.items() if change in changes}
        for change in changes:
            if trio.current_time() - self._asked.get(change, -inf) >= ASKED_AGAIN:
                server = wanted.get(change.url) or _as_listed(change.url, listed[change.url][0])
                await self._ask_for(link, change, server)
                self._asked[change] = trio.current_time()
        return tuple(url for url, ranks in listed.items() if is_healthy(ranks))

    async def _ask_for(self, link: EngineClient, change: _Change, server: RoutedServer) -> None:
        """Ask the router for one change.

        sglang-router 0.3.2 leaves no single rank out: all ranks of a server go with the id that it gave the server when
        it was told of it, and which it does not list.  One that an earlier muxd has told is told again, and says it.
        """
        if change.is_added or (not change.id and change.url not in self._ids):
            await self._add(link, server)
        if not change.is_added:
            await link.change("DELETE", f"/workers/{change.id or self._ids[change.url]}")

    async def _add(self, link: EngineClient, server: RoutedServer) -> None:
        answer = await link.change("POST", "/workers", self._worker(server))
        try:
            self._ids[server.url] = answer["worker_id"]
        except (KeyError, TypeError):
            raise EngineCallFailed("POST /workers: the answer names no worker_id") from None

    def _worker(self, server: RoutedServer) -> dict[str, str | int]:
        """Return what the router is told of a server."""
        said: dict[str, str | int] = {"url": server.url}
        if self._api_key:
            said["api_key"] = self._api_key
        if self._is_external:
            said["runtime"] = "external"
        if server.half:
            said["worker_type"] = server.half
        if server.bootstrap_port:
            said["bootstrap_port"] = server.bootstrap_port
        return said

    async def is_ready(self, link: EngineClient) -> bool:
        return await link.probe("/liveness") == 200  # /readiness waits for a first worker

    async def is_alive(self, link: EngineClient, model: Model) -> bool:
        return await self.is_ready(link)

    async def metrics(self, link: EngineClient) -> bytes | None:
        return None

    async def context_length(self, link: EngineClient) -> int | None:
        return None

    async def is_generation(self, link: EngineClient) -> bool | None:
        return None

    def leftovers(self, pids: Iterable[int]) -> list[Path]:
        return []

    def diagnose(self, evidence: Evidence, model: Model) -> Diagnosis | None:
        return diagnosis.of_end(evidence, was_killed=evidence.was_killed)

    def diagnose_answer(self, call: str, status: int, body: str) -> Diagnosis | None:
        return None

    # A router never sleeps, and no launch script starts one: nothing of it need be told from its processes.

    async def unfitness(self, link: EngineClient, model: Model) -> Diagnosis | None:
        return None

    async def sleep(self, link: EngineClient, model: Model, level: int, released: Sequence[str]) -> list[str]:
        raise EngineCallFailed("a router does not sleep")

    async def prepare_wake(self, link: EngineClient, model: Model, released: Sequence[str]) -> None:
        pass

    async def wake(self, link: EngineClient, model: Model, released: Sequence[str]) -> None:
        raise EngineCallFailed("a router does not sleep")

    async def is_idle(self, link: EngineClient) -> bool | None:
        return None

    async def proof(self, link: EngineClient, model: Model) -> ProofAnswer | None:
        return None

    async def kept_memory(self, link: EngineClient, over: str) -> Diagnosis:
        raise EngineCallFailed("a router has no memory of GPUs")

    async def find_keys(self, link: EngineClient, processes: Sequence[Command]) -> Diagnosis | None:
        return None

    async def observe(
        self, link: EngineClient | None, port: int, processes: Sequence[Command]
    ) -> ObservedServer | None:
        return None

    def is_server(self, process: Command) -> bool:
        return False

    def servers_among(self, processes: Iterable[Command]) -> list[Command]:
        return []

    def port_told(self, process: Command) -> int | None:
        return None

    def are_parts(self, names: Sequence[str]) -> bool:
        return False

    def diagnose_stranger(self, program: str) -> Diagnosis:
        return diagnosis.of_stranger(program, "a router", "/workers")


def _as_listed(url: str, listed: dict[str, Any]) -> RoutedServer:
    """Return a server as the router says that it knows it."""
    half = listed.get("worker_type")
    return RoutedServer(url, half if half in ("prefill", "decode") else "", listed.get("bootstrap_port") or 0)


def is_healthy(ranks: Sequence[Mapping[str, Any]]) -> bool:
    """Say whether a router passes requests to one of a server's ranks at least."""
    return any(rank.get("is_healthy") is True for rank in ranks)


async def listed_by(link: EngineClient) -> Listed:
    """Return what the router says of its workers, by their URLs; raise EngineCallFailed.

    With --dp-aware a server is several workers, one for each data-parallel rank: URL@0, URL@1, ...  Their ids are "".
    """
    answer = await link.ask("/workers")
    workers = answer.get("workers") if isinstance(answer, dict) else None
    found: Listed = {}
    try:
        for worker in workers or ():
            url = _RANK.sub("", worker["url"])
            found.setdefault(url, []).append({**worker, "id": worker["id"] if url == worker["url"] else ""})
    except (KeyError, TypeError):
        raise EngineCallFailed("GET /workers: the answer is no list of workers") from None
    return found
