"""How far an order to validate a group is; `validations` brings it forward."""

from collections import deque
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple


class Stage(StrEnum):
    """What a validation is about."""

    COME = "come"  # the group is to be ready, its processes launched so that they can sleep at the cycle's level
    RELAUNCH = "relaunch"  # its processes end, to be launched for another level
    DRAIN = "drain"  # its clients finish what they have in flight
    LOOK = "look"  # its workers are measured before they sleep
    LEAVE = "leave"
    LOOK_ASLEEP = "look_asleep"
    RETURN = "return"
    LOOK_AWAKE = "look_awake"
    DONE = "done"


class Cycle(NamedTuple):
    """One sleep and wake of a group."""

    level: int
    number: int  # among the cycles at this level, from 1 on


@dataclass(slots=True)
class Validation:
    """How far an order to validate a group is."""

    cycles: deque[Cycle]  # still to be made; the first is under way
    stage: Stage = Stage.COME
    has_begun: bool = False  # the group is cut off from its clients, and nobody else comes to its GPUs
    is_known: bool = False  # how its workers are, awake: they have been measured
    launch_level: int | None = None  # for which its processes are launched; None: the configured one
    since: float = 0.0  # when the cycle began
    asked: dict[str, int] = field(default_factory=dict)  # who is being measured: the numbers of the questions
    errors: dict[str, str] = field(default_factory=dict)  # by worker: what went wrong in the cycle
    retried: dict[str, int] = field(default_factory=dict)  # by worker: a level that was distrusted, and is tried again
    has_lost: bool = False  # a process that was launched for a level has just ended by itself

    @property
    def calls(self) -> bool:
        """Say whether the group is to come to its GPUs now."""
        return self.stage in (Stage.COME, Stage.RETURN)

    @property
    def sends_away(self) -> bool:
        """Say whether the group is to leave its GPUs now, or to stay away."""
        return self.stage in (Stage.RELAUNCH, Stage.DRAIN, Stage.LEAVE, Stage.LOOK_ASLEEP)
