"""Text of the configuration that `muxd init` writes: comments for people, values by tomli-w."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from muxd.config.toml_line import toml_key, toml_line
from muxd.core.ledger import shown_gpu
from muxd.engines.engine_packages import Interpreter

from .draft import Draft

HEAD = """\
# muxd.toml, as `muxd init` found this machine.  It is yours: change what you like, then let `muxd check` read it.
#
#   muxd check     says everything that is wrong with it, each with its line
#   muxd start     runs it: one address for all models, and the GPUs hold those that are asked for
#
# Durations are "90s", "5min", "2h" or seconds; sizes are "38GiB", "512MiB" or bytes.
# Files in muxd.d/, beside this one, that end in .toml are merged after it.

[proxy]
# Where clients find the OpenAI API.  "0.0.0.0:30100" lets other machines in, who must show an API key then:
# `muxctl keys add NAME` makes one.
listen = "127.0.0.1:30100"

# Any key of a model, for all models that do not have it.
[defaults]
"""

NO_SGLANG = """\
# TODO: no SGLang was found.  Give the interpreter of the environment that has it; without this line it is python3.
"""

SLEEP = """\
# What a model gives up while another one has the GPU:
#   1  its weights wait in host RAM: back within seconds, but the RAM stays taken
#   2  its weights are discarded: read from disk again
#   3  its process ends: started again from nothing
sleep_level = 2
"""

EXAMPLE = """\
# TODO: no model was found, and muxd needs one.  Take the "#" away and name yours; one table for each.
#[models.qwen]
# A Hub id, or a local directory (one that begins with "/", "./", "../" or "~").
#model_path = "Qwen/Qwen3-14B"
# What clients write into "model", beside the table's name.
#served_names = ["Qwen/Qwen3-14B"]
# The GPUs it runs on, as nvidia-smi counts them; with several it is split over them.
#gpus = [0]
# Further flags of SGLang, passed on unchanged.
#args = ["--context-length", "32768"]
"""

MODELS = """\
# One table for each model; its name is what muxctl and the log files call it.
#   served_names   what clients write into "model", beside the table's name
#   gpus           as nvidia-smi counts them; with several, the model is split over them
#   memory         how much must be free before it is loaded; weights: the size of its files
#   args           further flags of SGLang, such as ["--context-length", "32768"]
#   preload        true: loaded when muxd starts, not on the first request
"""


def text_of(drafts: Sequence[Draft], sglang: Interpreter | None, python: str | None, cache: Path | None) -> str:
    """Return the text of the configuration.

    `python` is the interpreter to write where no SGLang was found; `cache` is the Hub's cache, for models given by Hub
    id, and None where all models are given by path.
    """
    parts = [HEAD, _python(sglang, python)]
    if cache is not None:
        parts.append(
            "# Where the models were found, whoever runs muxd.\n" + toml_line("env", {"HF_HUB_CACHE": str(cache)})
        )
    parts += [SLEEP, "\n", MODELS if drafts else EXAMPLE]
    return "".join(parts) + "".join(map(_table, drafts))


def _python(sglang: Interpreter | None, fallback: str | None) -> str:
    if sglang is not None:
        return f"# The interpreter that has SGLang: {sglang.version}.\n" + toml_line("python", sglang.path)
    if fallback is not None:
        return NO_SGLANG + toml_line("python", fallback)
    return NO_SGLANG + '#python = "/opt/sglang/bin/python"\n'


def _table(draft: Draft) -> str:
    table: dict[str, Any] = {"model_path": draft.found.model_path}
    if draft.served_names:
        table["served_names"] = list(draft.served_names)
    table |= {"gpus": [shown_gpu(gpu) for gpu in draft.gpus], "memory": {"weights": f"{draft.weights}GiB"}}
    if draft.args:
        table["args"] = list(draft.args)
    header = f"[{toml_key('models', draft.name)}]\n"
    remark = "" if draft.fits else "# TODO: too large for the GPUs that were found.\n"
    return f"\n{header}{remark}" + "".join(toml_line(key, value) for key, value in table.items())
