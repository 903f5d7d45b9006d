"""What muxd asks of an engine, and the line on which it talks to one of its servers."""

import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import httpx

from muxd.config import Model
from muxd.errors import MuxdError


class EngineCallFailed(MuxdError):
    """An engine call was refused, or nobody knows what became of it."""

    code = "engine_call_failed"


@dataclass(frozen=True, slots=True)
class LaunchPlan:
    """What the supervisor has set aside for one launch."""

    port: int
    workdir: Path  # private to this launch; gone when it ends
    tmpdir: Path  # likewise, and short enough for the sockets that an engine puts there
    admin_key: str
    simulated_gpu_ledger: Path
    simulated_gpu_memory: int  # bytes of each pretend GPU


@dataclass(frozen=True, slots=True)
class Launch:
    """How to start a server: argv, its environment on top of muxd's own, files to write first (mode 0600)."""

    argv: tuple[str, ...]
    env: dict[str, str] = field(default_factory=dict)
    files: dict[Path, str] = field(default_factory=dict)
    stop_signal: signal.Signals = signal.SIGTERM  # what ends an idle server soonest


class Engine(Protocol):
    """One kind of server, and what is remembered of one of its processes between two probes.

    Its methods raise EngineCallFailed; probes just answer no.
    """

    def launch(self, model: Model, plan: LaunchPlan) -> Launch: ...

    async def is_ready(self, link: "Link") -> bool:
        """Loaded, warm, and able to serve now."""
        ...

    async def is_alive(self, link: "Link", model: Model) -> bool:
        """It answers and gets on with its work, awake or asleep; must not cost the engine anything."""
        ...

    async def sleep(self, link: "Link", model: Model) -> None:
        """To the model's deep level, 1 or 2.  Never while a request runs: idleness is confirmed first."""
        ...

    async def wake(self, link: "Link", model: Model) -> None: ...

    def leftovers(self, pid: int) -> list[Path]:
        """Files outside its work folder that the live server `pid` will leave when it is killed."""
        ...


class Link:
    """Control calls and probes to one server.

    `intend` is told the verb of every call that changes what the server holds before it
    is sent, and None when its answer is there: what it wrote last is what a successor
    of muxd would have to doubt.
    """

    def __init__(
        self,
        http: httpx.AsyncClient,
        url: str,
        admin_key: str,
        intend: Callable[[str | None], None],
        *,
        call_timeout: float,
        probe_timeout: float,
    ) -> None:
        self._http = http
        self._url = url
        self._auth = {"Authorization": f"Bearer {admin_key}"} if admin_key else {}
        self._intend = intend
        self.call_timeout = call_timeout
        self._probe_timeout = probe_timeout

    async def call(self, verb: str, path: str, body: dict[str, Any]) -> None:
        """POST a call that changes the server; raises EngineCallFailed unless it answers 200."""
        self._intend(verb)
        try:
            answer = await self._http.post(self._url + path, json=body, headers=self._auth, timeout=self.call_timeout)
        except httpx.TimeoutException:
            raise EngineCallFailed(f"{verb}: no answer in {self.call_timeout:.0f} s") from None
        except httpx.HTTPError as error:
            raise EngineCallFailed(f"{verb}: the connection broke before an answer ({error!r})") from None
        if answer.status_code != 200:
            raise EngineCallFailed(f"{verb} was refused: {answer.status_code} {_excerpt(answer)}")
        self._intend(None)

    async def probe(self, path: str) -> int | None:
        """GET; the status, or None where nobody answered in time."""
        try:
            answer = await self._http.get(self._url + path, timeout=self._probe_timeout)
        except httpx.HTTPError:
            return None
        return answer.status_code

    async def ask(self, path: str) -> Any:
        """GET a JSON document; raises EngineCallFailed."""
        try:
            answer = await self._http.get(self._url + path, timeout=self._probe_timeout)
            answer.raise_for_status()
            return answer.json()
        except (httpx.HTTPError, ValueError) as error:
            raise EngineCallFailed(f"GET {path}: {error!r}") from None


def _excerpt(answer: httpx.Response) -> str:
    text = " ".join(answer.text.split())
    return text if len(text) <= 300 else text[:300] + "..."
