"""Whose GPUs muxd reads: this machine's, or the pretend ones that an engine brings."""

from muxd.config.schema import Config
from muxd.gpus import Gpus, open_real_gpus

from .registry import kind_of


def are_pretend(config: Config) -> bool:
    """Say whether all models have pretend GPUs, so that muxd reads those: a real model takes real memory."""
    return bool(config.models) and all(kind_of(model).is_pretend for model in config.models)


def open_gpus(config: Config) -> Gpus:
    """Return the pretend GPUs where all models have such, else this machine's; NoGpus where there is no driver."""
    pretend = kind_of(config.models[0]).pretend_gpus if are_pretend(config) else None
    return pretend.open(config) if pretend is not None else open_real_gpus(config)
