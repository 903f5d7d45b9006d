"""The routes that clients may use.  A request for any other path never reaches a worker.

A worker is sent the listed path and the query as the client wrote it, never the client's spelling of the path:
"/v1/%63ompletions" becomes "/v1/completions", so that proxy and worker mean the same route.  Doubled slashes and one
at the end are folded, and most routes are found with and without /v1: base URLs are written either way.

The lists were made from the routes of SGLang 0.5.23, vLLM 0.32.0 and OpenAI's API; which of them a model answers its
engine states, see muxd/engines/capabilities.py.  Routes whose requests name no model:

* `/generate`, `/encode`, `/classify` and `/v1/decisions` take the model from the body or from a header
  `x-muxd-model: NAME`; neither is needed where there is only one model.
* `/upstream/NAME/PATH` reaches routes that only read, and that tell no secret.  `/server_info` is not among them, as
  it tells the admin key; nor is `/health`, which may generate, and marks a paused server as unhealthy.
* `GET /v1/responses/ID` is reached as `/upstream/NAME/v1/responses/ID`.  Its `/cancel` is not passed on: a client
  ends a request by closing the connection.
"""

import re
from difflib import get_close_matches
from enum import Enum, auto
from typing import NoReturn
from urllib.parse import unquote

import msgspec

from muxd.http.request import Request
from muxd.proxy.answers import Refusal

from . import embeddings, request_info
from .request_info import Read, RequestInfo


class LocalAnswer(Enum):
    """The requests that the proxy answers itself, without a worker."""

    HEALTH = auto()
    MODELS = auto()  # the list of models
    MODEL = auto()  # one model
    OLLAMA_TAGS = auto()  # the list of models, in Ollama's format
    OLLAMA_PS = auto()  # the models that are awake
    OLLAMA_SHOW = auto()  # one model
    OLLAMA_VERSION = auto()
    ROOT = auto()  # a line of text
    METRICS = auto()  # for Prometheus


class WorkerRequest(msgspec.Struct, frozen=True, gc=False):
    """A request for a worker.  `target` is what the worker is sent; `label` is one of a few, for metrics.

    `route` is the path that the worker has to answer, as engines state theirs.  `has_events` says that the route can
    stream server-sent events, where comments are ignored.
    """

    target: bytes
    label: str
    route: str
    asked: RequestInfo
    has_events: bool = False

    @property
    def streams(self) -> bool:
        """Return whether the response is to be a stream of server-sent events."""
        return self.has_events and bool(self.asked.stream)


class LocalRequest(msgspec.Struct, frozen=True):
    """A request that the proxy answers itself; `asked` is the model that it asks about, else empty."""

    what: LocalAnswer
    label: str
    asked: str = ""


class _Route(msgspec.Struct, frozen=True):
    target: bytes
    label: str
    route: str
    read: Read
    has_events: bool  # the route can stream server-sent events; the others ignore a "stream", or refuse it


# Ollama's routes, below /api/, stream lines of JSON.
_HAVE_EVENTS = frozenset(
    (
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/responses",
        "/v1/messages",
        "/v1/audio/transcriptions",
        "/v1/audio/translations",
        "/generate",
    )
)


def _routes(read: Read, *paths: str, prefix: str = "") -> dict[bytes, _Route]:
    return {
        path.encode(): _Route((prefix + path).encode(), path, prefix + path, read, path in _HAVE_EVENTS)
        for path in paths
    }


def _with_and_without_v1(routes: dict[bytes, _Route]) -> dict[bytes, _Route]:
    """Return the routes, each under its path with and without /v1 in front; a listed path keeps its own route."""
    twins = {path.removeprefix(b"/v1") if path.startswith(b"/v1/") else b"/v1" + path: routes[path] for path in routes}
    return twins | routes


