"""The HTTP client by which muxd probes and calls one server of an engine.

A server runs other people's code, and its answers are judged as such: whatever a server sends, the worst outcome
is a failed probe or call.  Size, depth, encoding and numbers are bounded here, for every answer.
"""

import errno
import json
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from copy import copy
from math import isfinite
from pathlib import Path
from typing import Any, Protocol

import msgspec
import trio

from muxd.errors import EXHAUSTED, EngineLocked, MuxdError
from muxd.http.keepalive_client import (
    ConnectFailed,
    ExchangeFailed,
    HttpAnswer,
    HttpClient,
    KeepAliveClient,
    OverlongAnswer,
)

from . import diagnosis
from .diagnosis import Diagnosis, quote

#: Seconds that a connection to an engine is kept after an answer.
KEPT = 0.2

#: Bytes of an answer to a call or a probe, at most.  SGLang's longest is /server_info: 12 KB for one rank.
LONGEST_ANSWER = 1 << 20

#: Characters of a whole number in an answer: 64 bits have 20 at most.
LONGEST_NUMBER = 20

#: Seconds between two tries where muxd itself is short of what a connection takes.
LACKING_POLL = 0.05

#: Errors of connect() that say nothing of the server: muxd or the host is short of descriptors, memory or ports.
LACKING = EXHAUSTED | {errno.EADDRNOTAVAIL}  # no port is left to connect from


#: HTTP statuses of a server that lives but wants another key.
LOCKED = (401, 403)


class EngineCallFailed(MuxdError):
    """An engine call was refused, or nobody knows what became of it.

    `cause`: why, where that is known.  `broken`: the verb of the call whose connection broke before an answer, as it
    does when the engine dies of the call; else "".  `lacking`: the call was never sent, for muxd itself was short of
    what a connection takes.  `answered`: the server answered, but not what was asked for.
    """

    code = "engine_call_failed"

    def __init__(
        self,
        message: str,
        *,
        cause: Diagnosis | None = None,
        broken: str = "",
        lacking: bool = False,
        answered: bool = False,
    ) -> None:
        super().__init__(message)
        self.cause = cause
        self.broken = broken
        self.lacking = lacking
        self.answered = answered

    @property
    def locked(self) -> bool:
        """Return whether the server answers, but refuses muxd's key."""
        return self.cause is not None and self.cause.code == EngineLocked.code


class HookFailed(Exception):
    """A command that muxd ran beside a server could not be started, or failed; the text says why."""


class ServerTree(Protocol):
    """The processes of one server, and commands that muxd runs beside them."""

    def pids(self) -> list[int]:
        """Return all processes of the server; raise OSError where they cannot be read."""
        ...

    def listener(self) -> int:
        """Return the process that listens at the server's port; the first one of all where that cannot be seen."""
        ...

    async def run(self, argv: Sequence[str]) -> None:
        """Run a command to its end; raise HookFailed.  A cancellation kills it, with all that it has started."""
        ...


def open_http(unix: Path | None = None) -> KeepAliveClient:
    """Open the connections for calls and probes on loopback, or for probes at a Unix socket.

    A connection is kept KEPT seconds, for the calls of one sleep or wake, which follow each other at once.
    """
    return KeepAliveClient(KEPT, unix)


def _by_status(call: str, status: int, body: str) -> Diagnosis | None:
    return diagnosis.of_answer(call, status)


