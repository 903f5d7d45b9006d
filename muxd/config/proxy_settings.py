"""What muxd tells its proxy: the settings that muxd itself runs with, as a small TOML file of its own.

The user's file may be half edited when a proxy has to be started again; and it may hold
secrets in a model's `env`, which are no business of the proxy's.
"""

import os
from collections.abc import Iterator
from datetime import UTC, datetime
from math import inf
from pathlib import Path
from typing import Any

import tomli_w

from .schema import Config, Key, Model
from .sources import WHOLE

#: Flags of an engine that say what a model can be asked for; others may hold secrets.
CAPABILITY_FLAGS = frozenset({"--is-embedding"})
_TELLING_OPTION = "--context-length"


def write_for_proxy(config: Config, path: Path) -> None:
    """To be read by `load_proxy_config`."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(WHOLE.encode())
        tomli_w.dump(settings_for_proxy(config), file)


def settings_for_proxy(config: Config) -> dict[str, Any]:
    """As a configuration file has them, and JSON can: for a file, and for `load.told_config`."""
    daemon, proxy = config.daemon, config.proxy
    settings: dict[str, Any] = {
        "muxd": {
            "socket": str(daemon.socket),
            "state_dir": str(daemon.state_dir),
            "log_dir": str(daemon.log_dir),
            "log_level": daemon.log_level,
            "log_format": daemon.log_format,
            "shutdown_timeout": daemon.shutdown_timeout,
        },
        "proxy": {
            "listen": _address(proxy.host, proxy.port),
            "max_body": proxy.max_body,
            "buffer_memory": proxy.buffer_memory,
            "upstream_timeout": _duration(proxy.upstream_timeout),
            "drain_timeout": min(proxy.drain_timeout, daemon.shutdown_timeout),
            "comment_interval": _duration(proxy.comment_interval),
            "allow_anonymous": proxy.allow_anonymous,
            "hosts": list(proxy.hosts),
            "request_id_headers": list(proxy.request_id_headers),
            "access_log": proxy.access_log,
        },
        "models": {model.name: _model(model) for model in config.models},
        "keys": [_key(key) for key in config.keys],
    }
    if proxy.allow_origins is not None:
        settings["proxy"]["allow_origins"] = list(proxy.allow_origins)
    if proxy.metrics_listen is not None:
        settings["proxy"]["metrics_listen"] = _address(*proxy.metrics_listen)
    if proxy.access_log_dir is not None:
        settings["proxy"]["access_log_dir"] = str(proxy.access_log_dir)
    return settings


def _model(model: Model) -> dict[str, Any]:
    """What it says of requests."""
    said: dict[str, Any] = {
        "served_names": list(model.served_names),
        "switch_timeout": _duration(model.switch_timeout),
        "concurrency_limit": model.concurrency_limit,
        "queue_limit": model.queue_limit,
        "set_params": model.set_params,
        "strip_params": list(model.strip_params),
        "args": list(_telling(model.args)),
    }
    return said | ({"upstream_name": model.upstream_name} if model.upstream_name else {})


def _telling(args: tuple[str, ...]) -> Iterator[str]:
    for flag, value in zip(args, (*args, "")[1:], strict=True):
        if flag in CAPABILITY_FLAGS or flag.startswith(_TELLING_OPTION + "="):
            yield flag
        elif flag == _TELLING_OPTION:
            yield f"{flag}={value}"


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _key(key: Key) -> dict[str, Any]:
    """Its secret's hash, wherever the secret is: the proxy needs no environment variable for it."""
    said = {
        "name": key.name,
        "secret_sha256": key.secret_sha256,
        "priority": key.priority,
        "revoked": key.revoked,
        "comments": key.comments,
    }
    if key.models:
        said["models"] = list(key.models)
    if key.requests_per_minute:
        said["requests_per_minute"] = key.requests_per_minute
    if key.expires != inf:
        said["expires"] = datetime.fromtimestamp(key.expires, UTC).isoformat()
    return said


def _duration(seconds: float) -> float | str:
    return "inf" if seconds == inf else seconds
