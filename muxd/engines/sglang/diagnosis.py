"""Why an SGLang server ended, or would not sleep or wake: by its own log, its own answers, and its processes' names."""

import json
import re
from collections.abc import Sequence

from muxd.config.model_schema import Model
from muxd.engines import diagnosis
from muxd.engines.diagnosis import Diagnosis, Evidence, quote
from muxd.engines.log_patterns import GENERAL_PATTERNS
from muxd.errors import EngineTooOld, MemoryNotReleased, ReloadRefused

from .log_patterns import LESS_GPU, OTHER_LEVEL, SGLANG_PATTERNS

PATTERNS = (*SGLANG_PATTERNS, *GENERAL_PATTERNS)
WORDS = {"engine": "SGLang", "less_gpu": LESS_GPU}

#: Log lines that begin a phase of SGLang's start, each with the verb for that phase.
PHASES = (
    ("Load weight begin", "loaded its weights"),
    ("Load weight end", "made its KV cache"),
    ("Memory pool end", "captured CUDA graphs"),
    ("The server is fired up", "served"),
)

#: The kernel sent SIGKILL to a part of the server, as the server saw it.
_KILLED = re.compile(r"scheduler died during initialization \(exit code: -9\)|crashed with exit code -9\b")

#: A server whose port was taken meanwhile goes on probing whoever has the port: SGLang 0.5.23 had not given up after
#: 150 s, whether the holder of the port answered 404 or nothing.
_NEVER_READY = "error while attempting to bind on address"

#: How processes call themselves that are parts of a server and outlive it for a moment when it crashes: schedulers and
#: the like.  The second is the simulator's, which stands in for SGLang in launch scripts too.
PARTS = ("sglang::", "sim::")

_NO_RELOAD = "quantised checkpoints often cannot be reloaded: use sleep_level = 1 or 3"


def diagnose(evidence: Evidence, model: Model) -> Diagnosis | None:
    """Return why a server ended, or will never be ready; None where nothing tells.

    SGLang's main process sends SIGKILL to itself when its scheduler has failed, so the log counts before the signal.
    """
    if evidence.is_alive and _NEVER_READY not in evidence.said:
        return None
    known = diagnosis.of_log(evidence, PATTERNS, model, WORDS, PHASES)
    if known is not None or evidence.is_alive or evidence.timed_out:
        return known
    if evidence.broken_call:
        return of_broken_call(evidence.broken_call)
    was_killed = evidence.was_killed or _KILLED.search(evidence.said) is not None
    return diagnosis.of_end(evidence, was_killed=was_killed)


def of_broken_call(call: str) -> Diagnosis | None:
    """Return why a server died of a call, where the call's verb alone tells; None otherwise."""
    if call == "reload":
        return Diagnosis(ReloadRefused.code, "the engine died of reloading its weights", _NO_RELOAD)
    return None


def of_answer(call: str, status: int, body: str) -> Diagnosis | None:
    """Return why a server answered a call with an error status; None where the answer does not tell."""
    known = diagnosis.of_answer(call, status, remedy=OTHER_LEVEL)
    if known is None and call == "reload" and (said := _reload_refusal(body)) is not None:
        return Diagnosis(ReloadRefused.code, f"the engine could not reload its weights: {quote(said)}", _NO_RELOAD)
    return known


def of_kept_memory(over: str, *, has_saver: bool | None) -> Diagnosis:
    """Return why GPU memory did not come back after a sleep that the server had confirmed.

    `over` says how much is missing; `has_saver` is the server's own enable_memory_saver, None where it did not tell.
    """
    if has_saver is False:
        message = f"its sleep gives nothing up, for it was started without --enable-memory-saver: {over}"
        return Diagnosis(EngineTooOld.code, message, "add that flag to its launch script, or use sleep_level = 3")
    return Diagnosis(MemoryNotReleased.code, over, "raise gpu_release_timeout, or use sleep_level = 3")


def are_parts(names: Sequence[str]) -> bool:
    """Say whether processes with these names are what a server leaves that has crashed, as in `server | tee`."""
    return diagnosis.are_parts(names, PARTS)


def _reload_refusal(body: str) -> str | None:
    """Return SGLang's own words from the answer of a reload that it did not carry out; None where it has none."""
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        return None
    if not isinstance(answer, dict) or answer.get("success") is not False:
        return None
    said = answer.get("message")
    return said if isinstance(said, str) and said else "it does not say why"
