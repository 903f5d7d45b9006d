"""What was measured of workers, kept in the state file for the next muxd.

It is written with the tick, not with each move: a switch need not wait for it.  What is measured in the last seconds
before muxd is killed is lost.
"""

from collections.abc import Mapping
from hashlib import sha256

from muxd.config import Model
from muxd.core.spec import Learned
from muxd.core.states import WorkerState
from muxd.core.view import CoreView
from muxd.saved_state import LearnedRecord, StateFile
from muxd.workers import Runner


class LearnedFile:
    """The part of the state file that holds what was measured."""

    def __init__(self, state: StateFile, view: CoreView, runners: Mapping[str, Runner]) -> None:
        self._state = state
        self._view = view
        self._runners = runners
        self._moves = 0  # of workers, when it was last looked

    def recalled(self) -> dict[str, Learned]:
        """Return what earlier muxds measured of workers whose configuration is what it was then."""
        known = {name: self._state.state.learned.get(name) for name in self._runners}
        return {
            name: _learned(record)
            for name, record in known.items()
            if record is not None and record.model == _digest(self._runners[name].model)
        }

    def keep(self) -> None:
        """Write what was measured into the state file, if that has changed."""
        if self._moves == (moves := self._view.moves):
            return
        self._moves = moves
        found = {name: self._record(name, learned) for name, learned in self._view.learned().items()}
        records = {name: record for name, record in found.items() if record.seconds or record.kept}
        if records != self._state.state.learned:
            self._state.state.learned = records
            self._state.save()

    def _record(self, worker: str, learned: Learned) -> LearnedRecord:
        seconds = {
            state if level is None else f"{state} at {level}": round(took, 3)
            for (state, level), took in learned.seconds.items()
        }
        return LearnedRecord(model=_digest(self._runners[worker].model), seconds=seconds, kept=dict(learned.kept))


def _learned(record: LearnedRecord) -> Learned:
    """Return what a record says; a state or a level that this muxd does not know is left out."""
    seconds: dict[tuple[WorkerState, int | None], float] = {}
    for key, took in record.seconds.items():
        state, _, level = key.partition(" at ")
        if state in set(WorkerState) and level in ("", "0", "1", "2") and took >= 0:
            seconds[WorkerState(state), int(level) if level else None] = took
    return Learned(seconds, {level: size for level, size in record.kept.items() if level in (0, 1, 2) and size >= 0})


def _digest(model: Model) -> str:
    """Return a digest of a model's configuration: with another one its server may be another."""
    return sha256(repr(model).encode()).hexdigest()[:16]
