"""How much GPU memory do the files of a model say that it certainly needs?"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from muxd.config.schema import Model

from .model_kinds import Unusable, config_of
from .search import hub_cache, snapshot_in_hub
from .weights import weights_of

# Arguments with which less than the files have goes to the GPUs of this host, or nobody here can tell.
_SPARES = re.compile(
    r"--(quant|torchao|modelopt|rl-quant|cpu-o|offload|kt-|load-f|model-loader|json-m|nno|devic|encoder|language-o|conf)"
)

#: Of the files' bytes: layers for speculative decoding may be left out.
LOADED = 0.95


def certain_need(model: Model, environ: Mapping[str, str]) -> int:
    """Bytes on its GPUs together; 0 where nothing is certain.  `environ`: as its worker has it.

    Takes as long as its disk takes.
    """
    if model.engine != "sglang" or model.script is not None or any(map(_SPARES.match, model.args)):
        return 0
    try:
        folder = _folder(model.model_path, environ)
        if folder is None:
            return 0
        config, size = config_of(folder), weights_of(folder)
    except (Unusable, OSError, ValueError):  # a name that no path can have
        return 0
    return int(size * LOADED) // (2 if _is_halved(config, folder) else 1)


def _folder(model_path: str, environ: Mapping[str, str]) -> Path | None:
    if os.path.isabs(model_path):
        return Path(model_path)
    return None if "://" in model_path else snapshot_in_hub(hub_cache(environ), model_path)


def _is_halved(config: Mapping[str, Any], folder: Path) -> bool:
    """SGLang loads 32-bit weights as 16-bit ones; files of torch's own format are so, if nobody says."""
    inner = config.get("text_config")
    said = [table.get(key) for table in (config, inner) if isinstance(table, dict) for key in ("dtype", "torch_dtype")]
    known = [dtype for dtype in said if dtype is not None]
    return "float32" in known if known else not any(folder.glob("*.safetensors"))
