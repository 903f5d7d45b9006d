"""The right to send to a worker, who wants it, and on what terms."""

from typing import Protocol

import trio

from .answers import Refusal
from .sockets.pool import Pool


class QueuedRequest(Protocol):
    """A request that wants the model."""

    since: float  # when it began to wait, monotonic
    priority: int
    replayed: bool  # it has lost a worker before

    def waited(self, seconds: float) -> None:
        """It is about to be forwarded, after so long."""

    def forward(self, grant: "Grant") -> None: ...

    def refuse(self, refusal: Refusal) -> None: ...

    def lose(self, refusal: Refusal) -> None:
        """Its worker is gone: end it, or have it wait for the next one."""

    def cut(self, refusal: Refusal) -> None: ...


class Grant:
    """The right to send to a worker, and the requests that do."""

    __slots__ = ("drained", "generation", "in_flight", "pool")

    def __init__(self, pool: Pool, generation: int) -> None:
        self.pool = pool
        self.generation = generation
        self.in_flight: set[QueuedRequest] = set()
        self.drained = trio.Event()  # while it drains: set with the last request's end


class ModelLimits(Protocol):
    """What a model's configuration says of its requests; a reload changes it."""

    @property
    def switch_timeout(self) -> float:
        """How long a request may wait, in seconds."""
        ...

    @property
    def concurrency_limit(self) -> int:
        """Requests in flight at once; 0 for no limit."""
        ...

    @property
    def queue_limit(self) -> int:
        """Requests that may wait."""
        ...
