"""What muxd asks of an engine, and the line on which it talks to one of its servers."""

import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import httpx
import trio

from muxd.config import Model
from muxd.errors import MuxdError

from . import causes
from .causes import Cause

#: Seconds that a connection to an engine outlasts an answer.
KEPT = 0.2


class EngineCallFailed(MuxdError):
    """An engine call was refused, or nobody knows what became of it.

    `cause`: why, where that is known.  `broken`: the call whose connection broke before an answer, as it does
    when the engine dies of it.
    """

    code = "engine_call_failed"

    def __init__(self, message: str, *, cause: Cause | None = None, broken: str = "") -> None:
        super().__init__(message)
        self.cause = cause
        self.broken = broken


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
    stop_port: int = 0  # whoever of its processes listens there is to be asked, not the first one
    keys: "Keys | None" = None  # where the server is not told the plan's admin key


@dataclass(frozen=True, slots=True)
class Keys:
    """What a server asks for: on its control routes, and on all others."""

    admin: str
    api: str = ""


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

    async def kept_memory(self, link: "Link", over: str) -> Cause:
        """Why its memory did not come back though it said that it sleeps; `over` says how much."""
        ...

    async def metrics(self, link: "Link") -> bytes | None:
        """What it counts, in Prometheus' text format; None where it was not started to tell that.

        The caller limits the time.
        """
        ...

    def leftovers(self, pid: int) -> list[Path]:
        """Files outside its work folder that the live server `pid` will leave when it is killed."""
        ...


def open_http() -> httpx.AsyncClient:
    """For calls and probes on loopback.

    A connection is kept for the calls of one sleep or wake, which follow each other at once: that halves what each
    costs (0.5 ms instead of 1 ms of CPU).  No longer: a call on one whose server has died meanwhile would be in
    doubt.  There is no TLS: loading the certificates would cost 30 ms of CPU.
    """
    limits = httpx.Limits(keepalive_expiry=KEPT)
    return httpx.AsyncClient(limits=limits, trust_env=False, verify=False)


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
        api_key: str = "",
    ) -> None:
        self._http = http
        self._url = url
        self._auth = _bearer(admin_key)
        self._api_auth = _bearer(api_key)
        self._intend = intend
        self.call_timeout = call_timeout
        self.probe_timeout = probe_timeout

    async def call(self, verb: str, path: str, body: dict[str, Any]) -> None:
        """POST a call that changes the server; raises EngineCallFailed unless it answers 200."""
        self._intend(verb)
        try:
            with trio.fail_after(self.call_timeout):
                answer = await self._http.post(self._url + path, json=body, headers=self._auth, timeout=None)
        except trio.TooSlowError:
            raise EngineCallFailed(f"{verb}: no answer in {self.call_timeout:g} s") from None
        except httpx.HTTPError as error:
            message = f"{verb}: the connection broke before an answer ({error!r})"
            raise EngineCallFailed(message, broken=verb) from None
        if answer.status_code != 200:
            cause = causes.of_answer(verb, answer.status_code, answer.text)
            raise EngineCallFailed(f"{verb} was refused: {answer.status_code} {_excerpt(answer)}", cause=cause)
        self._intend(None)

    async def probe(self, path: str) -> int | None:
        """GET; the status, or None where nobody answered in time."""
        try:
            return (await self._get(path)).status_code
        except (httpx.HTTPError, trio.TooSlowError):
            return None

    async def ask(self, path: str) -> Any:
        """GET a JSON document; raises EngineCallFailed."""
        try:
            answer = await self._get(path)
            if answer.status_code == 200:
                return answer.json()
        except (httpx.HTTPError, trio.TooSlowError, ValueError) as error:
            raise EngineCallFailed(f"GET {path}: {error!r}") from None
        cause = causes.of_answer(path, answer.status_code, answer.text)
        raise EngineCallFailed(f"GET {path}: {answer.status_code}", cause=cause)

    async def page(self, path: str, most: int) -> bytes | None:
        """GET a text of at most `most` bytes, as it is sent; None where there is none (404).

        Raises EngineCallFailed.  The caller limits the time.
        """
        headers = {**self._api_auth, "Accept-Encoding": "identity"}
        received, status = bytearray(), 0
        try:
            with trio.CancelScope() as scope:  # httpx must be told, not left, in the middle of an answer
                async with self._http.stream("GET", self._url + path, headers=headers, timeout=None) as answer:
                    status = answer.status_code
                    async for data in answer.aiter_raw():
                        received += data
                        if len(received) > most:
                            scope.cancel()
        except httpx.HTTPError as error:
            raise EngineCallFailed(f"GET {path}: {error!r}") from None
        if len(received) > most:
            raise EngineCallFailed(f"GET {path}: it is longer than {most} bytes")
        if status not in (200, 404):
            raise EngineCallFailed(f"GET {path}: {status}")
        return bytes(received) if status == 200 else None

    async def _get(self, path: str) -> httpx.Response:
        with trio.fail_after(self.probe_timeout):
            return await self._http.get(self._url + path, headers=self._api_auth, timeout=None)


def _bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"} if key else {}


def _excerpt(answer: httpx.Response) -> str:
    text = " ".join(answer.text.split())
    return text if len(text) <= 300 else text[:300] + "..."
