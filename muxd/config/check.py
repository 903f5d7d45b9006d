"""`muxd check`: is this configuration usable?  Says so, or says everything that is not."""

import sys
from collections.abc import Mapping
from pathlib import Path

from muxd.errors import ConfigError

from .load import Addition, load_config
from .places import find_config
from .problems import shown_file
from .schema import Config


def check(path: Path | None, environ: Mapping[str, str], added: Addition | None = None) -> int:
    """What it amounts to and which files it is, on stdout, and 0; or every problem on stderr and 2."""
    try:
        alone = path is None and added is not None and added.stands_alone
        found = None if alone else find_config(path, environ)
        config = load_config(found, environ, added)
    except ConfigError as error:
        for problem in error.problems:
            print(problem, file=sys.stderr)
        return 2
    print(f"{shown_file(found)}: ok: {_summary(config)}" if found is not None else f"ok: {_summary(config)}")
    for file in config.files[1:]:
        print(f"{shown_file(file)}: merged into it")
    return 0


def _summary(config: Config) -> str:
    count = len(config.models)
    host = f"[{config.proxy.host}]" if ":" in config.proxy.host else config.proxy.host
    models = f"{count} model{'s' if count != 1 else ''} ({', '.join(model.name for model in config.models)})"
    return f"{models}, proxy on {host}:{config.proxy.port}, control socket {shown_file(config.daemon.socket)}"
