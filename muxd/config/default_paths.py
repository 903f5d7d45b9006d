"""Default places of the configuration file, the control socket, the state folder, the logs and the caches."""

import os
import pwd
from collections.abc import Mapping
from pathlib import Path

from muxd.errors import ConfigError

SYSTEM_CONFIG = Path("/etc/muxd/muxd.toml")
SYSTEM_LOGS = Path("/var/log/muxd")


def home(environ: Mapping[str, str]) -> Path:
    """Return the user's home: $HOME, or for services without $HOME the one in the user database."""
    if given := environ.get("HOME"):
        return Path(given)
    try:
        return Path(pwd.getpwuid(os.getuid()).pw_dir)
    except KeyError:
        return Path("/")


def config_candidates(environ: Mapping[str, str]) -> list[Path]:
    """Return the places where a configuration is looked for; the first that exists wins."""
    return [Path("muxd.toml").absolute(), home(environ) / ".config/muxd/muxd.toml", SYSTEM_CONFIG]


def find_config(explicit: Path | None, environ: Mapping[str, str] = os.environ) -> Path:
    """Return the configuration file to use.  Raise ConfigError, with every place that was tried, if there is none."""
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
    """Say whether there is a file; True also where muxd may not look: the error of reading the file says more."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return True


def default_socket(environ: Mapping[str, str]) -> Path:
    """Return the control socket's path.

    The socket lies in systemd's $RUNTIME_DIRECTORY, else in the user's runtime directory, else in the state folder.
    """
    if directory := _first_directory(environ, "RUNTIME_DIRECTORY"):
        return directory / "muxd.sock"
    if directory := _first_directory(environ, "XDG_RUNTIME_DIR"):
        return directory / "muxd/muxd.sock"
    return home(environ) / ".local/state/muxd/muxd.sock"


def default_state_dir(environ: Mapping[str, str]) -> Path:
    """Return systemd's $STATE_DIRECTORY, else a folder in the user's home."""
    return _first_directory(environ, "STATE_DIRECTORY") or home(environ) / ".local/state/muxd"


def default_log_dir(environ: Mapping[str, str], state_dir: Path) -> Path:
    """Return systemd's $LOGS_DIRECTORY, else a folder in the state folder."""
    return _first_directory(environ, "LOGS_DIRECTORY") or state_dir / "logs"


def default_cache_dir(environ: Mapping[str, str]) -> Path:
    """Return systemd's $CACHE_DIRECTORY, else a folder in the user's $XDG_CACHE_HOME or ~/.cache."""
    if directory := _first_directory(environ, "CACHE_DIRECTORY"):
        return directory
    return (_first_directory(environ, "XDG_CACHE_HOME") or home(environ) / ".cache") / "muxd"


def _first_directory(environ: Mapping[str, str], variable: str) -> Path | None:
    """Return the first directory in `variable`, in which systemd separates several by colons; None if not absolute."""
    first = environ.get(variable, "").split(":")[0]
    return Path(first) if first.startswith("/") else None
