"""The vLLM of an interpreter: which version it is, what that lacks, and what it has against a server's flags.

muxd looks into the files of the package for what it has a use for, and imports nothing: to import vLLM takes seconds.
Where a feature came with, or was lost in, a version, that was read from vLLM's issues and pull requests.
"""

import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from muxd.config.findings import Finding
from muxd.config.flags import flag_of
from muxd.config.model_schema import Model
from muxd.engines.engine_packages import EnginePackage, Interpreter
from muxd.engines.kind import ArgFault

#: vLLM's names of its flags for what a server may have of each GPU, the first since 0.10.2.
KV_CACHE_BYTES = "--kv-cache-memory-bytes"
GPU_SHARE = ("--gpu-memory-utilization", "--device-memory-utilization")

PACKAGE = EnginePackage(
    "vllm",
    "vLLM",
    imports="""
try:
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
except ImportError:
    from vllm.entrypoints.openai.cli_args import make_arg_parser
try:
    from vllm.utils.argparse_utils import FlexibleArgumentParser
except ImportError:
    from vllm.utils import FlexibleArgumentParser
""",
    parser="FlexibleArgumentParser",
    add="make_arg_parser(parser)",
)

#: What keeps the control routes to muxd; requests may finish after SIGTERM (0.18); the KV cache alone is released
#: (0.31); pinned host memory is given back after a wake (after 0.32).
MIDDLEWARE = "--middleware"
SHUTDOWN_TIMEOUT = "--shutdown-timeout"
RELEASE_KV_CACHE = "/release_kv_cache_memory"
NO_ERROR_STACK = "--no-log-error-stack"
RELEASE_HOST_MEMORY = "VLLM_SLEEP_MODE_RELEASE_HOST_MEMORY"

#: The files of the package that show a feature, and the word in them.
FEATURES = {
    MIDDLEWARE: ("entrypoints/*/cli_args.py", "middleware"),
    NO_ERROR_STACK: ("entrypoints/*/cli_args.py", "log_error_stack"),
    SHUTDOWN_TIMEOUT: ("engine/arg_utils.py", "shutdown_timeout"),
    KV_CACHE_BYTES: ("engine/arg_utils.py", "kv_cache_memory_bytes"),
    RELEASE_KV_CACHE: ("v1/engine/async_llm.py", "release_kv_cache_memory"),
    RELEASE_HOST_MEMORY: ("envs.py", RELEASE_HOST_MEMORY),
}

#: Versions (major, minor) whose sleep leaves the weights on the GPU: they are loaded outside of the allocator that
#: could release them.  vllm#32714, mended by vllm#32947.
SLEEP_BROKEN = {(0, 14), (0, 15), (0, 16)}


def lacking(folder: Path | None) -> frozenset[str]:
    """Return the features that the vLLM in this folder does not have; where nothing can be seen, those of no need."""
    if folder is None:
        return frozenset({RELEASE_HOST_MEMORY, NO_ERROR_STACK})
    return frozenset(name for name, (files, word) in FEATURES.items() if not _says(folder, files, word))


def _says(folder: Path, files: str, word: str) -> bool:
    try:
        return any(word in file.read_text(errors="replace") for file in folder.glob(files))
    except OSError:
        return False


def folder_of(python: str, environ: Mapping[str, str]) -> Path | None:
    """Return the folder of the vLLM that an interpreter would import, as its environment is laid out usually."""
    program = shutil.which(python, path=environ.get("PATH"))
    if program is None:
        return None
    prefix = Path(os.path.abspath(program)).parents[1]  # a virtual environment's python is a link: it is not followed
    return next(prefix.glob("lib*/python3*/*-packages/vllm"), None)


def lacking_for(model: Model) -> frozenset[str]:
    """Return the features that the vLLM which a model's worker would import does not have."""
    return lacking(folder_of(model.engine_options.python, {**os.environ, **model.env}))


def broken_sleep(version: str) -> str:
    """Return why a version cannot sleep at level 1 or 2, and what to do; "" where it can, or is not known."""
    found = re.match(r"(\d+)\.(\d+)", version)
    if found is None or (int(found[1]), int(found[2])) not in SLEEP_BROKEN:
        return ""
    why = f"vLLM {version} keeps its weights on the GPU asleep at level 1 or 2 (0.14 to 0.16 do, vllm#32714)"
    return f"{why}; install vLLM 0.17 or newer, or use sleep_level = 3"