_OLLAMAS = _routes(request_info.in_ollamas_json, "/api/chat", "/api/generate")
_LISTED: dict[bytes, _Route] = {
    **_routes(request_info.as_chat, "/v1/chat/completions", "/v1/messages", "/v1/messages/count_tokens"),
    **_routes(
        request_info.in_json,
        "/v1/completions",
        "/v1/embeddings",
        "/v1/classify",
        "/v1/score",
        "/v1/rerank",
        "/v1/responses",
        "/v1/tokenize",
        "/v1/detokenize",
        "/v1/systemone",
        "/v1/audio/speech",
        "/v1/images/generations",
        "/v1/moderations",
        "/pooling",
        "/tokenize",
        "/detokenize",
    ),
    **_routes(request_info.in_json, "/rerank", prefix="/v1"),  # the path that other servers use
    **_routes(request_info.beside_json, "/generate", "/encode", "/classify", "/v1/decisions"),
    **_routes(request_info.in_form, "/v1/audio/transcriptions", "/v1/audio/translations"),
}
_OLLAMAS |= {
    path.encode(): _Route(b"/v1/embeddings", path, "/v1/embeddings", read, False)
    for path, read in ((embeddings.EMBED, embeddings.in_embed), (embeddings.EMBEDDINGS, embeddings.in_embeddings))
}
_COHERES = _routes(request_info.in_json, "/v2/rerank")
_POST = _with_and_without_v1(_LISTED) | _OLLAMAS | _COHERES

_LOCAL = {
    "/": LocalAnswer.ROOT,
    "/health": LocalAnswer.HEALTH,
    "/metrics": LocalAnswer.METRICS,
    "/models": LocalAnswer.MODELS,
    "/v1/models": LocalAnswer.MODELS,
    "/api/tags": LocalAnswer.OLLAMA_TAGS,
    "/api/ps": LocalAnswer.OLLAMA_PS,
    "/api/version": LocalAnswer.OLLAMA_VERSION,
}
_MODEL = re.compile(r"(?:/v1)?/models/(.+)", re.DOTALL)
_SHOW = "/api/show"
_SLASHES = re.compile(r"//+")

# The routes that the text of a 404 proposes, by path.
_KNOWN = {
    **{path.decode(): f"POST {path.decode()}" for path in (*_LISTED, *_OLLAMAS, *_COHERES)},
    **{path: f"GET {path}" for path in _LOCAL},
    _SHOW: f"POST {_SHOW}",
}
_LONGEST_TYPO = 64  # characters: for a longer path no similar route is looked for

# A served name may have slashes; where several splits into NAME and PATH fit, the shortest name is meant.
_UPSTREAM = re.compile(
    r"/upstream/(?P<name>.+?)"
    r"(?P<path>/model_info|/get_model_info|/v1/models|/v1/loads|/v1/responses/(?P<id>[A-Za-z0-9_-]+)|/metrics|/ready|/ping)"
)
# Routes of OpenAI's API that muxd does not offer: to propose a similar route would mislead.
_NOT_PASSED = re.compile(
    r"(?:/v1)?/(?P<what>images|files|batches|fine_tuning|assistants|threads|vector_stores|uploads|videos"
    r"|organization|evals|containers)(?:/|$)"
)
#: Ends of SGLang's routes that tell of one server; muxd has several, and passes on what tells no secret.
_SERVERS_OWN = ("get_model_info", "model_info", "get_server_info", "server_info")
_VERSION = re.compile(r"/v[0-9]+(?=/)")
_OLLAMAS_OWN = re.compile(r"/api/(pull|push|create|copy|delete|blobs/.*)")

_RESPONSE = re.compile(r"(?:/v1)?(/responses/[^/]+)")


def find(request: Request) -> WorkerRequest | LocalRequest:
    """Return the worker's or the local request that the client's is; raise Refusal where no route fits."""
    route = _POST.get(request.target)
    if route is None:
        return _find_slowly(request)
    if request.method != "POST":
        raise _wrong_method(request, "POST")
    info = route.read(request)
    return WorkerRequest(route.target, route.label, route.route, info, route.has_events)


def reader_of(target: bytes) -> Read | None:
    """Return what reads the bodies of POSTs to this very target, where it is a worker's route."""
    route = _POST.get(target)
    return None if route is None else route.read


def _find_slowly(request: Request) -> WorkerRequest | LocalRequest:
    """Find the route of a request with a query, with another spelling of the path, or for the proxy itself."""
    path = path_of(request)
    _, mark, query = request.target.partition(b"?")
    route = _POST.get(path.encode())
    if route is not None:
        _demand_method(request, "POST")
        info = route.read(request)
        return WorkerRequest(route.target + mark + query, route.label, route.route, info, route.has_events)
    upstream = _UPSTREAM.fullmatch(path)
    if upstream is not None:
        _demand_method(request, "GET")
        return _upstream_request(upstream, mark + query)
    return _find_local(request, path)


