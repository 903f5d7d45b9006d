"""What each address of the console answers."""

import json
import logging
import sys
from collections.abc import Callable
from subprocess import DEVNULL, run
from typing import Any
from urllib.parse import quote, unquote

import trio

from muxd.client import ControlClient
from muxd.errors import BadRequest, MethodNotAllowed, MuxdError, RouteNotFound, Unreachable
from muxd.http.request import Request
from muxd.http.response_writer import ClientGone, ResponseWriter
from muxd.threads import in_thread

from .access import Access, Level
from .files import SAFETY, static_files
from .live_feed import LiveFeed

log = logging.getLogger(__name__)

#: The orders that the page may give, each of which the control socket has.
VERBS = ("switch", "start", "stop", "restart", "sleep")

#: What the page may ask of the control socket, by its address here; the level that each takes.
ASKED = {
    "status": ("/v1/status", Level.GUEST),
    "series": ("/v1/series", Level.GUEST),
    "switches": ("/v1/switches", Level.VIEW),
    "requests": ("/v1/requests", Level.VIEW),
    "usage": ("/v1/usage", Level.VIEW),
}

#: Seconds between two comments in a stream of which nothing is to be said: a viewer who is gone is seen by them.
HEARTBEAT = 15.0

#: Seconds that a chat of "Try it" may be silent.
CHAT_TIMEOUT = 600.0

_JSON = "application/json"


