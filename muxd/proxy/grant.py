"""The right to send requests to a worker, the requests that want it, and the limits of a model."""

from typing import Protocol

from .answers import Refusal
from .sockets.pool import Pool
from .telemetry.request_record import RequestRecord


class QueuedRequest(Protocol):
    """A request that wants to be sent to a model's worker."""

    since: float  # when the request began to wait, on the monotonic clock
    priority: int
    is_batch: bool  # nobody waits for the answer
    losses: int  # how often the request has lost a worker

    @property
    def key_name(self) -> str: ...

    @property
    def record(self) -> RequestRecord: ...

    @property
    def is_running(self) -> bool: ...

    @property
    def agent(self) -> str: ...

    def begin_wait(self) -> None:
        """Note that the request is about to be queued."""

    def waited(self, seconds: float) -> None:
        """Note that the request waited for `seconds` and is about to be forwarded or refused."""

    def forward(self, grant: "Grant") -> None:
        """Send the request to the grant's worker."""

    def refuse(self, refusal: Refusal) -> None:
        """Answer with an error a request that waits, or whose worker was never reached."""

    def lose(self, refusal: Refusal) -> None:
        """Handle the loss of the worker: queue the request for the next worker, or end it with `refusal`."""

    def cut(self, refusal: Refusal) -> None:
        """End the request with an error, wherever it is."""


class Grant:
    """The right to send requests to a worker, and the requests that are with the worker now."""

    __slots__ = ("generation", "in_flight", "pool")

    def __init__(self, pool: Pool, generation: int) -> None:
        self.pool = pool
        self.generation = generation
        self.in_flight: set[QueuedRequest] = set()


class ModelLimits(Protocol):
    """The limits that a model's configuration sets for its requests; a reload may change them."""

    @property
    def switch_timeout(self) -> float:
        """Return how long a request may wait, in seconds."""
        ...

    @property
    def queue_limit(self) -> int:
        """Return how many requests may wait."""
        ...
