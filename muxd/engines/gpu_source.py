"""Whose GPUs muxd reads: this machine's, or the pretend ones that an engine brings."""

from muxd.config.flags import runs_on_cpu
from muxd.config.schema import Config
from muxd.gpus import Gpus

from .kind import PretendGpus
from .registry import kind_of


def are_pretend(config: Config) -> bool:
    """Say whether all models on GPUs have pretend ones, so that muxd reads those: a real model takes real memory."""
    return _pretend_gpus(config) is not None


def open_gpus(config: Config) -> Gpus:
    """Return the pretend GPUs where all models on GPUs have such, else this machine's; NoGpus without a driver."""
    pretend = _pretend_gpus(config)
    if pretend is not None:
        return pretend.open(config)
    from muxd.nvml import open_real_gpus

    return open_real_gpus(needed=any(model.gpus and not runs_on_cpu(model.args) for model in config.models))


def _pretend_gpus(config: Config) -> PretendGpus | None:
    kinds = [kind for kind in map(kind_of, config.models) if kind.capabilities.uses_gpus]
    return kinds[0].pretend_gpus if kinds and all(kind.is_pretend for kind in kinds) else None