class EngineClient:
    """Control calls and probes to one server.

    `record_intent` gets the verb of every call that changes what the server holds before the call is sent, and None
    when the answer is there: a verb that stands in the state file when muxd starts is a call with unknown outcome.
    None is sent before `recorded` returns, which its owner sets; what changes nothing need not wait for that.
    `diagnose` gets the verb or path of a request, and the status and body of an error; it returns why.
    Timeouts are in seconds.
    """

    def __init__(
        self,
        http: HttpClient,
        url: str,
        admin_key: str,
        record_intent: Callable[[str | None], None],
        *,
        call_timeout: float,
        probe_timeout: float,
        api_key: str = "",
        diagnose: Callable[[str, int, str], Diagnosis | None] = _by_status,
        tree: ServerTree | None = None,
    ) -> None:
        self.tree = tree
        self._http = http
        self._url = url
        self._auth = _bearer(admin_key)
        self._api_auth = _bearer(api_key)
        self._intend = record_intent
        self._diagnose = diagnose
        self.recorded: Callable[[], Awaitable[None]] = trio.lowlevel.checkpoint
        self.call_timeout = call_timeout
        self.probe_timeout = probe_timeout

    def use(self, admin_key: str, api_key: str) -> None:
        """Send these keys from now on; they were found after the server had started."""
        self._auth, self._api_auth = _bearer(admin_key), _bearer(api_key)

    def at(self, url: str) -> "EngineClient":
        """Return a client for another address of the same server, such as that of its metrics."""
        other = copy(self)
        other.move(url)
        return other

    def move(self, url: str) -> None:
        """Send to this address from now on: the server was found to listen there."""
        self._url = url

    async def connect(self) -> None:
        """Have a connection ready for the next request, where there can be one; it says nothing to the server."""
        with trio.move_on_after(self.probe_timeout):
            await self._http.prepare(self._url)

    async def call(self, verb: str, path: str, body: dict[str, Any]) -> None:
        """POST a call that changes the server; raise EngineCallFailed unless the server answers 200."""
        answer = await self._called(verb, "POST", path, self._auth, body)
        if answer.status != 200:
            cause = self._diagnose(verb, answer.status, answer.text)
            raise EngineCallFailed(f"{verb} was refused: {answer.status} {quote(answer.text)}", cause=cause)
        self._intend(None)

    async def send(self, verb: str, method: str, path: str, body: Any, headers: Mapping[str, str]) -> None:
        """Send a call that changes the server in some way of its own; raise EngineCallFailed unless it answers 2xx.

        None of muxd's keys is shown: `headers` has what the server asks for.
        """
        shown = {name.lower().encode(): value.encode() for name, value in headers.items()}
        answer = await self._called(verb, method, path, shown, body)
        if answer.status // 100 != 2:
            raise EngineCallFailed(f"{verb}: {method} {path}: {answer.status} {quote(answer.text)}")
        self._intend(None)

    async def run(self, verb: str, argv: Sequence[str]) -> None:
        """Run a command that changes the server; raise EngineCallFailed unless it ends well within call_timeout."""
        assert self.tree is not None
        self._intend(verb)
        await self.recorded()
        try:
            with trio.fail_after(self.call_timeout):
                await self.tree.run(argv)
        except trio.TooSlowError:
            raise EngineCallFailed(f"{verb}: {argv[0]} did not end in {self.call_timeout:g} s") from None
        except HookFailed as error:
            raise EngineCallFailed(f"{verb}: {argv[0]} {error}") from None
        self._intend(None)

    async def _called(self, verb: str, method: str, path: str, auth: dict[bytes, bytes], body: Any) -> "_Answer":
        """Write a call ahead, send it, and return its answer; raise EngineCallFailed where none came."""
        self._intend(verb)
        await self.recorded()
        try:
            return await self._request(method, path, auth, self.call_timeout, body)
        except _Lacking as error:
            raise EngineCallFailed(f"{verb}: {error}", lacking=True) from None
        except trio.TooSlowError:
            raise EngineCallFailed(f"{verb}: no answer in {self.call_timeout:g} s") from None
        except OverlongAnswer as error:
            raise EngineCallFailed(f"{verb}: {error}") from None
        except ExchangeFailed as error:
            message = f"{verb}: the connection broke before an answer ({_why(error)})"
            raise EngineCallFailed(message, broken=verb) from None

    async def probe(self, path: str) -> int | None:
        """Send a GET and return the status; None where nobody answered within probe_timeout."""
        try:
            return (await self._get(path)).status
        except (ExchangeFailed, trio.TooSlowError, _Lacking):
            return None

    async def ask(self, path: str) -> Any:
        """Send a GET and return the JSON document; raise EngineCallFailed where none comes within probe_timeout."""
        try:
            answer = await self._get(path)
            if answer.status == 200:
                return answer.json()
        except _Lacking as error:
            raise EngineCallFailed(f"GET {path}: {error}", lacking=True) from None
        except trio.TooSlowError:
            raise EngineCallFailed(f"GET {path}: no answer in {self.probe_timeout:g} s") from None
        except (ExchangeFailed, _Odd) as error:
            raise EngineCallFailed(f"GET {path}: {_why(error)}") from None
        cause = self._diagnose(path, answer.status, answer.text)
        raise EngineCallFailed(f"GET {path}: {answer.status}", cause=cause)

    async def prove(self, path: str, body: Any) -> Any:
        """POST the wake proof's question, which changes nothing, and return the JSON document.

        Raise EngineCallFailed where none comes within call_timeout.
        """
        try:
            answer = await self._request("POST", path, self._api_auth, self.call_timeout, body)
            if answer.status == 200:
                return answer.json()
        except _Lacking as error:
            raise EngineCallFailed(f"proof: {error}", lacking=True) from None
        except trio.TooSlowError:
            raise EngineCallFailed(f"proof: no answer in {self.call_timeout:g} s") from None
        except (OverlongAnswer, _Odd) as error:
            raise EngineCallFailed(f"proof: {error}", answered=True) from None
        except ExchangeFailed as error:
            message = f"proof: the connection broke before an answer ({_why(error)})"
            raise EngineCallFailed(message, broken="proof") from None
        raise EngineCallFailed(f"proof: {path} answered {answer.status} {quote(answer.text)}", answered=True)

    async def first_bytes(self, path: str, body: Any) -> float:
        """POST a request for a stream, read it to its end, and return the seconds until its first bytes.

        Raise EngineCallFailed where none come within call_timeout.
        """
        began = trio.current_time()
        try:
            answer = await self._request("POST", path, self._api_auth, self.call_timeout, body)
        except (ExchangeFailed, trio.TooSlowError, _Lacking) as error:
            raise EngineCallFailed(f"POST {path}: {_why(error)}") from None
        if answer.status != 200 or answer.first_at is None:
            raise EngineCallFailed(f"POST {path}: {answer.status}")
        return answer.first_at - began

    async def change(self, method: str, path: str, body: Any = None) -> Any:
        """Send a request that changes what a server knows, but nothing that it holds: it may be sent again.

        Return the JSON of the answer; raise EngineCallFailed unless the server answers 2xx with some in probe_timeout.
        """
        try:
            answer = await self._request(method, path, self._auth, self.probe_timeout, body)
        except _Lacking as error:
            raise EngineCallFailed(f"{method} {path}: {error}", lacking=True) from None
        except trio.TooSlowError:
            raise EngineCallFailed(f"{method} {path}: no answer in {self.probe_timeout:g} s") from None
        except (ExchangeFailed, _Odd) as error:
            raise EngineCallFailed(f"{method} {path}: {_why(error)}") from None
        if answer.status // 100 != 2:
            raise EngineCallFailed(f"{method} {path}: {answer.status} {quote(answer.text)}")
        try:
            return answer.json()
        except _Odd as error:
            raise EngineCallFailed(f"{method} {path}: {error}") from None

    async def page(self, path: str, most: int) -> bytes | None:
        """Send a GET and return the body as it was sent, at most `most` bytes; None where the route is unknown (404).

        Raise EngineCallFailed on other failures.  The caller limits the time.
        """
        try:
            answer = await self._exchange("GET", path, self._api_auth, None, most)
        except (ExchangeFailed, _Odd) as error:
            raise EngineCallFailed(f"GET {path}: {_why(error)}") from None
        if answer.status not in (200, 404):
            raise EngineCallFailed(f"GET {path}: {answer.status}")
        return answer.body if answer.status == 200 else None

    async def _get(self, path: str) -> "_Answer":
        return await self._request("GET", path, self._api_auth, self.probe_timeout)

    async def _request(
        self, method: str, path: str, auth: dict[bytes, bytes], timeout: float, body: Any = None
    ) -> "_Answer":
        """Send one request and return the answer, trying again while muxd lacks what a connection takes.

        Raise ExchangeFailed and trio.TooSlowError; _Lacking where no connection could be made until `timeout`.
        """
        lack = 0
        with trio.move_on_after(timeout):
            while True:
                try:
                    lack = 0  # of an exchange that takes too long, the request may have been sent
                    return await self._exchange(method, path, auth, body, LONGEST_ANSWER)
                except ConnectFailed as error:
                    lack = error.errno
                    if lack not in LACKING:
                        raise
                await trio.sleep(LACKING_POLL)
        if lack:
            raise _Lacking(f"muxd cannot make a connection: {_strerror(lack)}")
        raise trio.TooSlowError

    async def _exchange(self, method: str, path: str, auth: dict[bytes, bytes], body: Any, most: int) -> "_Answer":
        """Send one request and return the answer, its body at most `most` bytes; raise ExchangeFailed."""
        content = msgspec.json.encode(body) if body is not None else None
        return _Answer(await self._http.exchange(method, self._url + path, auth, content, most))


