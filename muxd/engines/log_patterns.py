"""Texts in a log that tell why a server ended, whatever its engine: of Python, torch, CUDA, the Hub and shells.

What one engine alone writes is in its own package, and so is what only its own flags can remedy.
tests/engines has what is really written, and the source of each text.
"""

import re

from msgspec import Struct

from muxd.errors import (
    AccessDenied,
    BadFlag,
    CudaUnavailable,
    DiskFull,
    EngineError,
    EngineMissing,
    ModelDownloadFailed,
    ModelFailed,
    ModelIncomplete,
    ModelPathMissing,
    OutOfGpuMemory,
    OutOfHostMemory,
    UnsupportedModel,
)
from muxd.ports import PortTaken


class LogPattern(Struct, frozen=True):
    """A text in a log that tells a cause.

    `message` and `remedy` are templates: {name} stands for a group of the pattern, {flags} for the flags in the group
    "args", {cuda} for the CUDA version in the group "found", {model} for the model's path, {python} for its
    interpreter, {phase} for what the server did.  Further names stand for an engine's own words, such as {engine}
    for its name.  `refused`: another start is no use before somebody has followed `remedy`.
    """

    error: type[ModelFailed] | type[PortTaken]
    pattern: str
    message: str
    remedy: str
    refused: bool = True

    def find(self, said: str) -> re.Match[str] | None:
        """Return the last match in a log's text."""
        last = None
        for match in re.finditer(self.pattern, said, re.MULTILINE):
            last = match
        return last


#: How the last line of a traceback begins; torch puts the rank before it.
ERROR = r"^(?:\[rank\d+\]: ?)?[\w.]*(?:Error|Exception): (?:Capture cuda graph failed: )?"
USAGE = r"^[^\n]{0,80}: error: "  # argparse
UNKNOWN_FLAGS = USAGE + r"unrecognized arguments: (?P<args>.+)$"
BAD_FLAGS = USAGE + r"(?P<what>(?:argument |ambiguous option: |the following arguments are required: ).+)$"
_SHELL = r"^[^\n]{0,200}: (?:line )?\d+: "  # bash and dash

#: A remedy for flags that muxd was told and the engine refuses.
OWN_FLAGS = "correct the model's args or launch script"

