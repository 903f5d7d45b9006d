"""Settings that muxd passes to its proxy: those that muxd itself runs with, as a small TOML file.

The proxy does not read the user's file: the file may be half edited when a proxy has to be started again, and it may
hold secrets in a model's `env`, which the proxy must not see.
"""

import os
from math import inf
from pathlib import Path
from typing import Any

import msgspec
import tomli_w

from muxd.engines.registry import kind_of

from .declarations import keys_of
from .model_capabilities import EngineRoutes, ModelCapabilities, ToldCapabilities
from .model_schema import Model
from .readers import Address
from .schema import Config
from .sources import WHOLE


def write_for_proxy(config: Config, path: Path) -> None:
    """Write the settings to a file, mode 0600, that `load_proxy_config` reads."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(WHOLE.encode())
        tomli_w.dump(settings_for_proxy(config), file)


def settings_for_proxy(config: Config) -> dict[str, Any]:
    """Return the settings as a configuration file has them, with values that JSON can express as well.

    They are written to the proxy's file, and sent over the control socket for `load.config_from_supervisor`.
    """
    settings = {name: told for name, table in config.sections.items() if (told := _told(table))}
    settings["proxy"]["drain_timeout"] = min(config.proxy.drain_timeout, config.daemon.shutdown_timeout)
    models = {model.name: _told(model) for model in config.models}
    capabilities = msgspec.to_builtins(_capabilities(config))
    return settings | {"models": models, "keys": [_told(key) for key in config.keys], "capabilities": capabilities}


def _capabilities(config: Config) -> ToldCapabilities:
    """Return what the models' engines state of them, and of themselves."""
    used = {model.engine: kind_of(model).capabilities for model in config.models}
    engines = {
        name: EngineRoutes(dict(each.routes), dict(each.hints), each.fatal_error, each.by_first_name)
        for name, each in used.items()
    }
    return ToldCapabilities(engines, {model.name: _model_capabilities(model) for model in config.models})


def _model_capabilities(model: Model) -> ModelCapabilities:
    kind = kind_of(model)
    routes = kind.routes(model)
    return ModelCapabilities(
        model.engine, kind.makes(model), kind.context_length(model), kind.takes_adapters(model), routes
    )


def _told(table: Any) -> dict[str, Any]:
    """Return the keys of one table that the proxy is told; a key is left out where it has no value to write."""
    return {
        name: _as_written(key.told(value) if callable(key.told) else value)
        for name, key in keys_of(table).items()
        if key.told and (value := getattr(table, name)) != key.unset
    }


def _as_written(value: Any) -> Any:
    """Return a value of the configuration as its reader takes it from TOML and from JSON."""
    match value:
        case Address() | Path():
            return str(value)
        case tuple():
            return list(value)
        case float() if value == inf:
            return "inf"
    return value
