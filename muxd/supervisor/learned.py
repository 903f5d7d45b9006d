"""What was measured of workers, and what went wrong with them, kept in the state file for the next muxd.

It is written with the tick, not with each move: a switch need not wait for it.  What is measured in the last seconds
before muxd is killed is lost; a worker's failure is written at once.
"""

from collections.abc import Mapping
from hashlib import sha256
from time import monotonic

import trio
from msgspec.structs import replace

from muxd.config import Model
from muxd.core.spec import Learned, Troubles
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

    def recalled_troubles(self) -> dict[str, Troubles]:
        """Return what went wrong, under a muxd that was killed since this boot, with workers that are configured so."""
        known = {name: self._state.state.learned.get(name) for name in self._runners}
        return {
            name: _shifted(record.troubles, trio.current_time() - monotonic())
            for name, record in known.items()
            if record is not None
            and record.troubles is not None
            and (record.model, record.boot_id) == (_digest(self._runners[name].model), self._state.boot_id)
        }

    def keep(self, *, with_troubles: bool = True) -> None:
        """Write what was measured, and with it what went wrong, into the state file, if that has changed.

        After a shutdown in order everything may start anew: what went wrong is forgotten.
        """
        if self._moves == (moves := self._view.moves) and with_troubles:
            return
        self._moves = moves
        troubles = self._view.troubles() if with_troubles else {}
        found = {name: self._record(name, known, troubles.get(name)) for name, known in self._view.learned().items()}
        records = {name: record for name, record in found.items() if record.seconds or record.kept or record.troubles}
        if records != self._state.state.learned:
            self._state.state.learned = records
            self._state.save()

    def _record(self, worker: str, learned: Learned, troubles: Troubles | None) -> LearnedRecord:
        seconds = {
            state if level is None else f"{state} at {level}": round(took, 3)
            for (state, level), took in learned.seconds.items()
        }
        record = LearnedRecord(model=_digest(self._runners[worker].model), seconds=seconds, kept=dict(learned.kept))
        if troubles is not None and troubles != Troubles():
            record.troubles, record.boot_id = _shifted(troubles, monotonic() - trio.current_time()), self._state.boot_id
        return record


def _shifted(troubles: Troubles, by: float) -> Troubles:
    """Return the same with its times on another clock, which is so many seconds ahead."""

    def shift(time: float) -> float:
        return round(time + by, 3)

    return replace(
        troubles,
        failures=tuple(map(shift, troubles.failures)),
        retry_at=shift(troubles.retry_at) if troubles.waits else 0.0,
        ready_since=shift(troubles.ready_since) if troubles.ready_since is not None else None,
        ended_at=shift(troubles.ended_at) if troubles.ended else 0.0,
    )


def _learned(record: LearnedRecord) -> Learned:
    """Return what a record says; a state or a level that this muxd does not know is left out."""
    seconds: dict[tuple[WorkerState, int | None], float] = {}
    for key, took in record.seconds.items():
        state, _, level = key.partition(" at ")
        if state in set(WorkerState) and level in ("", "0", "1", "2", "3") and took >= 0:
            seconds[WorkerState(state), int(level) if level else None] = took
    return Learned(seconds, {level: size for level, size in record.kept.items() if level in (0, 1, 2) and size >= 0})


def _digest(model: Model) -> str:
    """Return a digest of a model's configuration: with another one its server may be another."""
    return sha256(repr(model).encode()).hexdigest()[:16]
