"""The kinds of server that can run a model: one package per kind.

An engine knows flags, probes and the calls that put its server to sleep and wake it.
An engine knows nothing of scheduling, and the scheduler knows nothing of engines.
"""

from muxd.config import Model

from .diagnosis import Diagnosis, Evidence
from .engine import CommandSpec, Engine, LaunchContext, LaunchSpec, ServerKeys
from .engine_client import EngineCallFailed, EngineClient, open_http
from .sglang.engine import SGLang
from .simulator.engine import Simulator

ENGINES: dict[str, type[Engine]] = {"sglang": SGLang, "simulator": Simulator}


def engine_for(model: Model) -> Engine:
    """Return a new engine object for one worker of `model`."""
    return ENGINES[model.engine]()


__all__ = [
    "ENGINES",
    "CommandSpec",
    "Diagnosis",
    "Engine",
    "EngineCallFailed",
    "EngineClient",
    "Evidence",
    "LaunchContext",
    "LaunchSpec",
    "ServerKeys",
    "engine_for",
    "open_http",
]
