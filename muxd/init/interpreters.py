"""Which Python on this machine has SGLang?"""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from tempfile import TemporaryFile
from typing import IO

from muxd.config.places import home

#: Seconds for one interpreter: finding a package imports nothing, but the disk may be slow or remote.
PATIENCE = 20.0

#: Where people put it who follow the README.
USUAL = ("/opt/sglang/bin/python", "/opt/sglang/.venv/bin/python", "/opt/sglang/venv/bin/python")

# A folder that is only called so has no origin.
_ASK = """
from importlib import metadata, util
spec = util.find_spec("sglang")
if spec is not None and spec.origin is not None:
    try:
        print("sglang", metadata.version("sglang"))
    except metadata.PackageNotFoundError:
        print("sglang", "of unknown version")
"""


@dataclass(frozen=True, slots=True)
class Interpreter:
    path: str
    version: str  # of SGLang


def find_sglang(environ: Mapping[str, str], places: tuple[str, ...] = USUAL) -> tuple[Interpreter | None, list[str]]:
    """The first that has SGLang, and all that were asked."""
    asked: list[str] = []
    for path in dict.fromkeys(_candidates(environ, places)):
        asked.append(path)
        if (version := sglang_of(path, environ)) is not None:
            return Interpreter(path, version), asked
    return None, asked


def _candidates(environ: Mapping[str, str], places: tuple[str, ...]) -> Iterator[str]:
    """Links are left alone: the python of a virtual environment is one, and is known by its place."""
    named = [sys.executable]
    named += [f"{environ[name]}/bin/python" for name in ("VIRTUAL_ENV", "CONDA_PREFIX") if environ.get(name)]
    named += ["python3", "python", *places, str(home(environ) / "sglang/bin/python")]
    for name in named:
        found = shutil.which(name, path=environ.get("PATH")) if name else None
        if found and (path := os.path.abspath(found)).isprintable():  # else no configuration can hold it
            yield path


def sglang_of(path: str, environ: Mapping[str, str]) -> str | None:
    """The version of the SGLang that this interpreter would import."""
    with TemporaryFile() as output:  # a pipe would be open for as long as what a wrapper script leaves running
        if not _ends_well([path, "-c", _ASK], environ, output):
            return None
        output.seek(0)
        lines = output.read().decode(errors="replace").splitlines()
    said = [line for line in lines if line.startswith("sglang ") and line.isprintable()]
    return said[-1].removeprefix("sglang ").strip() if said else None


def _ends_well(argv: list[str], environ: Mapping[str, str], output: IO[bytes]) -> bool:
    """Run it, in a session of its own so that all of it can be ended."""
    try:
        process = subprocess.Popen(
            argv,
            cwd="/",  # not where a folder may lie that is called sglang
            env=dict(environ),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    except OSError:
        return False
    try:
        return process.wait(PATIENCE) == 0
    except (subprocess.TimeoutExpired, KeyboardInterrupt) as over:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if isinstance(over, KeyboardInterrupt):
            raise
        return False
