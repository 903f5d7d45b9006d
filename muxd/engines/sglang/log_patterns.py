"""Texts in SGLang's log that tell why it ended, and the remedies that its flags offer.

tests/engines/sglang/log_samples.py has what SGLang really writes, and the source of each text.
"""

from muxd.engines.log_patterns import ERROR, OWN_FLAGS, USAGE, LogPattern
from muxd.errors import (
    BadFlag,
    ContextTooLong,
    EngineMissing,
    EngineTooOld,
    OutOfGpuMemory,
)
from muxd.ports import PortTaken

#: What frees memory of a GPU.
LESS_GPU = (
    "lower --mem-fraction-static, give it a smaller --context-length or more GPUs, or end what else is on the GPU"
)
OTHER_LEVEL = "update SGLang, or use sleep_level = 3"

#: These come before the general patterns that match at the same place.
SGLANG_PATTERNS = (
    LogPattern(
        EngineTooOld,
        USAGE + r"unrecognized arguments: [^\n]*--enable-memory-saver\b",
        "this SGLang cannot sleep: it has no --enable-memory-saver",
        OTHER_LEVEL,
    ),
    LogPattern(
        EngineTooOld,
        USAGE + r"unrecognized arguments: [^\n]*--enable-weights-cpu-backup\b",
        "this SGLang cannot keep weights in host memory: it has no --enable-weights-cpu-backup",
        "update SGLang, or use sleep_level = 2 or 3",
    ),
    LogPattern(
        EngineTooOld,
        USAGE + r"unrecognized arguments: [^\n]*(?P<flag>--config|--admin-api-key)\b",
        "this SGLang is too old for muxd: it has no {flag}",
        "update SGLang",
    ),
    LogPattern(
        BadFlag,
        ERROR + r"Chat template (?P<path>[^\n]*) is not a built-in template name or a valid chat template file path",
        "there is no chat template {path}",
        OWN_FLAGS,
    ),
    LogPattern(
        ContextTooLong,
        ERROR + r"Warning: [^\n]*context_length \((?P<wanted>\d+)\) is greater than the derived context_length "
        r"\((?P<most>\d+)\)",
        "a context of {wanted} tokens is longer than the {most} that the model was made for",
        "lower --context-length",
    ),
    LogPattern(
        OutOfGpuMemory,
        ERROR + r"Not enough memory\. Please try to increase --mem-fraction-static",
        "the GPU has no room for a KV cache beside the weights",
        "raise --mem-fraction-static, give it more GPUs, or end what else is on the GPU",
        refused=False,
    ),
    LogPattern(
        PortTaken,
        ERROR + r"[^\n]*(?:EADDRINUSE|[Aa]ddress already in use)",
        "a port that the engine uses inside was taken by another process",
        "it is tried again with others; free the port that its args name (--nccl-port, --dist-init-addr)",
        refused=False,
    ),
    LogPattern(
        EngineMissing,
        r"No module named '?torch_memory_saver\b",
        "SGLang cannot sleep: torch_memory_saver is not installed in {python}",
        "install it there (pip install torch-memory-saver), or use sleep_level = 3",
    ),
    LogPattern(
        EngineMissing,
        r"No module named '?(?P<module>sglang|muxd)\b(?![./\w])",
        "{module} is not installed in {python}",
        "name one that has it, as the model's `python` or in its launch script",
    ),
)
