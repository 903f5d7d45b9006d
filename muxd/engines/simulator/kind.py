"""What the simulator states of itself: SGLang's own, but for pretend memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from msgspec.structs import replace

from muxd.config.engine_options import SimulatorOptions
from muxd.config.findings import Finding
from muxd.config.model_schema import Model
from muxd.config.schema import Config
from muxd.core.ledger import GpuId
from muxd.engines.kind import PretendGpus
from muxd.engines.sglang.checks import args_findings
from muxd.engines.sglang.kind import SGLANG

if TYPE_CHECKING:
    from muxd.engines.engine import Engine
    from muxd.gpus import GpuMemory, Gpus


def _make() -> Engine:
    from .engine import Simulator  # imported by who runs workers only

    return Simulator()


def _open_gpus(config: Config) -> Gpus:
    from .gpus import open_simulated_gpus  # imported by who reads GPUs only

    return open_simulated_gpus(config)


def _read_gpus(config: Config, ids: Iterable[GpuId]) -> list[GpuMemory]:
    from .gpus import read_simulated_gpus  # imported by who reads GPUs only

    return read_simulated_gpus(config, ids)


def _findings(model: Model, _: Mapping[str, str] | None) -> Iterator[Finding]:
    """Yield what is wrong with `args` and the faults; the simulator needs neither weights nor an interpreter."""
    yield from args_findings(model)
    options = model.engine_options
    for fault in options.simulation.faults if isinstance(options, SimulatorOptions) else ():
        from muxd.simulator.faults import check_fault  # imported for models with faults only

        try:
            check_fault(fault)
        except ValueError as error:
            yield ("simulation", "faults"), f"{error}; see muxd/simulator/faults.py"


SIMULATOR = replace(
    SGLANG,
    name="simulator",
    make=_make,
    findings=_findings,
    certain_need=lambda model, environ: 0,
    installation=None,
    pretend_gpus=PretendGpus(_open_gpus, _read_gpus),
)
