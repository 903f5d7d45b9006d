"""The line on which muxd talks to one server of an engine.

A server runs other people's code, and its answers are judged as such: whatever one sends, the most that comes of it
is a probe or a call that failed.  Size, depth, encoding and numbers are bounded here, for every answer.
"""

import errno
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import isfinite
from typing import Any

import httpx
import trio

from muxd.errors import EngineLocked, MuxdError

from . import diagnosis
from .diagnosis import Diagnosis, quote

#: Seconds that a connection to an engine outlasts an answer.
KEPT = 0.2

#: Bytes of an answer to a call or a probe.  SGLang's longest is /server_info: 12 KB for one rank.
LONGEST_ANSWER = 1 << 20

#: Characters of a whole number in an answer: 64 bits have 20 at most.
LONGEST_NUMBER = 20

#: Seconds between two tries where muxd itself lacks what a connection takes.
LACKING_POLL = 0.05

#: What keeps a connection from being made and says nothing of the server: muxd or the machine is short of it.
LACKING = {
    *(errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM),
    errno.EADDRNOTAVAIL,  # no port is left to connect from
}


#: Statuses of a server that lives but wants another key.
LOCKED = (401, 403)


class EngineCallFailed(MuxdError):
    """An engine call was refused, or nobody knows what became of it.

    `cause`: why, where that is known.  `broken`: the call whose connection broke before an answer, as it does
    when the engine dies of it.  `lacking`: it was never sent, for muxd itself was short of what that takes.
    """

    code = "engine_call_failed"

    def __init__(
        self, message: str, *, cause: Diagnosis | None = None, broken: str = "", lacking: bool = False
    ) -> None:
        super().__init__(message)
        self.cause = cause
        self.broken = broken
        self.lacking = lacking

    @property
    def locked(self) -> bool:
        """It answers, but not to muxd."""
        return self.cause is not None and self.cause.code == EngineLocked.code


def open_http() -> httpx.AsyncClient:
    """For calls and probes on loopback.

    A connection is kept for the calls of one sleep or wake, which follow each other at once: that halves what each
    costs (0.5 ms instead of 1 ms of CPU).  No longer: a call on one whose server has died meanwhile would be in
    doubt.  There is no TLS: loading the certificates would cost 30 ms of CPU.
    """
    transport = _WithoutHeaders(limits=httpx.Limits(keepalive_expiry=KEPT), trust_env=False, verify=False)
    return httpx.AsyncClient(transport=transport, trust_env=False)


class _WithoutHeaders(httpx.AsyncHTTPTransport):
    """Takes an answer's headers off before the client acts on them.

    It would read cookies, which odd ones keep from working and which would be shown to other servers; and where an
    answer redirects to, though it follows none: of some addresses it raises what is no HTTPError.
    """

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        response = await super().handle_async_request(request)
        response.headers = httpx.Headers()
        return response


