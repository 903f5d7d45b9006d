"""The wake proof of one life of a worker: what its server answers once it is loaded, and must after each wake."""

import logging

import trio

from muxd.config import Model
from muxd.engines import diagnosis
from muxd.engines.engine import Engine
from muxd.engines.engine_client import EngineCallFailed
from muxd.engines.wake_proof import difference
from muxd.saved_state import StateFile

from .launch import LaunchedServer

log = logging.getLogger(__name__)

#: Seconds within which a server that dies of an engine call is gone after the call's connection broke.
DYING = 3.0


class ProofKeeper:
    """Asks a server for its wake proof, and holds later answers against the first one."""

    def __init__(self, engine: Engine, state: StateFile, no_proof: str = "") -> None:
        """Take why the server is not asked, "" where it is."""
        self._engine = engine
        self._state = state
        self._no_proof = no_proof
        self.is_asking = False  # for the first proof: the server may die of that

    def remark(self, model: Model) -> str:
        """Return why a ready server of the model gives no wake proof; "" where it does, or is not to."""
        return f"no wake proof: {self._no_proof}" if self._no_proof and _is_to_prove(model) else ""

    async def keep(self, server: LaunchedServer, model: Model) -> None:
        """Ask a server that was just loaded for its wake proof, and keep the answer; without one it serves as well.

        The question warms the server up, too, and is asked twice: of a server that does not repeat itself while nothing
        happens to it a wake can prove nothing.  One that dies of it is asked nothing in its next life.
        """
        if not _is_to_prove(model) or self._no_proof:
            return
        self.is_asking = True
        try:
            answer = await self._engine.proof(server.link, model)
            again = await self._engine.proof(server.link, model) if answer is not None else None
        except EngineCallFailed as error:
            if error.broken:
                with trio.move_on_after(DYING):
                    await server.child.wait()
                    await trio.sleep_forever()  # this life is over: whoever else waits for the child ends this task
            self._no_proof = error.message
        else:
            if answer is not None and not answer.is_sound:
                self._no_proof = "its answer has something in the place of numbers"
            elif answer is not None and again is not None and (why := difference(answer, again)) is not None:
                self._no_proof = f"it does not repeat itself: asked twice, {why}"
            else:
                server.record.proof = answer
                self._state.save()
        self.is_asking = False
        if self._no_proof:
            log.warning("%s: no wake proof: %s", model.name, self._no_proof)

    async def prove(self, server: LaunchedServer, model: Model) -> bool:
        """Ask a server that woke what it was asked when it was loaded; raise EngineCallFailed for another answer.

        Return False where it is not asked.  A server that does not answer at all is in doubt, like after any call.
        """
        before = server.record.proof
        if before is None or not model.wake_proof:
            return False
        try:
            after = await self._engine.proof(server.link, model)
        except EngineCallFailed as error:
            if not error.answered:
                raise
            why: str | None = error.message
        else:
            why = difference(before, after) if after is not None else "it gives none"
        if why is not None:
            raise EngineCallFailed(why, cause=diagnosis.of_wrong_wake(why))
        return True


def _is_to_prove(model: Model) -> bool:
    return model.wake_proof and model.sleep_level < 3
