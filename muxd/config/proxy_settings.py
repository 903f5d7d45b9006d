"""Settings that muxd passes to its proxy: those that muxd itself runs with, as a small TOML file.

The proxy does not read the user's file: the file may be half edited when a proxy has to be started again, and it may
hold secrets in a model's `env`, which the proxy must not see.
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

#: Flags of an engine from which the proxy learns what a model can do; other flags may hold secrets and are not passed.
CAPABILITY_FLAGS = frozenset({"--is-embedding"})
_CONTEXT_LENGTH = "--context-length"


def write_for_proxy(config: Config, path: Path) -> None:
    """Write the settings to a file, mode 0600, that `load_proxy_config` reads."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(WHOLE.encode())
        tomli_w.dump(settings_for_proxy(config), file)


def settings_for_proxy(config: Config) -> dict[str, Any]:
    """Return the settings as a configuration file has them, with values that JSON can express as well.

    They are written to the proxy's file, and sent over the control socket for `load.config_from_supervisor`.
    """
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
    """Return the keys of a model that concern requests."""
    said: dict[str, Any] = {
        "served_names": list(model.served_names),
        "switch_timeout": _duration(model.switch_timeout),
        "concurrency_limit": model.concurrency_limit,
        "queue_limit": model.queue_limit,
        "set_params": model.set_params,
        "strip_params": list(model.strip_params),
        "args": list(_capability_args(model.args)),
    }
    return said | ({"upstream_name": model.upstream_name} if model.upstream_name else {})


def _capability_args(args: tuple[str, ...]) -> Iterator[str]:
    """Yield those of an engine's arguments that say what the model can do; `--context-length N` as one word."""
    for flag, value in zip(args, (*args, "")[1:], strict=True):
        if flag in CAPABILITY_FLAGS or flag.startswith(_CONTEXT_LENGTH + "="):
            yield flag
        elif flag == _CONTEXT_LENGTH:
            yield f"{flag}={value}"


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _key(key: Key) -> dict[str, Any]:
    """Return one table of [[keys]], always with the hash of the secret: the proxy may not have the variable with it."""
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
