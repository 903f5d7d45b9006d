"""What one worker has and says at one moment, measured for a validation."""

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from random import choices

from msgspec import Struct

from muxd.config import Model
from muxd.engines.engine import Engine
from muxd.engines.engine_client import EngineCallFailed, EngineClient
from muxd.engines.wake_proof import PROMPT, ProofAnswer

#: Bytes of host RAM that a process has, shared pages by their share: as the kernel reckons them for /proc/PID.
PROCESSES = Path("/proc")


class WorkerFigures(Struct, frozen=True):
    """Bytes, seconds, and an answer; None where something could not be measured, or was not asked."""

    gpu: int | None = None  # taken on the worker's GPUs, but for what other workers have there
    host: int | None = None  # of RAM, by all of its processes
    first_token: float | None = None
    answer: ProofAnswer | None = None
    error: str = ""  # why it gave no answer
    is_refused: bool = False  # it answered, but not what the wake proof asks for: such a model may not be able to


async def ask(link: EngineClient, engine: Engine, model: Model, no_proof: str = "") -> WorkerFigures:
    """Ask an idle server for its first token to a prompt that it has not seen, then for what the wake proof asks.

    `no_proof`: why it is not asked the latter, "" where it is.
    """
    first_token, answer = None, None
    question = {
        "model": model.served_names[0] if model.served_names else model.name,
        "prompt": choices(PROMPT, k=len(PROMPT)),  # no prefix of it is in a cache
        "max_tokens": 1,
        "temperature": 0,
        "stream": True,
    }
    with suppress(EngineCallFailed):  # of a model that makes vectors, or takes no token ids, it is not known
        first_token = await link.first_bytes("/v1/completions", question)
    if no_proof:
        return WorkerFigures(first_token=first_token, error=no_proof, is_refused=True)
    try:
        answer = await engine.proof(link, model)
    except EngineCallFailed as error:
        return WorkerFigures(first_token=first_token, error=error.message, is_refused=error.answered)
    if answer is not None and not answer.is_sound:
        why = "its answer has something in the place of numbers"
        return WorkerFigures(first_token=first_token, error=why, is_refused=True)
    return WorkerFigures(first_token=first_token, answer=answer)


def host_memory(pids: Iterable[int]) -> int | None:
    """Return the bytes of host RAM that these processes have together; None where one may not be looked at.

    Pages that they share are counted once (Pss).  It takes the kernel some milliseconds for each GiB.
    """
    total = 0
    for pid in pids:
        try:
            total += _pss((PROCESSES / str(pid) / "smaps_rollup").read_text())
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended
        except OSError:
            return None
    return total


def _pss(text: str) -> int:
    return next((int(line.split()[1]) << 10 for line in text.splitlines() if line.startswith("Pss:")), 0)
