"""The kinds of server that can run a model: one file per kind.

An engine knows flags, probes and the calls that put its server to sleep and wake it.
An engine knows nothing of scheduling, and the scheduler knows nothing of engines.
"""

from muxd.config import Model

from .engine import Engine, LaunchContext, LaunchSpec, ServerKeys
from .engine_client import EngineCallFailed, EngineClient, open_http
from .script import LaunchedByScript
from .sglang.engine import SGLang
from .simulator.engine import Simulator

ENGINES: dict[str, type[Engine]] = {"sglang": SGLang, "simulator": Simulator}


def engine_for(model: Model) -> Engine:
    """Return a new engine object for one worker of `model`; a model with a launch script gets LaunchedByScript."""
    return LaunchedByScript() if model.script is not None else ENGINES[model.engine]()


__all__ = [
    "ENGINES",
    "Engine",
    "EngineCallFailed",
    "EngineClient",
    "LaunchContext",
    "LaunchSpec",
    "ServerKeys",
    "engine_for",
    "open_http",
]
