"""TOML in, frozen and checked values out."""

from .demo import demo_config
from .load import load_config
from .places import find_config
from .schema import Config, Daemon, Memory, Model, Policy, Proxy, Simulation

__all__ = [
    "Config",
    "Daemon",
    "Memory",
    "Model",
    "Policy",
    "Proxy",
    "Simulation",
    "demo_config",
    "find_config",
    "load_config",
]
