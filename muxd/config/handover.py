"""What muxd tells its proxy: the settings that muxd itself runs with, as a small TOML file of its own.

The user's file may be half edited when a proxy has to be started again; and it may hold
secrets in a model's `env`, which are no business of the proxy's.
"""

import os
from math import inf
from pathlib import Path

import tomli_w

from .schema import Config
from .sources import WHOLE


def write_for_proxy(config: Config, path: Path) -> None:
    """To be read by `load_proxy_config`."""
    daemon, proxy = config.daemon, config.proxy
    host = f"[{proxy.host}]" if ":" in proxy.host else proxy.host
    settings = {
        "muxd": {
            "socket": str(daemon.socket),
            "state_dir": str(daemon.state_dir),
            "log_dir": str(daemon.log_dir),
            "log_level": daemon.log_level,
            "log_format": daemon.log_format,
            "shutdown_timeout": daemon.shutdown_timeout,
        },
        "proxy": {
            "listen": f"{host}:{proxy.port}",
            "max_body": proxy.max_body,
            "buffer_memory": proxy.buffer_memory,
            "upstream_timeout": _duration(proxy.upstream_timeout),
        },
        "models": {
            model.name: {"served_names": list(model.served_names), "switch_timeout": _duration(model.switch_timeout)}
            for model in config.models
        },
    }
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(WHOLE.encode())
        tomli_w.dump(settings, file)


def _duration(seconds: float) -> float | str:
    return "inf" if seconds == inf else seconds
