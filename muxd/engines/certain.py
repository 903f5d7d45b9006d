"""A lower bound for the GPU memory that a model needs, computed from its files."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from muxd.config.model_schema import Model
from muxd.host.model_kinds import Unusable, config_of
from muxd.host.search import place_of
from muxd.host.weights import weights_of

#: The share of the files' bytes that is certainly loaded: layers for speculative decoding may be left out.
LOADED = 0.95


def certain_need(spares: re.Pattern[str], model: Model, environ: Mapping[str, str]) -> int:
    """Return the bytes that the model certainly needs on all its GPUs together; 0 where nothing is certain.

    `spares`: arguments with which fewer bytes than the files have may go to the GPUs of this host.  `environ` is the
    environment of the model's worker.  The call reads files, and takes as long as the disk takes.
    """
    if model.script is not None or any(map(spares.match, model.args)):
        return 0
    try:
        folder = place_of(model.model_path, environ)
        if folder is None:
            return 0
        config, size = config_of(folder), weights_of(folder)
    except (Unusable, OSError, ValueError):  # ValueError: the name cannot be a path
        return 0
    return int(size * LOADED) // (2 if _is_halved(config, folder) else 1)


def _is_halved(config: Mapping[str, Any], folder: Path) -> bool:
    """Say whether an engine may load the model in half the size of its files: 32-bit weights, as 16-bit ones.

    Files of torch's own format are taken for 32-bit ones where config.json names no type.
    """
    inner = config.get("text_config")
    named = [table.get(key) for table in (config, inner) if isinstance(table, dict) for key in ("dtype", "torch_dtype")]
    known = [dtype for dtype in named if dtype is not None]
    return "float32" in known if known else not any(folder.glob("*.safetensors"))
