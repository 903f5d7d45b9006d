"""Where things are when nobody said: the configuration file, the socket, state and logs."""

import os
import pwd
from collections.abc import Mapping
from pathlib import Path

from muxd.errors import ConfigError

SYSTEM_CONFIG = Path("/etc/muxd/muxd.toml")
SYSTEM_LOGS = Path("/var/log/muxd")


def home(environ: Mapping[str, str]) -> Path:
    """The user's home; services without $HOME have one in the user database."""
    if given := environ.get("HOME"):
        return Path(given)
    try:
        return Path(pwd.getpwuid(os.getuid()).pw_dir)
    except KeyError:
        return Path("/")


def config_candidates(environ: Mapping[str, str]) -> list[Path]:
    """Where a configuration is searched, first match wins."""
    return [Path("muxd.toml").absolute(), home(environ) / ".config/muxd/muxd.toml", SYSTEM_CONFIG]


def find_config(explicit: Path | None, environ: Mapping[str, str] = os.environ) -> Path:
    """The configuration file to use; ConfigError lists every place that was tried."""
    if explicit is not None:
        if _exists(explicit):
            return explicit
        raise ConfigError([f"{explicit}: no such file; correct the path"])
    tried = config_candidates(environ)
    for candidate in tried:
        if _exists(candidate):
            return candidate
    places = ", ".join(map(str, tried))
    raise ConfigError([f"no configuration: tried {places}; write one (`muxd init` does), or name one with --config"])


def _exists(path: Path) -> bool:
    """Also True where we may not look: reading it will tell that."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return True


def default_socket(environ: Mapping[str, str]) -> Path:
    """Under systemd $RUNTIME_DIRECTORY, else the user's runtime directory, else the state directory."""
    if directory := _first(environ, "RUNTIME_DIRECTORY"):
        return directory / "muxd.sock"
    if directory := _first(environ, "XDG_RUNTIME_DIR"):
        return directory / "muxd/muxd.sock"
    return home(environ) / ".local/state/muxd/muxd.sock"


def default_state_dir(environ: Mapping[str, str]) -> Path:
    return _first(environ, "STATE_DIRECTORY") or home(environ) / ".local/state/muxd"


def default_log_dir(environ: Mapping[str, str], state_dir: Path) -> Path:
    return _first(environ, "LOGS_DIRECTORY") or state_dir / "logs"


def _first(environ: Mapping[str, str], variable: str) -> Path | None:
    """systemd separates several directories by colons: the first is ours."""
    first = environ.get(variable, "").split(":")[0]
    return Path(first) if first.startswith("/") else None
