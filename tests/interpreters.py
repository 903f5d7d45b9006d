"""A stand-in for a Python that has an engine: a small script that says of it, and of its parser, what it was told."""

import json
from collections.abc import Mapping
from pathlib import Path


def make_interpreter(
    file: Path,
    *,
    version: str = "0.5.23",
    rejected: Mapping[str, list[str] | str] = {},
    script: str = "",
    engine: str = "sglang",
) -> Path:
    """An interpreter that has the engine in this version, which has `rejected` the flags of models, by their names."""
    about = json.dumps({"version": version, "torch": "2.9.1", "cuda": "12.9"})
    errors = {model: told if isinstance(told, list) else [told] for model, told in rejected.items()}
    parsed = json.dumps({"errors": errors, "flags": ["--context-length", "--tp-size"]})
    file.parent.mkdir(parents=True, exist_ok=True)
    answers = f"case \"$2\" in *parse_args*) echo '{engine} {parsed}';; *) echo '{engine} {about}';; esac"
    file.write_text(f'#!/bin/sh\necho asked >> "$0.asked"\n{script or answers}\n')
    file.chmod(0o755)
    return file