class ConsoleRoutes:
    """The handlers of the console."""

    def __init__(self, control: ControlClient, access: Access, feed: LiveFeed, proxy: Callable[[], str]) -> None:
        self._control = control
        self._access = access
        self._feed = feed
        self._proxy = proxy
        self._files = static_files()

    async def answer(self, request: Request, writer: ResponseWriter) -> None:
        """Answer one request, as the handler of serve_http; raises MuxdError.

        A fault of the console's own costs this request alone, and is in the console's log.
        """
        try:
            await self._answer(request, writer)
        except (MuxdError, ClientGone):
            raise
        except Exception as error:
            if isinstance(error, ExceptionGroup) and error.split(ClientGone)[1] is None:
                raise
            log.exception("a fault of the console at %s %s", request.method, request.path[:256])
            raise MuxdError("the console failed at this request: its log says why (muxctl logs ui)") from None

    async def _answer(self, request: Request, writer: ResponseWriter) -> None:
        writer.lines = SAFETY
        parts = [unquote(part) for part in request.raw_path.split("/")][1:]
        if not parts:  # "*", which no page asks for
            raise RouteNotFound("there is nothing here: the console is at /ui/")
        if parts in ([""], ["ui"]):
            await writer.send_json(303, {}, [(b"location", b"/ui/")])
        elif parts[0] != "ui":
            raise RouteNotFound(f"there is no {request.path[:256]} here: the console is at /ui/")
        elif parts[1:2] == ["api"]:
            writer.lines = SAFETY + b"cache-control: no-store\r\n"
            await self._answer_api(request, writer, parts[2:])
        else:
            await self._send_file(request, writer, parts[1:])

    async def _send_file(self, request: Request, writer: ResponseWriter, parts: list[str]) -> None:
        self._access.viewer(request)
        _take(request, "GET")
        file = self._files.get("/".join(parts) or "index.html")
        if file is None:
            raise RouteNotFound(f"there is no {request.path[:256]} here: the console is at /ui/")
        writer.lines += b"etag: %b\r\ncache-control: no-cache\r\nvary: accept-encoding\r\n" % file.tag
        if request.header(b"if-none-match") == file.tag:
            writer.keep_alive = False
            await writer.start_stream(file.content_type, 304)
            return
        writer.lines += b"content-encoding: gzip\r\n"
        await writer.send_body(file.content_type, file.content)

    async def _answer_api(self, request: Request, writer: ResponseWriter, parts: list[str]) -> None:
        match parts:
            case ["live"]:
                _take(request, "GET")
                self._access.require(request, Level.GUEST)
                await self._send_live(request, writer)
            case ["me"]:
                _take(request, "GET")
                viewer = self._access.viewer(request)
                await writer.send_json(200, {"level": viewer.level.name.lower(), "name": viewer.name})
            case ["login"]:
                _take(request, "POST")
                viewer, cookie = self._access.log_in(request, _text_of(request, "key"))
                await _send_cookie(writer, {"level": viewer.level.name.lower(), "name": viewer.name}, cookie)
            case ["logout"]:
                _take(request, "POST")
                await _send_cookie(writer, {"level": "none", "name": ""}, self._access.log_out(request))
            case ["enter"]:
                _take(request, "GET")
                self._access.viewer(request)
                await self._enter(request, writer)
            case ["chat"]:
                _take(request, "POST")
                self._access.require(request, Level.GUEST)
                await self._chat(request, writer)
            case ["keys", *rest]:
                self._access.require(request, Level.ADMIN)
                await self._keys(request, writer, rest)
            case ["reload"]:
                _take(request, "POST")
                self._access.require(request, Level.ADMIN)
                dry_run = bool(_object_of(request).get("dry_run"))
                await writer.send_json(200, await self._control.ask("POST", "/v1/reload", {"dry_run": dry_run}))
            case ["requests", id, "cancel"]:
                _take(request, "POST")
                self._access.require(request, Level.ADMIN)
                await writer.send_json(200, await self._control.ask("POST", f"/v1/requests/{_quoted(id)}/cancel", {}))
            case ["models", *name, "logs"]:
                _take(request, "GET")
                self._access.require(request, Level.ADMIN)
                await self._send_log(request, writer, f"/v1/models/{_quoted('/'.join(name))}/logs")
            case ["logs"]:
                _take(request, "GET")
                self._access.require(request, Level.ADMIN)
                await self._send_log(request, writer, "/v1/logs")
            case ["models", *name, verb] if verb in VERBS:
                _take(request, "POST")
                self._access.require(request, Level.ADMIN)
                target = f"/v1/models/{_quoted('/'.join(name))}/{verb}"
                body = _object_of(request) | {"wait": False}
                await writer.send_json(202, await self._control.ask("POST", target, body))
            case ["models", *name] if name:
                _take(request, "GET")
                self._access.require(request, Level.GUEST)
                await writer.send_json(200, await self._control.model("/".join(name)))
            case [what] if what in ASKED:
                _take(request, "GET")
                path, level = ASKED[what]
                self._access.require(request, level)
                if "follow" in request.query:
                    raise BadRequest("only logs are followed here; what changes is told at /ui/api/live")
                query = request.target.partition(b"?")[2].decode("latin-1")
                await writer.send_json(200, await self._control.ask("GET", f"{path}?{query}" if query else path))
            case _:
                raise RouteNotFound(f"there is no {request.path[:256]} here")

    async def _send_live(self, request: Request, writer: ResponseWriter) -> None:
        last = (request.header(b"last-event-id") or b"").decode("latin-1") or None
        async with self._feed.watch(last) as viewer:
            await writer.start_stream("text/event-stream")
            while True:
                told = b": nothing new\n\n"
                with trio.move_on_after(HEARTBEAT):
                    told = await viewer.messages()
                self._access.require(request, Level.GUEST)  # a key may have been revoked meanwhile
                await writer.write(told)

    async def _send_log(self, request: Request, writer: ResponseWriter, path: str) -> None:
        """Pass a log on, line by line, until the viewer or muxd ends it."""
        query = request.target.partition(b"?")[2].decode("latin-1")
        async with self._control.open("GET", f"{path}?{query}") as log:
            await writer.start_stream("text/plain; charset=utf-8")
            async for piece in log.pieces():
                self._access.require(request, Level.ADMIN)  # a key may have been revoked meanwhile
                await writer.write(piece)

    async def _enter(self, request: Request, writer: ResponseWriter) -> None:
        """Redeem the one-time link of `muxctl ui`."""
        await self._control.ask("POST", "/v1/ui/redeem", {"token": request.query.get("token", "")})
        lines = [(b"location", b"/ui/"), (b"set-cookie", self._access.admit_link().encode())]
        await writer.send_json(303, {}, lines)

    async def _chat(self, request: Request, writer: ResponseWriter) -> None:
        """Pass one chat of "Try it" on to the proxy, with the key that the viewer wrote there, and its answer back."""
        import httpx  # 20 ms of CPU, which a console need not take before somebody chats there

        headers = {b"content-type": _JSON.encode()}
        if key := request.header(b"x-api-key"):
            headers[b"authorization"] = b"Bearer " + key
        url = f"{self._proxy()}/v1/chat/completions"
        try:
            async with (
                httpx.AsyncClient(
                    timeout=httpx.Timeout(CHAT_TIMEOUT, connect=5.0), trust_env=False, verify=False
                ) as client,
                client.stream("POST", url, content=request.body, headers=headers) as answer,
            ):
                await writer.start_stream(answer.headers.get("content-type", _JSON), answer.status_code)
                async for piece in answer.aiter_raw():
                    await writer.write(piece)
        except httpx.HTTPError as error:
            if writer.started:
                raise ClientGone(str(error)) from None
            raise Unreachable(f"the proxy at {url} cannot be reached: {error}") from None

    async def _keys(self, request: Request, writer: ResponseWriter, rest: list[str]) -> None:
        """List, add or revoke a key, as muxctl does it."""
        match rest:
            case []:
                _take(request, "GET")
                words = ["list"]
            case ["add"]:
                _take(request, "POST")
                words = ["add", *_options(request)]
            case [name, "revoke"]:
                _take(request, "POST")
                words = ["revoke", _key_name(name)]
            case _:
                raise RouteNotFound(f"there is no {request.path[:256]} here")
        await writer.send_json(200, await in_thread(lambda: _muxctl_keys(self._control.sockets[0], words)))


