"""What a client may ask for.  Anything not listed here never reaches a worker.

A worker gets the listed path and the query as sent, never the client's spelling of the path:
"/v1/%63ompletions" means the same to both of us, or it does not pass.

The lists were made from the routes of SGLang 0.5.23.  Of those that name no model:

* `/generate`, `/encode`, `/classify` and `/v1/decisions` take it from the body or from a header
  `x-muxd-model: NAME`.
* `/upstream/NAME/PATH` reaches what only reads and tells no secret.  Not `/server_info`, which
  tells the admin key; not `/health`, which may generate, and marks a paused server as unhealthy.
* `GET /v1/responses/ID` is there, as `/upstream/NAME/v1/responses/ID`.  Its `/cancel` is not
  to be had: closing the connection ends a request.
"""

import re
from enum import Enum, auto
from typing import NoReturn

import msgspec

from muxd.http.request import Request
from muxd.proxy.answers import Refusal

from . import asked
from .asked import Asked, Read
from .kinds import TEXT_ROUTES


class Local(Enum):
    """What the proxy answers by itself."""

    HEALTH = auto()
    MODELS = auto()  # the list
    MODEL = auto()  # one of them
    OLLAMA_TAGS = auto()  # the list, as Ollama has it
    OLLAMA_PS = auto()  # those that are awake
    OLLAMA_SHOW = auto()  # one of them
    OLLAMA_VERSION = auto()
    ROOT = auto()  # a line of text
    METRICS = auto()  # for Prometheus


class ToWorker(msgspec.Struct, frozen=True, gc=False):
    """A request for a worker.  `target` is what the worker is to see; `label` is one of a few, for metrics.

    `streams`: the answer is to be a stream of server-sent events, and there comments mean nothing.
    """

    target: bytes
    label: str
    asked: Asked
    streams: bool = False


class Here(msgspec.Struct, frozen=True):
    """A request that the proxy answers; `asked` is the model it asks about, else empty."""

    what: Local
    label: str
    asked: str = ""


class _Route(msgspec.Struct, frozen=True):
    target: bytes
    label: str
    read: Read
    has_events: bool  # it can answer with server-sent events; the others ignore a "stream", or refuse it


# As Ollama's own the routes below /api/ stream lines of JSON.
_HAVE_EVENTS = frozenset(label for label in TEXT_ROUTES if not label.startswith("/api/"))


def _routes(read: Read, *paths: str, prefix: str = "") -> dict[bytes, _Route]:
    return {path.encode(): _Route((prefix + path).encode(), path, read, path in _HAVE_EVENTS) for path in paths}


_POST: dict[bytes, _Route] = {
    **_routes(
        asked.in_json,
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/embeddings",
        "/v1/classify",
        "/v1/score",
        "/v1/rerank",
        "/v1/responses",
        "/v1/tokenize",
        "/v1/detokenize",
        "/v1/messages",
        "/v1/messages/count_tokens",
        "/v1/systemone",
        "/tokenize",
        "/detokenize",
    ),
    **_routes(asked.in_json, "/rerank", prefix="/v1"),  # where other servers have it
    **_routes(asked.in_ollamas_json, "/api/chat", "/api/generate"),
    **_routes(asked.beside_json, "/generate", "/encode", "/classify", "/v1/decisions"),
    **_routes(asked.in_form, "/v1/audio/transcriptions"),
}

_HERE = {
    "/": Local.ROOT,
    "/health": Local.HEALTH,
    "/metrics": Local.METRICS,
    "/models": Local.MODELS,
    "/v1/models": Local.MODELS,
    "/api/tags": Local.OLLAMA_TAGS,
    "/api/ps": Local.OLLAMA_PS,
    "/api/version": Local.OLLAMA_VERSION,
}
_MODEL_PREFIX = "/v1/models/"
_SHOW = "/api/show"

# A served name may have slashes; where more than one reading fits, the shortest name is meant.
_UPSTREAM = re.compile(
    r"/upstream/(?P<name>.+?)"
    r"(?P<path>/model_info|/get_model_info|/v1/models|/v1/loads|/v1/responses/(?P<id>[A-Za-z0-9_-]+)|/metrics|/ready|/ping)"
)
_RESPONSE = re.compile(r"/v1/responses/[^/]+")


def find(request: Request) -> ToWorker | Here:
    """Where a request goes; raises Refusal."""
    route = _POST.get(request.target)
    if route is None:
        return _find_slowly(request)
    if request.method != "POST":
        raise _wrong_method(request, "POST")
    said = route.read(request)
    return ToWorker(route.target, route.label, said, route.has_events and bool(said.stream))


def _find_slowly(request: Request) -> ToWorker | Here:
    """With a query, with a path in another spelling, or not for a worker at all."""
    path = request.path
    _, mark, query = request.target.partition(b"?")
    route = _POST.get(path.encode())
    if route is not None:
        _demand(request, "POST")
        said = route.read(request)
        return ToWorker(route.target + mark + query, route.label, said, route.has_events and bool(said.stream))
    inside = _UPSTREAM.fullmatch(path)
    if inside is not None:
        _demand(request, "GET")
        return _inside(inside, mark + query)
    return _find_here(request, path)


def _inside(found: "re.Match[str]", query: bytes) -> ToWorker:
    label = "/upstream/{name}" + ("/v1/responses/{id}" if found["id"] else found["path"])
    return ToWorker(found["path"].encode() + query, label, asked.of_path(found["name"]))


def _find_here(request: Request, path: str) -> Here:
    if path == _SHOW:
        _demand(request, "POST")
        return Here(Local.OLLAMA_SHOW, path, asked.to_show(request))
    if path.startswith(_MODEL_PREFIX):
        _demand(request, "GET", "HEAD")
        return Here(Local.MODEL, "/v1/models/{id}", path.removeprefix(_MODEL_PREFIX))
    what = _HERE.get(path)
    if what is None:
        _refuse(path)
    _demand(request, "GET", "HEAD")
    return Here(what, path)


def _demand(request: Request, *methods: str) -> None:
    if request.method not in methods:
        raise _wrong_method(request, methods[0])


def _wrong_method(request: Request, allowed: str) -> Refusal:
    message = f"{request.path[:200]} takes {allowed}, not {request.method}"
    return Refusal(405, "method_not_allowed", message, headers=((b"allow", allowed.encode()),))


def _refuse(path: str) -> NoReturn:
    if path == "/v1/realtime":
        message = "/v1/realtime is a WebSocket, which this proxy does not pass on: use POST /v1/audio/transcriptions"
        raise Refusal(501, "websocket_not_supported", message)
    if _RESPONSE.fullmatch(path):
        message = f"{path[:200]} names no model: it is at GET /upstream/MODEL{path[:200]}"
        raise Refusal(404, "route_not_found", message)
    message = f"there is no {path[:200]} here: see GET /v1/models and POST /v1/chat/completions"
    raise Refusal(404, "route_not_found", message)
