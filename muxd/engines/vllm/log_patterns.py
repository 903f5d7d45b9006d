"""Texts in vLLM's log that tell why it ended, and the remedies that its flags offer.

tests/engines/vllm/log_samples.py has what vLLM really writes, and the source of each text.
"""

from muxd.engines.log_patterns import ERROR, USAGE, LogPattern
from muxd.errors import (
    ContextTooLong,
    EngineMissing,
    EngineTooOld,
    ModelDownloadFailed,
    ModelIncomplete,
    ModelPathMissing,
    OutOfGpuMemory,
    UnsupportedModel,
)
from muxd.ports import PortTaken

#: What frees memory of a GPU.
LESS_GPU = "lower --gpu-memory-utilization or --max-model-len, give it more GPUs, or end what else is on the GPU"
OTHER_LEVEL = "update vLLM, or use sleep_level = 3"

#: These come before the general patterns that match at the same place.
VLLM_PATTERNS = (
    LogPattern(
        ContextTooLong,
        r"User-specified max_model_len \((?P<wanted>\d+)\) is greater than the derived max_model_len "
        r"\(max_position_embeddings=(?P<most>\d+)",
        "a context of {wanted} tokens is longer than the {most} that the model was made for",
        "lower --max-model-len",
    ),
    LogPattern(
        OutOfGpuMemory,
        r"To serve at least one request with the models?'s max seq len \((?P<wanted>\d+)\)",
        "the GPU has no room for the KV cache of one text of {wanted} tokens beside the weights",
        "lower --max-model-len, raise --gpu-memory-utilization or memory.kv, or give it more GPUs",
    ),
    LogPattern(
        OutOfGpuMemory,
        r"(?:Free memory on device|Available memory on node)[^\n]{0,300}",
        "there is not the memory that it wants to take",
        LESS_GPU,
        refused=False,
    ),
    LogPattern(
        OutOfGpuMemory,
        r"No available memory for the cache blocks",
        "the GPU has no room for a KV cache beside the weights",
        "raise --gpu-memory-utilization, give it more GPUs, or end what else is on the GPU",
        refused=False,
    ),
    LogPattern(
        ModelIncomplete,
        r"Cannot find any model weights with `(?P<path>[^`\n]*)`",
        "there are no weights in {path}",
        "copy the model again",
    ),
    LogPattern(
        ModelPathMissing,
        r"Invalid repository ID or local directory specified: '(?P<path>[^'\n]*)'",
        "{path} holds no model",
        "correct model_path",
    ),
    LogPattern(
        ModelPathMissing,
        r"HFValidationError: Repo id must be in the form 'repo_name' or 'namespace/repo_name': '(?P<path>[^'\n]*)'",
        "there is nothing at {path}",
        "correct model_path",
    ),
    LogPattern(
        ModelDownloadFailed,
        r"LocalEntryNotFoundError: [^\n]*",
        "{model} is not on this machine, and the Hub was not asked",
        "download it first, or take HF_HUB_OFFLINE out of env",
    ),
    LogPattern(
        UnsupportedModel,
        r"The checkpoint you are trying to load has model type `(?P<architecture>\w+)` but Transformers does not "
        r"recognize this architecture",
        "this vLLM knows no model of type {architecture}",
        "update vLLM and transformers, or add --trust-remote-code where the model has code of its own",
    ),
    LogPattern(
        UnsupportedModel,
        r"Model architectures \[(?P<architecture>[^\]\n]*)\] (?:are not supported|failed to be inspected)",
        "this vLLM does not support {architecture}",
        "update vLLM",
    ),
    LogPattern(
        EngineMissing,
        r"No module named '?vllm\b(?![/\w])",
        "vllm is not installed in {python}",
        "set the model's `python` to one that has it, or install it there: {python} -m pip install vllm",
    ),
    LogPattern(
        EngineTooOld,
        USAGE
        + r"unrecognized arguments: (?:[^\n]* )?(?P<flag>--(?:middleware|enable-sleep-mode|kv-cache-memory-bytes))",
        "this vLLM is too old for muxd: it has no {flag}",
        "install vLLM 0.17 or newer",
    ),
    LogPattern(
        PortTaken,
        ERROR + r"[^\n]*Address already in use",
        "its port, or one that it uses inside, was taken by another process",
        "it is tried again with others; free the port that its args name",
        refused=False,
    ),
    LogPattern(
        EngineMissing,
        r"Sleep mode is not supported on current platform",
        "this vLLM cannot sleep on this machine",
        OTHER_LEVEL,
    ),
)
