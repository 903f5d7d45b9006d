"""Who may ask what: SGLang's routes, its rule about keys, and the words it refuses with.

What a route does is in `control` and `openai`.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from muxd.errors import BadRequest
from muxd.http.request import Request
from muxd.http.server import ResponseWriter

Answer = Callable[[Request, ResponseWriter], Awaitable[None]]

# What these fields hold wherever they are; in place of any of them there may be null.
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

OPEN = ("/health", "/ready", "/metrics")  # beginnings of the paths that need no key


class EngineRefusal(Exception):
    """An answer that is an error in one of SGLang's forms."""

    def __init__(self, status: int, body: Any) -> None:
        super().__init__(str(body))
        self.status = status
        self.body = body


def bad_request(message: str, kind: str = "BadRequestError") -> EngineRefusal:
    """A 400 as the OpenAI routes form it."""
    return EngineRefusal(400, {"object": "error", "message": message, "type": kind, "param": None, "code": 400})


@dataclass(frozen=True, slots=True)
class EngineRoute:
    """`control`: with an admin key set only that key works here; on the others only the API key does."""

    answer: Answer
    methods: tuple[str, ...] = ("GET",)
    control: bool = False


@dataclass(frozen=True, slots=True)
class AcceptedKeys:
    api: str | None
    admin: str | None

    def admit(self, request: Request, *, control: bool) -> bool:
        if request.path.startswith(OPEN):
            return True
        key = self.admin if control and self.admin else self.api
        return key is None or _bearer(request) == key


def _bearer(request: Request) -> str | None:
    scheme, _, token = (request.header(b"authorization") or b"").decode("latin-1").partition(" ")
    return token if scheme.lower() == "bearer" else None


class Router:
    """Finds a request's route and answers what none of them has to."""

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
        """The route whose path ends in a slash and begins this one: the rest is a name."""
        return next((r for p, r in self._routes.items() if len(p) > 1 and p[-1] == "/" and path.startswith(p)), None)


def fields(request: Request, *, needs: tuple[str, ...] = ()) -> dict[str, Any]:
    """The body as an object with these fields in it, none of them null; raises Refusal as SGLang's validation does."""
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
    """What the field holds, which is one of these or None; raises Refusal."""
    value = body.get(name)
    if value is not None and not isinstance(value, kinds):
        wanted = " or ".join(kind.__name__ for kind in kinds)
        raise bad_request(f"1 validation error:\n  'Input should be a valid {wanted}': {name}", "Bad Request")
    return value


def _invalid(request: Request, problem: str) -> EngineRefusal:
    return bad_request(f"1 validation error:\n  {problem}\n\n    {request.method} {request.path}", "Bad Request")
