"""The routes: which key opens which of SGLang's routes, how a body is checked, and the words of refusals.

`control`, `openai`, `embeddings` and `metrics` have what the routes do.
"""

from collections.abc import Awaitable, Callable
from typing import Any

from msgspec import Struct

from muxd.errors import BadRequest
from muxd.http.request import Request
from muxd.http.response_writer import ResponseWriter

Answer = Callable[[Request, ResponseWriter], Awaitable[None]]

# The types of these fields on all routes; any of them may be null.
_KINDS: dict[str, tuple[type, ...]] = {
    "messages": (list,),
    "tools": (list,),
    "tokens": (list,),
    "label_token_ids": (list,),
    "options": (dict,),
    "sampling_params": (dict,),
    "stream_options": (dict,),
    "response_format": (dict,),
    "tool_choice": (dict, str),
    "system": (str, list),
}

OPEN = ("/health", "/ready", "/metrics")  # prefixes of the paths that need no key


class EngineRefusal(Exception):
    """An error answer, in one of SGLang's forms."""

    def __init__(self, status: int, body: Any) -> None:
        super().__init__(str(body))
        self.status = status
        self.body = body


def bad_request(message: str, kind: str = "BadRequestError") -> EngineRefusal:
    """Return a 400 in the form of SGLang's OpenAI routes."""
    return EngineRefusal(400, {"object": "error", "message": message, "type": kind, "param": None, "code": 400})


class EngineRoute(Struct, frozen=True):
    """A route's handler and methods; `control`: where an admin key is set, only that key opens the route."""

    answer: Answer
    methods: tuple[str, ...] = ("GET",)
    control: bool = False


class AcceptedKeys(Struct, frozen=True):
    """The API key and the admin key that the server was started with; None: not set."""

    api: str | None
    admin: str | None

    def admit(self, request: Request, *, control: bool) -> bool:
        """Say whether the request's bearer token opens a route, which is a control route or not."""
        if request.path.startswith(OPEN):
            return True
        key = self.admin if control and self.admin else self.api
        return key is None or _bearer(request) == key


def _bearer(request: Request) -> str | None:
    scheme, _, token = (request.header(b"authorization") or b"").decode("latin-1").partition(" ")
    return token if scheme.lower() == "bearer" else None


class RouteIndex:
    """Finds a request's route, checks its key, and answers 401, 404 and 405 and the routes' refusals."""

    def __init__(self, routes: dict[str, EngineRoute], keys: AcceptedKeys) -> None:
        self._routes = routes
        self._keys = keys

    async def __call__(self, request: Request, exchange: ResponseWriter) -> None:
        try:
            await self._find(request).answer(request, exchange)
        except EngineRefusal as refusal:
            await exchange.send_json(refusal.status, refusal.body)

    def _find(self, request: Request) -> EngineRoute:
        route = self._routes.get(request.path) or self._below(request.path)
        fits = route is not None and request.method in route.methods
        if not self._keys.admit(request, control=fits and route is not None and route.control):
            raise EngineRefusal(401, {"error": "Unauthorized"})
        if route is None:
            raise EngineRefusal(404, {"detail": "Not Found"})
        if not fits:
            raise EngineRefusal(405, {"detail": "Method Not Allowed"})
        return route

    def _below(self, path: str) -> EngineRoute | None:
        """Return the route whose path ends in a slash and is a prefix of this one: the rest is a name."""
        return next((r for p, r in self._routes.items() if len(p) > 1 and p[-1] == "/" and path.startswith(p)), None)


def fields(request: Request, *, needs: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return the body as an object, in which the fields of `needs` are not null.

    Raise EngineRefusal with the words of SGLang's validation.
    """
    kind = (request.header(b"content-type") or b"").partition(b";")[0].strip().lower()
    if not request.body:
        raise _invalid(request, "{'type': 'missing', 'loc': ('body',), 'msg': 'Field required', 'input': None}")
    if kind != b"application/json":
        raise _invalid(request, "Unsupported Media Type: Only 'application/json' is allowed")
    try:
        body = request.json()
    except BadRequest as error:
        raise _invalid(request, f"'JSON decode error': {error}") from None
    if not isinstance(body, dict):
        raise _invalid(request, "'Input should be a valid dictionary'")
    for name in needs:
        if body.get(name) is None:
            raise _invalid(request, f"{{'type': 'missing', 'loc': ('body', '{name}'), 'msg': 'Field required'}}")
    for name, kinds in _KINDS.items():
        of_kind(body, name, *kinds)
    return body


def of_kind(body: dict[str, Any], name: str, *kinds: type) -> Any:
    """Return the value of a field, which is None or has one of these types; raise EngineRefusal where it has not."""
    value = body.get(name)
    if value is not None and not isinstance(value, kinds):
        wanted = " or ".join(kind.__name__ for kind in kinds)
        raise bad_request(f"1 validation error:\n  'Input should be a valid {wanted}': {name}", "Bad Request")
    return value


def _invalid(request: Request, problem: str) -> EngineRefusal:
    return bad_request(f"1 validation error:\n  {problem}\n\n    {request.method} {request.path}", "Bad Request")
