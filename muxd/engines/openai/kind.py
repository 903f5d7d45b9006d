"""What is known of any server of OpenAI's API: little but what a model's keys say."""

from __future__ import annotations

from typing import TYPE_CHECKING

from muxd.config.engine_options import OpenAIOptions
from muxd.config.model_schema import Model
from muxd.engines.capabilities import Capabilities
from muxd.engines.kind import EngineKind

from .key_checks import ROUTES, findings

if TYPE_CHECKING:
    from muxd.engines.engine import Engine

#: By the level for which it is launched, those at which it can sleep: its steps are for one level.
SLEEP_LEVELS = {1: frozenset({1, 3}), 2: frozenset({2, 3}), 3: frozenset({3})}


def routes(model: Model) -> frozenset[str] | None:
    """Return the routes that the key `routes` names; None where there is no such key."""
    options = model.engine_options
    return frozenset(options.routes) if isinstance(options, OpenAIOptions) and options.routes else None


def can_sleep(model: Model) -> bool:
    """Return whether the model's keys say by which steps it sleeps."""
    return isinstance(model.engine_options, OpenAIOptions) and bool(model.engine_options.sleep)


def _make() -> Engine:
    from .engine import OpenAIServer  # imported by who runs workers only

    return OpenAIServer()


OPENAI = EngineKind(
    name="openai",
    capabilities=Capabilities(
        sleep_levels=SLEEP_LEVELS, routes={"": ROUTES}, counts_host_ram=False, sleeps_one_way=True
    ),
    make=_make,
    makes=lambda model: "",
    context_length=lambda model: None,
    takes_adapters=lambda model: False,
    findings=findings,
    certain_need=lambda model, environ: 0,
    routes=routes,
    can_sleep=can_sleep,
    has_hub_layout=False,
)
