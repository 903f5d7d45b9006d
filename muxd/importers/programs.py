"""Programs of Python environments, such as `vllm`, and the interpreters that run them."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path


def interpreter_of(program: str, environ: Mapping[str, str]) -> str:
    """Return the interpreter of an installed program such as `vllm`; "" where it cannot be seen."""
    found = shutil.which(program, path=environ.get("PATH"))
    if found is not None:
        with open(found, "rb") as opened:
            first = opened.readline(4096)
        if first.startswith(b"#!/"):
            return os.fsdecode(first[2:].split()[0])
    return str(Path(program).with_name("python")) if program.startswith("/") else ""
