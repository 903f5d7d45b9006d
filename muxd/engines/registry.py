"""The registry of engines: whatever depends on which engines there are asks here.

It imports no engine's code, only what each engine states of itself: a configuration is read without it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from muxd.config.model_schema import Model

from .kind import EngineKind
from .openai.kind import OPENAI
from .remote.kind import REMOTE
from .sglang.kind import SGLANG
from .simulator.kind import SIMULATOR
from .vllm.kind import VLLM_KIND

if TYPE_CHECKING:
    from .engine import Engine

ENGINES: dict[str, EngineKind] = {kind.name: kind for kind in (SGLANG, VLLM_KIND, OPENAI, REMOTE, SIMULATOR)}


def kind_of(model: Model) -> EngineKind:
    """Return the engine that the model's configuration names."""
    return ENGINES[model.engine]


def engine_for(model: Model) -> Engine:
    """Return a new engine object for one worker of `model`."""
    return kind_of(model).make()
