"""`muxd check`: is this configuration usable?  Says so, or says everything that is not."""

import sys
from collections.abc import Mapping
from pathlib import Path

from muxd.errors import ConfigError

from .load import load_config
from .places import find_config
from .schema import Config


def check(path: Path | None, environ: Mapping[str, str]) -> int:
    """One line on stdout and 0, or every problem on stderr and 2."""
    try:
        found = find_config(path, environ)
        config = load_config(found, environ)
    except ConfigError as error:
        for problem in error.problems:
            print(problem, file=sys.stderr)
        return 2
    print(f"{found}: ok: {_summary(config)}")
    return 0


def _summary(config: Config) -> str:
    count = len(config.models)
    host = f"[{config.proxy.host}]" if ":" in config.proxy.host else config.proxy.host
    models = f"{count} model{'s' if count != 1 else ''} ({', '.join(model.name for model in config.models)})"
    return f"{models}, proxy on {host}:{config.proxy.port}, control socket {config.daemon.socket}"
