"""Routers: the servers that pass the requests of a group on to its workers, one kind in each module."""

from muxd.config.model_schema import Model

from .sglang_router import SGLangRouter
from .stand_in import StandInRouter
from .worker_api import RoutedServer, Router

__all__ = ["RoutedServer", "Router", "SGLangRouter", "StandInRouter", "router_for"]


def router_for(model: Model) -> Router:
    """Return a new router object for a group of `model`'s workers.

    Simulated workers have muxd's own stand-in, which needs nothing installed, unless `router` says more, or some of
    them prefill for the others.
    """
    if model.engine == "simulator" and model.router is None and model.prefill is None:
        return StandInRouter()
    return SGLangRouter()