def unfit(model: Model, interpreter: Interpreter) -> Iterator[Finding]:
    """Yield what this vLLM cannot do for a model, each by its path within the model's table."""
    version, lacks = interpreter.version, lacking(Path(interpreter.folder)) if interpreter.folder else frozenset()
    if MIDDLEWARE in lacks:
        why = f"vLLM {version} is too old for muxd: without {MIDDLEWARE}, any user of this host could use its"
        yield ("python",), f"{why} control routes; install a newer one"
    broken = broken_sleep(version)
    if model.sleep_level == 0 and RELEASE_KV_CACHE in lacks:
        why = f"vLLM {version} has no level 0: it has no {RELEASE_KV_CACHE}"
        others = "3" if broken else "1, 2 or 3"
        yield ("sleep_level",), f"{why}; install vLLM 0.31 or newer, or use sleep_level = {others}"
    elif model.sleep_level < 3 and broken:  # a model of level 0 goes deeper where others need its room
        yield ("sleep_level",), broken
    if model.memory is not None and model.memory.kv and KV_CACHE_BYTES in lacks:
        why = f"vLLM {version} cannot be held to a size of its KV cache: it has no {KV_CACHE_BYTES}"
        yield ("memory",), f"{why}; install vLLM 0.10.2 or newer, or leave kv out"


#: Flags of SGLang, and vLLM's for the same.
_SGLANGS = {
    "--mem-fraction-static": GPU_SHARE[0],
    "--context-length": "--max-model-len",
    "--tp": "--tensor-parallel-size",
    "--tp-size": "--tensor-parallel-size",
    "--pp-size": "--pipeline-parallel-size",
    "--dp-size": "--data-parallel-size",
    "--is-embedding": "--runner pooling",
    "--max-running-requests": "--max-num-seqs",
    "--disable-cuda-graph": "--enforce-eager",
    "--disable-radix-cache": "--no-enable-prefix-caching",
    "--schedule-policy": "--scheduling-policy",
}


def odd_args(args: Sequence[str], in_script: bool = False) -> Iterator[ArgFault]:
    """Yield each argument that is likely a mistake: another engine's flag."""
    for word in args:
        if ours := _SGLANGS.get(flag := word.partition("=")[0]):
            yield ArgFault(frozenset({flag}), f"{flag} is SGLang's; vLLM calls it {ours}")


def why_no_share(args: Sequence[str]) -> str:
    """Return what is wrong with the share of a GPU's memory that flags say, with advice; "" where nothing is."""
    share = flag_of(args)(GPU_SHARE)
    if share is None or share_in(args) is not None:
        return ""
    return f"{GPU_SHARE[0]} {share} is no share of a GPU's memory; write one between 0 and 1, such as 0.85"


def share_in(args: Sequence[str]) -> float | None:
    """Return the share of a GPU's memory that flags let a server have; None where they say none that can be."""
    try:
        share = float(flag_of(args)(GPU_SHARE) or "")
    except ValueError:
        return None
    return share if 0 < share <= 1 else None


#: The ends of vLLM's numbers, as its parser reads them: "1k" is 1000, "1K" is 1024.
_MULTIPLES = {"": 1} | {
    letter: base**power for letters, base in (("kmgt", 1000), ("KMGT", 1024)) for power, letter in enumerate(letters, 1)
}


def kv_cache_bytes_in(args: Sequence[str]) -> int:
    """Return the bytes of the KV cache on each GPU that flags say; 0 where they say none that can be."""
    number = re.fullmatch(r"([0-9]{1,15}(?:\.[0-9]{1,15})?)([kKmMgGtT]?)", flag_of(args)((KV_CACHE_BYTES,)) or "")
    return int(float(number[1]) * _MULTIPLES[number[2]]) if number else 0


#: The ends of the names of vLLM's flags whose values are files or folders that it reads.
_READ = ("--tokenizer", "-template", "-plugin", "-modules", "-config-path", "-keyfile", "-certfile", "-ca-certs")


def paths_read(args: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield flag and path for each absolute path in `args` that vLLM is to read."""
    flag = ""
    for word in args:
        flag, _, value = word.partition("=") if word.startswith("--") else (flag, "", word)
        path = value.partition("=")[2] if "=/" in value else value  # --lora-modules takes NAME=PATH
        if flag.endswith(_READ) and path.startswith("/"):
            yield flag, path
