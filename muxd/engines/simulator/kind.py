"""What the simulator states of itself: SGLang's own, but for pretend memory."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from muxd.engines.sglang.kind import SGLANG

if TYPE_CHECKING:
    from muxd.engines.engine import Engine


def _make() -> Engine:
    from .engine import Simulator  # imported by who runs workers only

    return Simulator()


SIMULATOR = replace(
    SGLANG,
    name="simulator",
    capabilities=replace(SGLANG.capabilities, is_pretend=True),
    make=_make,
)
