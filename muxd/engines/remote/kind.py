"""What is known of servers that run elsewhere: the routes that a router passes on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from muxd.config.model_schema import Model
from muxd.config.schema import Daemon
from muxd.engines.capabilities import Capabilities
from muxd.engines.kind import EngineKind

from .key_checks import findings

if TYPE_CHECKING:
    from muxd.engines.engine import Engine

#: The routes that sglang-router 0.3.2 passes on to its workers, as its source lists them.
ROUTES = frozenset(
    (
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/responses",
        "/v1/responses/{id}",
        "/v1/embeddings",
        "/v1/rerank",
        "/v1/classify",
        "/v1/models",
        "/generate",
    )
)

#: What another host's muxd answers once it has begun to end: the others have its requests.
SHUTTING_DOWN = '"code":"shutting_down"'


def _make() -> Engine:
    from .engine import RemoteServers  # imported by who runs workers only

    return RemoteServers()


def _why_not_served(models: Sequence[tuple[Model, Mapping[str, str]]], daemon: Daemon) -> dict[str, str]:
    from .trial import why_not_served  # imported by who checks servers only

    return why_not_served(models, daemon)


REMOTE = EngineKind(
    name="remote",
    capabilities=Capabilities(
        sleep_levels={3: frozenset({3})},
        routes={"": ROUTES},
        counts_host_ram=False,
        uses_gpus=False,
        fatal_error=SHUTTING_DOWN,
    ),
    make=_make,
    makes=lambda model: "",
    context_length=lambda model: None,
    takes_adapters=lambda model: True,
    findings=findings,
    certain_need=lambda model, environ: 0,
    has_hub_layout=False,
    why_not_served=_why_not_served,
)