class _Odd(Exception):
    """An answer that no engine would send: too long, or not the JSON that it should be."""


class _Lacking(Exception):
    """Nothing was sent: muxd or the host is short of what a connection takes."""


class _Answer:
    """What a server answered: nobody can say that it is what it should be."""

    def __init__(self, answer: HttpAnswer) -> None:
        self.status = answer.status
        self.body = answer.body
        self.first_at = answer.first_at

    @property
    def text(self) -> str:
        """Return the body as UTF-8, whatever the headers say of its encoding."""
        return self.body.decode(errors="replace")

    def json(self) -> Any:
        """Return the body as JSON; raise _Odd where it is not JSON, is nested too deeply, or has impossible numbers."""
        try:
            document = json.loads(self.body, parse_int=_short_int, parse_float=_finite, parse_constant=_finite)
            if b"\\u" in self.body:  # half of a pair of surrogates, which no text can have, passes the parser
                json.dumps(document, ensure_ascii=False).encode()
            return document
        except RecursionError:
            raise _Odd("its JSON is nested too deeply") from None
        except ValueError as error:
            raise _Odd(f"it is not JSON: {error}") from None


def _short_int(digits: str) -> int:
    if len(digits) > LONGEST_NUMBER:
        raise ValueError(f"a number of {len(digits)} digits")
    return int(digits)


def _finite(number: str) -> float:
    if not isfinite(value := float(number)):
        raise ValueError("a number without end")
    return value


def _why(error: Exception) -> str:
    """Return what broke a connection or spoilt an answer, in the system's words where there is an errno."""
    number = error.errno if isinstance(error, ExchangeFailed) else 0
    return quote(_strerror(number) if number else str(error) or "the connection broke")


def _strerror(number: int) -> str:
    return os.strerror(number).lower()


def _bearer(key: str) -> dict[bytes, bytes]:
    """Return the header with the key, in whatever bytes a launch script gave it to its server."""
    return {b"authorization": b"Bearer " + key.encode(errors="surrogateescape")} if key else {}