#: Where several patterns match, the match nearest to the log's end counts; of those at one place, the first pattern.
GENERAL_PATTERNS = (
    LogPattern(
        BadFlag,
        UNKNOWN_FLAGS,
        "the engine does not know {flags}",
        OWN_FLAGS,
    ),
    LogPattern(
        BadFlag,
        BAD_FLAGS,
        "the engine does not take its flags: {what}",
        OWN_FLAGS,
    ),
    # The model
    LogPattern(
        ModelPathMissing,
        ERROR + r"Repo id must be in the form [^\n]*?: '(?P<path>[^']*)'",
        "there is no model at {path}",
        "correct model_path",
    ),
    LogPattern(
        ModelPathMissing,
        ERROR + r"(?:\[Errno 2\] )?No such file or directory: '?(?P<path>[^'\n]*)",
        "there is no {path}, or muxd's user may not read it",
        "correct model_path, or what else names it, or its mode",
    ),
    LogPattern(
        ModelIncomplete,
        ERROR + r"(?:Unrecognized model in|[^\n]* does not appear to have a file named config\.json)",
        "{model} has no config.json that names its model type",
        "correct model_path, or copy the model again",
    ),
    LogPattern(
        ModelIncomplete,
        ERROR + r"Cannot find any model weights with",
        "{model} has no weights in it",
        "correct model_path, or copy the model again",
    ),
    LogPattern(
        ModelIncomplete,
        ERROR + r"(?P<what>Error while deserializ.+)$",
        "a file with weights of {model} is damaged: {what}",
        "copy the model again",
    ),
    LogPattern(
        ModelDownloadFailed,
        ERROR + r"(?:You are trying to access a gated repo|[^\n]*\bCannot access gated repo)",
        "the Hub does not let this user have {model}: it is gated",
        "ask for access on its page, and put HF_TOKEN into the model's env",
    ),
    LogPattern(
        ModelDownloadFailed,
        ERROR + r"[^\n]* is not a local folder and is not a valid model identifier",
        "{model} is no folder here, and the Hub has no such model or does not show it to this user",
        "correct model_path; for a private model put HF_TOKEN into the model's env",
    ),
    LogPattern(
        ModelDownloadFailed,
        ERROR + r"[^\n]*\b(?:401|403) Client Error",
        "the Hub does not let this user have {model}",
        "put an HF_TOKEN that may read it into the model's env",
    ),
    LogPattern(
        ModelDownloadFailed,
        r"^(?:[\w.]*(?:Error|Exception|EntryNotFound): )?[^\n]*(?:We couldn't connect to '|"
        r"outgoing traffic has been disabled|Cannot reach http|Max retries exceeded with url)",
        "{model} is no folder here and not in the Hub's cache, and the Hub cannot be reached",
        "correct model_path, download the model first, or see to the connection (HF_HUB_OFFLINE, proxies)",
        refused=False,
    ),
    LogPattern(
        UnsupportedModel,
        ERROR + r"The repository [^\n]* contains custom code which must be executed",
        "{model} runs only with the code that comes with it",
        "read that code, then add --trust-remote-code to the model's args",
    ),
    LogPattern(
        UnsupportedModel,
        ERROR + r"The checkpoint you are trying to load has model type `(?P<kind>[^`\n]*)`",
        "this engine does not know models of type {kind}",
        "update {engine} and its transformers",
    ),
    LogPattern(
        UnsupportedModel,
        ERROR + r"(?:Cannot find model module\. '(?P<kind>[^'\n]*)'|Model architectures \['(?P<kinds>[^'\n]*)')",
        "this engine cannot run the architecture {kind}{kinds}",
        "update {engine}, or use another model",
    ),
    # Memory
    LogPattern(
        OutOfGpuMemory,
        ERROR + r"CUDA out of memory\. Tried to allocate (?P<wanted>[\d.]+ \w+)\. GPU (?P<gpu>\d{1,4}) has a total "
        r"capaci?ty of (?P<total>[\d.]+ \w+) of which (?P<free>[\d.]+ \w+) is free",
        "the GPU ran out of memory while the engine {phase}: {wanted} more did not fit in {free} free of {total} "
        "on GPU {gpu}",
        "{less_gpu}",
        refused=False,
    ),
    LogPattern(
        OutOfGpuMemory,
        ERROR + r"(?:CUDA out of memory|CUDA error: out of memory)|^\[torch_memory_saver\.cpp\] (?:CUresult|cudaError) "
        r"error:? +(?:result=)?2\b|Cuda failure (?:\d+ )?'out of memory'",
        "the GPU ran out of memory while the engine {phase}",
        "{less_gpu}",
        refused=False,
    ),
    LogPattern(
        OutOfHostMemory,
        r"^(?:\[rank\d+\]: ?)?MemoryError\b|" + ERROR + r"[^\n]*(?:DefaultCPUAllocator: (?:can't allocate|not enough) "
        r"memory|\[Errno 12\] Cannot allocate memory)",
        "the host ran out of memory while the engine {phase}",
        "free host memory: sleep_level = 2 instead of 1 keeps no weights there",
        refused=False,
    ),
    LogPattern(
        DiskFull,
        ERROR + r"[^\n]*(?:unable to (?:write to file|open shared memory)|/dev/shm)[^\n]*No space left on device",
        "shared memory (/dev/shm) is full",
        "make it larger (a container's --shm-size), or remove what is left in it",
        refused=False,
    ),
    LogPattern(
        DiskFull,
        ERROR + r"[^\n]*(?:No space left on device|Disk quota exceeded)(?:: '(?P<path>[^'\n]*)')?",
        "the disk that holds {path} is full",
        "free some room on it",
        refused=False,
    ),
    # The host
    LogPattern(
        PortTaken,
        r"error while attempting to bind on address \('(?P<host>[^'\n]*)', (?P<port>\d+)[^\n]*already in use",
        "port {port} was taken by another process while the engine loaded",
        "end that process, or give the model another port",
        refused=False,
    ),
    LogPattern(
        EngineMissing,
        r"^(?:\[rank\d+\]: ?)?ModuleNotFoundError: No module named '(?P<module>[^'\n]+)'",
        "{module} is not installed in the engine's Python",
        "install it there",
    ),
    LogPattern(
        EngineMissing,
        _SHELL + r"(?P<program>[^\s:]+): (?:(?:command )?not found|No such file or directory)$",
        "the launch script calls {program}, which is not found",
        "correct the script, or PATH in the model's env",
    ),
    LogPattern(
        EngineError,
        _SHELL + r"cd: (?P<path>[^\n]+): (?P<why>[^:\n]+)$",
        "the launch script cannot go to {path}: {why}",
        "correct the script",
    ),
    LogPattern(
        CudaUnavailable,
        ERROR + r"(?:Unexpected error from cudaGetDeviceCount[^\n]*)?The NVIDIA driver on your system is too old "
        r"\(found version (?P<found>\d{1,6})\)",
        "the NVIDIA driver is too old for the engine's torch: it offers CUDA {cuda}",
        "update the driver, or install a torch built for that CUDA",
    ),
    LogPattern(
        CudaUnavailable,
        ERROR + r"(?P<what>Found no NVIDIA driver on your system|No CUDA GPUs are available|Torch not compiled with "
        r"CUDA enabled|No (?:supported )?accelerator \([^\n]*)",
        "the engine finds no GPU: {what}",
        "see what nvidia-smi says here as muxd's user, and that the engine's torch is built for CUDA",
    ),
    LogPattern(
        CudaUnavailable,
        ERROR + r"(?:CUDA error: )?(?P<what>no kernel image is available for execution on the device|invalid device "
        r"ordinal|CUDA driver version is insufficient for CUDA runtime version|Unexpected error from "
        r"cudaGetDeviceCount[^\n]*|[^\n]*undefined symbol: \S+|lib(?:cud|nv|c10)[^\n]*: cannot open shared object "
        r"file[^\n]*|\[\w+_kernel\] CRITICAL[^\n]*)",
        "the engine's torch and kernels do not fit each other or this GPU: {what}",
        "install {engine} with the torch, CUDA and driver that its release names, and check the model's `gpus`",
    ),
    LogPattern(
        AccessDenied,
        ERROR + r"[^\n]*Permission denied(?: \(os error 13\))?(?:: '(?P<path>[^'\n]*)')?",
        "muxd's user may not read or write {path}",
        "give it the right to (owner or mode)",
    ),
    LogPattern(
        AccessDenied,
        _SHELL + r"(?P<path>[^\s:]+): Permission denied$",
        "muxd's user may not use {path}",
        "give it the right to (chmod +x for a program)",
    ),
)
