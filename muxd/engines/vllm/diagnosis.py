"""Why a vLLM server ended, or would not sleep or wake: by its own log, its own answers, and its processes' names."""

import re
from collections.abc import Sequence

from msgspec.structs import replace

from muxd.config.model_schema import Model
from muxd.engines import diagnosis
from muxd.engines.diagnosis import Diagnosis, Evidence, quote
from muxd.engines.log_patterns import GENERAL_PATTERNS
from muxd.errors import EngineError, MemoryNotReleased, ReloadRefused

from .log_patterns import LESS_GPU, OTHER_LEVEL, VLLM_PATTERNS

PATTERNS = (*VLLM_PATTERNS, *GENERAL_PATTERNS)
WORDS = {"engine": "vLLM", "less_gpu": LESS_GPU}

#: Log lines that begin a phase of vLLM's start, each with the verb for that phase.
PHASES = (
    ("Starting to load model", "loaded its weights"),
    ("Loading weights took", "made its KV cache"),
    ("GPU KV cache size", "captured CUDA graphs"),
    ("Application startup complete", "served"),
)

#: What vLLM's logger puts before each line of a traceback: "(EngineCore pid=7) ERROR 11-29 12:16:19 [core.py:1510] ".
_PREFIX = re.compile(r"^\((?:APIServer|EngineCore|Worker)[^)\n]*\) (?:[A-Z]+ \S+ \S+ \[[^\]\n]*\] )?", re.MULTILINE)

#: Errors that only tell that another process failed.
_FOLLOWS = re.compile(
    r"^(?:RuntimeError: Engine core initialization failed|Exception: WorkerProc initialization failed"
    r"|(?:[\w.]+\.)?EngineDeadError:)[^\n]*\n?",
    re.MULTILINE,
)

#: What the API server finds when its engine core is gone, and what an engine core writes that ends of an exception.
_CORE_GONE, _CORE_RAISED = "EngineDeadError", "EngineCore encountered a fatal error"

#: A worker that SIGKILL ended, as the engine core saw it.
_WORKER_KILLED = re.compile(r"died unexpectedly \(exit code: -9\)")

#: How processes call themselves that are parts of a server and outlive it for a moment when it crashes.
PARTS = ("VLLM::",)


def diagnose(evidence: Evidence, model: Model) -> Diagnosis | None:
    """Return why a server ended, or will never be ready; None where nothing tells."""
    if evidence.is_alive:
        return None
    is_core_gone = _CORE_GONE in evidence.said
    was_killed = is_core_gone and _CORE_RAISED not in evidence.said
    was_killed = was_killed or evidence.was_killed or _WORKER_KILLED.search(evidence.said) is not None
    evidence = replace(evidence, said=_FOLLOWS.sub("", _PREFIX.sub("", evidence.said)))
    known = diagnosis.of_log(evidence, PATTERNS, model, WORDS, PHASES)
    if known is not None or evidence.timed_out:
        return known
    if evidence.broken_call == "reload":
        return Diagnosis(ReloadRefused.code, "the engine died of reloading its weights", OTHER_LEVEL)
    known = diagnosis.of_end(evidence, was_killed=was_killed)
    if known is None and is_core_gone:
        return Diagnosis(EngineError.code, "its engine core has ended", "see its log, and dmesg")
    return known


def of_answer(call: str, status: int, body: str) -> Diagnosis | None:
    """Return why a server answered a call with an error status; None where the answer does not tell."""
    known = diagnosis.of_answer(call, status, remedy=OTHER_LEVEL)
    if known is None and call == "reload":
        message = f"the engine could not reload its weights: {quote(body)}"
        return Diagnosis(ReloadRefused.code, message, "use sleep_level = 1 or 3")
    return known


def of_kept_memory(over: str) -> Diagnosis:
    """Return why GPU memory did not come back after a sleep that the server had confirmed; `over`: how much."""
    return Diagnosis(MemoryNotReleased.code, over, "raise gpu_release_timeout, or use sleep_level = 3")


def are_parts(names: Sequence[str]) -> bool:
    """Say whether processes with these names are what a server leaves that has crashed."""
    return diagnosis.are_parts(names, PARTS)
