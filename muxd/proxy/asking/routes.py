"""What a client may ask for.  Anything not listed here never reaches a worker."""

from enum import Enum, auto

import msgspec

from muxd.http.request import Request
from muxd.proxy.answers import Refusal


class Local(Enum):
    """What the proxy answers by itself."""

    HEALTH = auto()
    MODELS = auto()  # the list
    MODEL = auto()  # one of them


_READING = ("GET", "HEAD")
_MODEL_PREFIX = "/v1/models/"
_LOCAL = {"/health": Local.HEALTH, "/models": Local.MODELS, "/v1/models": Local.MODELS}
_GENERATE = (
    "chat/completions",
    "completions",
    "embeddings",
    "classify",
    "score",
    "rerank",
    "responses",
    "tokenize",
    "detokenize",
    "messages",
    "messages/count_tokens",
)
_FORWARDED = {f"/v1/{name}".encode(): b"/v1/" + name.encode() for name in _GENERATE}


class _Named(msgspec.Struct):
    """The one field the proxy reads.  msgspec checks the rest only for being JSON."""

    model: str


def worker_target(request: Request) -> bytes | None:
    """The target that a worker is to see; None if the request is not for a worker.  Raises Refusal.

    A worker gets the listed path and the query as sent, never the client's spelling of the
    path: "/v1/%63ompletions" means the same to both of us, or it does not pass.
    """
    path, mark, query = request.target.partition(b"?")
    listed = _FORWARDED.get(path) or _FORWARDED.get(request.path.encode())
    if listed is None:
        return None
    if request.method != "POST":
        raise _wrong_method(request, "POST")
    return listed + mark + query


def local(request: Request) -> tuple[Local, str]:
    """What the proxy is to answer, and for MODEL the id asked for; raises Refusal."""
    path = request.path
    what = Local.MODEL if path.startswith(_MODEL_PREFIX) else _LOCAL.get(path)
    if what is None:
        message = f"there is no {path} here: see GET /v1/models and POST /v1/chat/completions"
        raise Refusal(404, "route_not_found", message)
    if request.method not in _READING:
        raise _wrong_method(request, "GET")
    return what, path.removeprefix(_MODEL_PREFIX)


def _wrong_method(request: Request, allowed: str) -> Refusal:
    message = f"{request.path} takes {allowed}, not {request.method}"
    return Refusal(405, "method_not_allowed", message, headers=((b"allow", allowed.encode()),))


def named_model(body: bytes) -> str:
    """The model that a request's JSON names; raises Refusal.  A second "model" wins, as it does in the worker."""
    try:
        return msgspec.json.decode(body, type=_Named).model
    except msgspec.ValidationError:
        problem = 'the body must be a JSON object with a string "model": GET /v1/models lists them'
        raise Refusal(400, "invalid_model", problem, param="model") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Refusal(400, "invalid_json", f"the body is not JSON: {error}") from None
    except RecursionError:
        raise Refusal(400, "invalid_json", "the body is nested too deeply") from None
