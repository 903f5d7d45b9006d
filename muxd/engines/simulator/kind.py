"""What the simulator states of itself: SGLang's own, but for pretend memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from muxd.config.model_schema import Model
from muxd.config.rules import Finding
from muxd.engines.sglang.checks import args_findings
from muxd.engines.sglang.kind import SGLANG

if TYPE_CHECKING:
    from muxd.engines.engine import Engine


def _make() -> Engine:
    from .engine import Simulator  # imported by who runs workers only

    return Simulator()


def _findings(model: Model, _: Mapping[str, str] | None) -> Iterator[Finding]:
    """Yield what is wrong with `args`; the simulator needs neither weights nor an interpreter."""
    return args_findings(model)


SIMULATOR = replace(
    SGLANG,
    name="simulator",
    capabilities=replace(SGLANG.capabilities, is_pretend=True),
    make=_make,
    findings=_findings,
)
