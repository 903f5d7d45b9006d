"""Reading of muxd's configuration: TOML files in, frozen and checked values out."""

from .default_paths import find_config
from .load import load_config, load_proxy_config, salvage_config
from .schema import LOG_LEVELS, Config, Daemon, Memory, Model, Policy, Proxy, Simulation

__all__ = [
    "LOG_LEVELS",
    "Config",
    "Daemon",
    "Memory",
    "Model",
    "Policy",
    "Proxy",
    "Simulation",
    "find_config",
    "load_config",
    "load_proxy_config",
    "salvage_config",
]
