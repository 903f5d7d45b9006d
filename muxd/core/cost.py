"""What it costs to get through a state: a guess until it was measured."""

from dataclasses import dataclass

from .states import WorkerState

#: How much the newest measurement counts in a moving average.
NEWEST = 0.3


@dataclass(slots=True)
class Cost:
    """A duration in seconds: a guess until it was measured, then a moving average."""

    seconds: float
    measured: bool = False

    @property
    def known(self) -> float:
        """Return the seconds where they were measured; a guess counts for nothing."""
        return self.seconds if self.measured else 0.0

    def learn(self, seconds: float) -> None:
        self.seconds = seconds if not self.measured else self.seconds + NEWEST * (seconds - self.seconds)
        self.measured = True


#: By state, and by level where that matters.
Costs = dict[tuple[WorkerState, int | None], Cost]

#: States whose duration depends on the sleep level.
BY_LEVEL = (WorkerState.WAKING, WorkerState.FALLING_ASLEEP)

#: Levels at which a process can sleep; at level 3 it has ended.
LEVELS = (0, 1, 2)

#: What a start takes from the gate at which its process has waited; of one from nothing the level is None.
FROM_GATE = (WorkerState.STARTING, 3)


def guesses() -> Costs:
    """Return what each state is thought to take before that was measured."""
    return {
        (WorkerState.STARTING, None): Cost(60.0),
        FROM_GATE: Cost(20.0),
        (WorkerState.STOPPING, None): Cost(5.0),
        (WorkerState.DRAINING, None): Cost(5.0),
        **{(WorkerState.WAKING, level): Cost(5.0 if level else 1.0) for level in LEVELS},
        **{(WorkerState.FALLING_ASLEEP, level): Cost(1.0) for level in LEVELS},
    }


#: Which way out of a state means that what it does was done: only such times are learned.
COMPLETES = {
    WorkerState.STARTING: {WorkerState.READY},
    WorkerState.WAKING: {WorkerState.READY},
    WorkerState.FALLING_ASLEEP: {WorkerState.ASLEEP},
    WorkerState.STOPPING: {WorkerState.UNLOADED},
    WorkerState.DRAINING: {WorkerState.FALLING_ASLEEP, WorkerState.STOPPING},
}
