"""Reading of muxd's configuration: TOML files in, frozen and checked values out."""

from .default_paths import find_config
from .engine_options import SGLangOptions, Simulation, SimulatorOptions
from .load import load_config, load_proxy_config, salvage_config
from .model_schema import Memory, Model
from .schema import Config, Daemon, Policy, Proxy

__all__ = [
    "Config",
    "Daemon",
    "Memory",
    "Model",
    "Policy",
    "Proxy",
    "SGLangOptions",
    "Simulation",
    "SimulatorOptions",
    "find_config",
    "load_config",
    "load_proxy_config",
    "salvage_config",
]