class EngineClient:
    """Control calls and probes to one server.

    `record_intent` is told the verb of every call that changes what the server holds before it
    is sent, and None when its answer is there: what it wrote last is what a successor
    of muxd would have to doubt.
    """

    def __init__(
        self,
        http: httpx.AsyncClient,
        url: str,
        admin_key: str,
        record_intent: Callable[[str | None], None],
        *,
        call_timeout: float,
        probe_timeout: float,
        api_key: str = "",
    ) -> None:
        self._http = http
        self._url = url
        self._auth = _bearer(admin_key)
        self._api_auth = _bearer(api_key)
        self._intend = record_intent
        self.call_timeout = call_timeout
        self.probe_timeout = probe_timeout

    def use(self, admin_key: str, api_key: str) -> None:
        """Keys that were found meanwhile."""
        self._auth, self._api_auth = _bearer(admin_key), _bearer(api_key)

    def move(self, url: str) -> None:
        """It was found to listen elsewhere."""
        self._url = url

    async def call(self, verb: str, path: str, body: dict[str, Any]) -> None:
        """POST a call that changes the server; raises EngineCallFailed unless it answers 200."""
        self._intend(verb)
        try:
            answer = await self._request("POST", path, self._auth, self.call_timeout, body)
        except _Lacking as error:
            raise EngineCallFailed(f"{verb}: {error}", lacking=True) from None
        except trio.TooSlowError:
            raise EngineCallFailed(f"{verb}: no answer in {self.call_timeout:g} s") from None
        except _Odd as error:
            raise EngineCallFailed(f"{verb}: {error}") from None
        except httpx.HTTPError as error:
            message = f"{verb}: the connection broke before an answer ({_why(error)})"
            raise EngineCallFailed(message, broken=verb) from None
        if answer.status != 200:
            cause = diagnosis.of_answer(verb, answer.status, answer.text)
            raise EngineCallFailed(f"{verb} was refused: {answer.status} {quote(answer.text)}", cause=cause)
        self._intend(None)

    async def probe(self, path: str) -> int | None:
        """GET; the status, or None where nobody answered in time."""
        try:
            return (await self._get(path)).status
        except (httpx.HTTPError, trio.TooSlowError, _Odd, _Lacking):
            return None

    async def ask(self, path: str) -> Any:
        """GET a JSON document; raises EngineCallFailed."""
        try:
            answer = await self._get(path)
            if answer.status == 200:
                return answer.json()
        except _Lacking as error:
            raise EngineCallFailed(f"GET {path}: {error}", lacking=True) from None
        except trio.TooSlowError:
            raise EngineCallFailed(f"GET {path}: no answer in {self.probe_timeout:g} s") from None
        except (httpx.HTTPError, _Odd) as error:
            raise EngineCallFailed(f"GET {path}: {_why(error)}") from None
        cause = diagnosis.of_answer(path, answer.status, answer.text)
        raise EngineCallFailed(f"GET {path}: {answer.status}", cause=cause)

    async def page(self, path: str, most: int) -> bytes | None:
        """GET a text of at most `most` bytes, as it is sent; None where there is none (404).

        Raises EngineCallFailed.  The caller limits the time.
        """
        try:
            answer = await self._exchange("GET", path, self._api_auth, None, most)
        except (httpx.HTTPError, _Odd) as error:
            raise EngineCallFailed(f"GET {path}: {_why(error)}") from None
        if answer.status not in (200, 404):
            raise EngineCallFailed(f"GET {path}: {answer.status}")
        return answer.body if answer.status == 200 else None

    async def _get(self, path: str) -> "_Answer":
        return await self._request("GET", path, self._api_auth, self.probe_timeout)

    async def _request(
        self, method: str, path: str, auth: dict[str, str], timeout: float, body: Any = None
    ) -> "_Answer":
        """Raises httpx.HTTPError, TooSlowError, and _Odd; _Lacking where it could not be sent all the while."""
        lack = 0
        with trio.move_on_after(timeout):
            while True:
                try:
                    return await self._exchange(method, path, auth, body, LONGEST_ANSWER)
                except httpx.ConnectError as error:
                    lack = next((number for number in _refused(error) if number in LACKING), 0)
                    if not lack:
                        raise
                await trio.sleep(LACKING_POLL)
        if lack:
            raise _Lacking(f"muxd cannot make a connection: {_said(lack)}")
        raise trio.TooSlowError

    async def _exchange(self, method: str, path: str, auth: dict[str, str], body: Any, most: int) -> "_Answer":
        """Its body as it is sent, for one that is packed could be of any size; raises httpx.HTTPError and _Odd."""
        headers = {**auth, "Accept-Encoding": "identity"}
        received, status = bytearray(), 0
        with trio.CancelScope() as too_long:  # httpx must be told, not left, in the middle of an answer
            url = self._url + path
            async with self._http.stream(method, url, json=body, headers=headers, timeout=None) as answer:
                status = answer.status_code
                async for data in answer.aiter_raw():
                    received += data
                    if len(received) > most:
                        too_long.cancel()
        if len(received) > most:
            raise _Odd(f"the answer is longer than {most} bytes")
        return _Answer(status, bytes(received))


class _Odd(Exception):
    """An answer that no engine gives."""


class _Lacking(Exception):
    """Nothing was sent: muxd or the machine is short of what a connection takes."""


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    body: bytes

    @property
    def text(self) -> str:
        """Whatever its headers say of its encoding."""
        return self.body.decode(errors="replace")

    def json(self) -> Any:
        """Raises _Odd where it is none, or where no engine would send such a one."""
        try:
            return json.loads(self.body, parse_int=_whole, parse_float=_finite, parse_constant=_finite)
        except RecursionError:
            raise _Odd("its JSON is nested too deeply") from None
        except ValueError as error:
            raise _Odd(f"it is not JSON: {error}") from None


def _whole(digits: str) -> int:
    if len(digits) > LONGEST_NUMBER:
        raise ValueError(f"a number of {len(digits)} digits")
    return int(digits)


def _finite(number: str) -> float:
    if not isfinite(value := float(number)):
        raise ValueError("a number without end")
    return value


def _why(error: Exception) -> str:
    """What broke a connection or spoilt an answer: in the system's words, where it has some."""
    refused = next(_refused(error), 0)
    return quote(_said(refused) if refused else str(error) or "the connection broke")


def _said(number: int) -> str:
    return os.strerror(number).lower()  # trio's own words have the address in Python's spelling


def _refused(error: BaseException) -> Iterator[int]:
    """What the system refused when a connection failed, as errno: trio and httpx wrap it several times."""
    if isinstance(error, OSError) and error.errno:
        yield error.errno
    inner = list(error.exceptions) if isinstance(error, BaseExceptionGroup) else []
    inner += [each for each in (error.__cause__, error.__context__) if each is not None]
    for each in inner:
        yield from _refused(each)


def _bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"} if key else {}
