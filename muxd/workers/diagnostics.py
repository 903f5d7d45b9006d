"""Why a server ended, or is given up: what it did last, what it said, and what its engine makes of that."""

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import trio

from muxd.children import ExitRecord
from muxd.config import Model
from muxd.engines import diagnosis
from muxd.engines.diagnosis import Diagnosis, Evidence
from muxd.engines.engine import Engine
from muxd.engines.engine_client import EngineCallFailed

from .crash_evidence import CrashEvidence
from .launch import LaunchedServer
from .proof_keeper import DYING

log = logging.getLogger(__name__)


class Diagnostics:
    """The diagnostics of one life of a worker."""

    def __init__(self, engine: Engine, logs: Iterable[Path]) -> None:
        """Begin to collect now; `logs` as for CrashEvidence."""
        self._engine = engine
        self._evidence = CrashEvidence(logs)
        self.doing: str | None = None  # what the server did last, for messages, such as "woke"; None: never ready
        self.given_up: Diagnosis | None = None  # why muxd itself ends this life
        self.timed_out = False  # its start took too long

    def served(self) -> None:
        """Note that the server is ready: what it said so far explains nothing that happens from now on."""
        self.doing = "served"
        self._evidence.reset()

    def diagnose(self, model: Model, **known: Any) -> Diagnosis | None:
        """Ask the engine why its server ended, or will never be ready; `known` are further fields of the evidence."""
        return self._engine.diagnose(Evidence(self._evidence.said(), self.doing, **known), model)

    def cause_of(self, exit: ExitRecord, model: Model) -> Diagnosis | None:
        """Return why the server ended; None where a stop was asked for, or nothing tells."""
        if exit.error is not None:
            return diagnosis.of_failed_exec(exit.errno, exit.error)
        if self.given_up is not None:
            return self.given_up
        if self.timed_out:
            return self.diagnose(model, timed_out=True) or diagnosis.of_start_timeout(model.start_timeout)
        if exit.requested:
            return None
        kills = self._evidence.oom_kills()
        cause = self.diagnose(model, signal=exit.signal, status=exit.status, oom_kills=kills)
        was_script = model.script is not None and exit.status == 0
        if cause is None and was_script and not self._engine.are_parts(exit.left):
            return diagnosis.of_ended_script(self._evidence.said(), exit.left, self.doing)
        return cause

    async def explain(self, error: EngineCallFailed, server: LaunchedServer, model: Model) -> tuple[str, str]:
        """Return the reason and the error code of a failed engine call.

        Where the call's connection broke, wait up to DYING seconds for the server's death, so that its log can tell;
        a cancellation because the server has ended does not cut this short.
        """
        cause = error.cause
        if cause is None and error.broken:
            with trio.move_on_after(DYING, shield=True):
                await server.child.wait()
            cause = self.diagnose(model, broken_call=error.broken)
        if cause is None:
            return error.message, ""
        log.warning("%s: %s: %s", model.name, cause.code, cause)
        return str(cause), cause.code
