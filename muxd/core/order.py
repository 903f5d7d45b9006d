"""An order to one group; `orders` brings it forward."""

from dataclasses import dataclass, field

from .events import Verb
from .validation import Validation


@dataclass(slots=True)
class Order:
    """What a group is to do, by an operator (whose `tickets` wait for its end) or by a new configuration."""

    verb: Verb
    tickets: list[int] = field(default_factory=list)
    now: bool = False  # what is in flight is not waited for
    level: int | None = None  # of a sleep; None: the group's own
    replicas: int = 0  # of a scaling
    why: str = ""  # as users are told; "": as its verb says
    killed: bool = False  # a stop that was under way has been hurried; of a router, its clients were told to wait
    is_down: bool = False  # of a restart: the processes have ended
    validation: Validation | None = None
    for_loan: bool = False  # its GPUs are lent
