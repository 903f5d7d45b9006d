"""Where every request comes first: it is answered here, refused, or sent on its way."""

from typing import Any

from muxd.http.request import Request
from muxd.http.response import json_response

from .answers import UNAVAILABLE, Refusal
from .asking import routes
from .asking.routes import Local
from .catalogue import Catalogue
from .exchange import Exchange
from .leases import Leases
from .sockets.front import Asking


class Desk:
    def __init__(self, catalogue: Catalogue, leases: Leases, upstream_timeout: float) -> None:
        self._catalogue = catalogue
        self._leases = leases
        self._upstream_timeout = upstream_timeout
        self._closed: Refusal | None = None

    def close(self, refusal: Refusal) -> None:
        """From now on every request for a model gets this."""
        self._closed = refusal

    def answer(self, client: Asking, request: Request) -> bytes | Exchange:
        """The whole answer, or the exchange that is under way to one."""
        try:
            target = routes.worker_target(request)
            if target is None:
                return self._answer_local(request)
            model = self._model(request.body)
        except Refusal as refusal:
            return refusal.response(keep_alive=request.keep_alive, method=request.method)
        lease = self._leases.of(model)
        exchange = Exchange(client, request, target, lease, self._upstream_timeout)
        lease.enter(exchange)
        return exchange

    def _model(self, body: bytes) -> str:
        if self._closed is not None:
            raise self._closed
        asked = routes.named_model(body)
        model = self._catalogue.resolve(asked)
        if model is None:
            raise self._no_such_model(asked)
        return model

    def _no_such_model(self, asked: str) -> Refusal:
        known = ", ".join(self._catalogue.served_names()) or "none"
        return Refusal(404, "model_not_found", f"there is no model {asked[:100]!r}; there are: {known}", param="model")

    def _answer_local(self, request: Request) -> bytes:
        what, asked = routes.local(request)
        value: Any = None
        match what:
            case Local.HEALTH:
                value = self._health()
            case Local.MODELS:
                value = self._catalogue.listing()
            case Local.MODEL:
                value = self._catalogue.card(asked)
                if value is None:
                    raise self._no_such_model(asked)
        return json_response(200, value, keep_alive=request.keep_alive, method=request.method)

    def _health(self) -> dict[str, Any]:
        """Always 200: a proxy without muxd still serves the leases it holds."""
        granted, connected = self._leases.granted(), self._catalogue.connected
        ready = [name for name in self._catalogue.ready() if name not in granted] if connected else []
        active = [self._catalogue.shown(name) for name in (*granted, *ready)]
        return {
            "status": "ok" if connected else "degraded",
            "active_model": next(iter(active), None),
            "muxd": "connected" if connected else "unreachable",
        }


def shutting_down() -> Refusal:
    return Refusal(UNAVAILABLE, "shutting_down", "the proxy is shutting down: send the request again", retry_after=1)
