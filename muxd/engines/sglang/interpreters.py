"""The Pythons of this machine, and the SGLang that they have."""

import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress

from muxd.config.default_paths import home
from muxd.engines.engine_packages import EnginePackage, Interpreter
from muxd.engines.kind import NotInstalled

#: Where the README says to install SGLang.
USUAL = ("/opt/sglang/bin/python", "/opt/sglang/.venv/bin/python", "/opt/sglang/venv/bin/python")

PACKAGE = EnginePackage(
    "sglang",
    "SGLang",
    imports="from sglang.srt.server_args import ServerArgs",
    add="ServerArgs.add_cli_args(parser)",
)


def find_sglang(environ: Mapping[str, str], places: tuple[str, ...] = USUAL) -> tuple[Interpreter | None, list[str]]:
    """Return the first interpreter that has SGLang, or None, and the paths of all that were asked."""
    asked: list[str] = []
    for path in dict.fromkeys(_candidates(environ, places)):
        asked.append(path)
        with suppress(NotInstalled):
            return PACKAGE.look(path, environ), asked
    return None, asked


def _candidates(environ: Mapping[str, str], places: tuple[str, ...]) -> Iterator[str]:
    """Yield the interpreters of this machine in the order in which they are asked.

    Links are not resolved: the python of a virtual environment is a link, and finds its packages by its own path.
    """
    named = [sys.executable]
    named += [f"{environ[name]}/bin/python" for name in ("VIRTUAL_ENV", "CONDA_PREFIX") if environ.get(name)]
    named += ["python3", "python", *places, str(home(environ) / "sglang/bin/python")]
    for name in named:
        found = shutil.which(name, path=environ.get("PATH")) if name else None
        if found and (path := os.path.abspath(found)).isprintable():  # a configuration cannot hold another path
            yield path