def path_of(request: Request) -> str:
    """Return the path to look up, percent-decoded after its slashes were folded: an encoded slash is part of a name."""
    raw = request.raw_path
    if "//" in raw:
        raw = _SLASHES.sub("/", raw)
    return unquote(raw.rstrip("/") or "/")


def _upstream_request(match: "re.Match[str]", query: bytes) -> WorkerRequest:
    route = "/v1/responses/{id}" if match["id"] else match["path"]
    return WorkerRequest(
        match["path"].encode() + query, "/upstream/{name}" + route, route, request_info.of_path(match["name"])
    )


def _find_local(request: Request, path: str) -> LocalRequest:
    if path == _SHOW:
        _demand_method(request, "POST")
        return LocalRequest(LocalAnswer.OLLAMA_SHOW, path, request_info.to_show(request))
    if (match := _MODEL.fullmatch(path)) is not None:
        _demand_method(request, "GET", "HEAD")
        return LocalRequest(LocalAnswer.MODEL, "/v1/models/{id}", match[1])
    what = _LOCAL.get(path)
    if what is None:
        _refuse(path)
    _demand_method(request, "GET", "HEAD")
    return LocalRequest(what, path)


def _demand_method(request: Request, *methods: str) -> None:
    if request.method not in methods:
        raise _wrong_method(request, methods[0])


def _wrong_method(request: Request, allowed: str) -> Refusal:
    message = f"{request.path[:200]} takes {allowed}, not {request.method}"
    return Refusal(405, "method_not_allowed", message, headers=((b"allow", allowed.encode()),))


def _refuse(path: str) -> NoReturn:
    shown = path[:200]
    if path in ("/v1/realtime", "/realtime"):
        message = f"{shown} is a WebSocket, which this proxy does not pass on: use POST /v1/audio/transcriptions"
        raise Refusal(501, "websocket_not_supported", message)
    if path == "/v1/v1" or path.startswith("/v1/v1/"):
        message = f"there is no {shown} here: base_url has one /v1 too many"
    elif (match := _RESPONSE.fullmatch(path)) is not None:
        message = f"{shown} names no model: it is at GET /upstream/MODEL/v1{match[1][:200]}"
    elif path == "/v1":
        message = "there is nothing at /v1 itself: it is the base_url, see GET /v1/models"
    elif (what := _NOT_PASSED.match(path)) is not None:
        message = f"muxd does not pass on {what['what']}: see GET /v1/models and POST /v1/chat/completions"
    elif (what := _OLLAMAS_OWN.fullmatch(path)) is not None:
        message = f"{shown} is not for muxd: models are added to and taken from muxd.toml, GET /api/tags lists them"
    elif path in ("/docs", "/redoc", "/openapi.json"):
        message = f"there is no {shown} here: SGLang's own pages are not passed on"
    elif path.rpartition("/")[2] in _SERVERS_OWN:
        message = f"{shown} names no model: what its server is, is told at GET /upstream/NAME/model_info"
    elif path == "/health_generate":
        message = f"there is no {shown} here: muxd watches its models itself, and tells of itself at GET /health"
    elif near := _nearest(path):
        message = f"there is no {shown} here; the nearest is {near}"
    else:
        message = f"there is no {shown} here: see GET /v1/models and POST /v1/chat/completions"
    raise Refusal(404, "route_not_found", message)


def _nearest(path: str) -> str | None:
    """Return the route that was probably meant, of the same family (/v1, /api, or neither); None for no route.

    It is one that the path ends with, or begins, or is a typo of; another version is taken for /v1.
    """
    path = _VERSION.sub("/v1", path.lower() if len(path) <= _LONGEST_TYPO else path)
    near = [known for known in _KNOWN if known != "/" and path.endswith(known)]
    if not near and len(path) <= _LONGEST_TYPO:
        family = [known for known in _KNOWN if _family(known) == _family(path)]
        longer = [known for known in _KNOWN if known.startswith((f"{path}/", f"/v1{path}/"))]
        near = longer[:1] or get_close_matches(path, family, n=1, cutoff=0.7)
    return _KNOWN[max(near, key=len)] if near else None


def _family(path: str) -> str:
    first = path.partition("/")[2].partition("/")[0]
    return first if first in ("v1", "api") else ""