def _take(request: Request, method: str) -> None:
    """Raise MethodNotAllowed for a request with another method."""
    if request.method != method and not (method == "GET" and request.method == "HEAD"):
        raise MethodNotAllowed(f"{request.path[:256]} takes {method}, not {request.method}", allowed=[method])


def _object_of(request: Request) -> dict[str, Any]:
    """Return the body, {} where it is empty; raises BadRequest where it is no JSON object."""
    body = request.json()
    if not isinstance(body, dict):
        raise BadRequest("the body is no JSON object")
    return body


def _text_of(request: Request, name: str) -> str:
    """Return a text of the body; raises BadRequest where there is none."""
    value = _object_of(request).get(name)
    if not isinstance(value, str) or not value:
        raise BadRequest(f'the body has no {name}; send {{"{name}": "..."}}')
    return value


def _quoted(name: str) -> str:
    return quote(name, safe="")


async def _send_cookie(writer: ResponseWriter, value: Any, cookie: str) -> None:
    await writer.send_json(200, value, [(b"set-cookie", cookie.encode())])


def _options(request: Request) -> list[str]:
    """Return the words of `muxctl keys add` for a new key."""
    body = _object_of(request)
    words = []
    for name in ("models", "requests_per_minute", "priority", "expires"):
        value = body.get(name)
        if value not in (None, "", []):
            told = ",".join(map(str, value)) if isinstance(value, list) else str(value)
            words.append(f"--{name.replace('_', '-')}={_word(told)}")
    return [_key_name(_text_of(request, "name")), *words]


def _key_name(name: str) -> str:
    """Return a name that muxctl cannot take for an option; raises BadRequest."""
    if name.startswith("-"):
        raise BadRequest(f"{name[:100]} is not a key's name: it begins with -")
    return _word(name)


def _word(text: str) -> str:
    """Return what a program can be given as a word; raises BadRequest for a NUL, which ends one."""
    if "\0" in text:
        raise BadRequest("a NUL character is in no name and in no option of a key")
    return text


def _muxctl_keys(socket: Any, words: list[str]) -> Any:
    """Run `muxctl keys` with these words, and return what it prints; raises BadRequest with what it says."""
    argv = [sys.executable, "-m", "muxctl", "--socket", str(socket), "--json", "keys", *words]
    ended = run(argv, stdin=DEVNULL, capture_output=True, text=True, timeout=90, check=False)
    if ended.returncode != 0:
        raise BadRequest(ended.stderr.strip().removeprefix("muxctl: ") or "muxctl failed")
    return json.loads(ended.stdout)
