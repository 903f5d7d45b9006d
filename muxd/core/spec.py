"""What the core is told of a group and of its workers when they are configured."""

from collections.abc import Mapping
from enum import StrEnum
from math import inf
from typing import Literal, NamedTuple

from msgspec import Struct

from .ledger import WHOLE, GpuId
from .states import WorkerState


class Role(StrEnum):
    """What a worker does in its group."""

    SERVE = "serve"  # answers requests whole
    PREFILL = "prefill"  # reads prompts for the workers that decode
    DECODE = "decode"  # writes the answers to prompts that others have read
    ROUTER = "router"  # passes requests on to the others; has no GPU and never sleeps


def group_of(worker: str) -> str:
    """Return the name of a worker's group, which the worker's own begins with; a group's only worker has its name."""
    return worker.partition("/")[0]


class WorkerSpec(Struct, frozen=True):
    """What the core needs to know of a worker; all times in seconds."""

    name: str
    gpus: frozenset[GpuId] = frozenset({"0"})
    any_of: int = 0  # so many of its GPUs, chosen whenever it is started; 0: all of them
    share: int = WHOLE  # bytes of each of its GPUs, to serve; WHOLE: all that sleepers leave
    on_cards: bool = True  # its GPUs are real; else names that only keep it apart from others
    memory: int = 0  # bytes that it needs on its GPUs together; 0: nobody said
    sleep_level: int = 2  # at which it sleeps unless an order says another, or room is needed: then deeper
    levels: frozenset[int] = frozenset()  # at which its process can sleep; sleep_level and 3 always
    launchable: frozenset[int] = frozenset()  # levels for which its process can be launched instead
    copy: int | None = None  # bytes of host RAM that level 1 takes; 0: as many as its weights; None: not counted
    resident: int = 0  # bytes of each of its GPUs that stay taken while it sleeps at level 0; 0: nobody said
    restart_limit: int = 5
    restart_window: float = 600.0
    stable_after: float = 60.0
    cool_down: float = 60.0
    role: Role = Role.SERVE
    #: Bytes of host RAM that a process takes at its engine's gate, until that was measured; None: none is kept there.
    standby: int | None = None

    def can_sleep_at(self, level: int) -> bool:
        return level in (self.sleep_level, 3) or level in self.levels

    def can_ever_sleep_at(self, level: int) -> bool:
        """Say whether a process of the worker can sleep at `level`, launched for it if need be."""
        return self.can_sleep_at(level) or level in self.launchable

    @property
    def gpu_count(self) -> int:
        return self.any_of or len(self.gpus) or 1

    @property
    def need(self) -> int:
        """Return the bytes that the worker needs on each of its GPUs, as far as somebody said; else 0."""
        return self.memory // self.gpu_count if self.share == WHOLE else self.share


class Learned(Struct, frozen=True):
    """What was measured of a worker's lives: true of the next ones too, while its configuration stays the same."""

    seconds: Mapping[tuple[WorkerState, int | None], float]  # that each state takes, by level where that matters
    kept: Mapping[int, int]  # bytes of each of its GPUs that it keeps asleep, by level


class Rung(NamedTuple):
    """A step of what becomes of a group that nobody uses: after so many seconds it sleeps at this level, or has ended.

    `level` None: the one at which the group sleeps by itself.
    """

    after: float
    level: int | None


class DefaultGroup(Struct, frozen=True):
    """The group that comes back when nothing else is wanted; "" for none.

    Those on its GPUs must have been unused for `after` seconds.
    """

    name: str = ""
    after: float = 60.0


NO_DEFAULT = DefaultGroup()


class LoanTerms(Struct, frozen=True):
    """What a loan of GPUs is about; `until` is on the events' clock."""

    gpus: frozenset[GpuId] = frozenset()  # none: all
    until: float = inf
    is_borrowed: bool = True  # it ends with its borrower; else only when its time is over, or an operator says so
    is_preemptible: bool = False  # a request that waits for its GPUs ends it
    refuses: bool = False  # requests for models that can come nowhere else are refused; else they wait


class Scaling(Struct, frozen=True):
    """What decides how many replicas a group has, between `least` and all that are configured; times in seconds."""

    least: int  # 0: it leaves its GPUs when nobody wants it
    load: float  # requests that run or wait, for each replica; more, and there is one more
    queue_wait: float  # so long a request may wait while the group serves; longer, and there is one more
    up_after: float  # one of these must have held so long
    down_after: float  # a load for which fewer would do must have held so long


class Troubles(Struct, frozen=True):
    """How often a worker has died, failed to sleep or woken wrong, and what follows from that for its next lives.

    Times are seconds on the events' clock; the fields are those of `Worker`.
    """

    waits: Literal["", "backoff", "failed"] = ""  # where it waits, until `retry_at`, for another start
    reason: str = ""
    retry_at: float = 0.0
    failures: tuple[float, ...] = ()
    in_a_row: int = 0
    restarts: int = 0
    trial: bool = False
    ready_since: float | None = None
    bad_levels: int = 0
    level_trouble: str = ""
    wrong_wakes: tuple[int, ...] = ()
    woke_wrong_count: int = 0
    distrusted: frozenset[int] = frozenset()
    ended: str = ""
    ended_code: str = ""
    ended_at: float = 0.0
    awaits_port: bool = False


class GroupSpec(Struct, frozen=True):
    """What the core needs to know of a group; all times in seconds.  A group's only worker has the group's name."""

    name: str
    workers: tuple[WorkerSpec, ...]
    preload: bool = False
    drain_timeout: float = 300.0
    pinned: bool = False  # it leaves its GPUs for an operator's order only, never for another group
    replicas: int = 0  # so many of its workers serve, until an order or its load says otherwise; 0: all
    scaling: Scaling | None = None  # by its load; None: only by orders
    is_packed: bool = False  # workers to which any GPUs will do come to as few as hold them
    ladder: tuple[Rung, ...] = ()  # each later and deeper than the one before
    sheltered_for: float = 0.0  # seconds after its last use in which it leaves for no other group, either
    priority: int = 0  # 2 to the power of this: what its waiting requests, and its leaving, count for
    prefetch: bool = False  # its weight files may be read into the page cache before it comes
    switch_timeout: float = 600.0  # so long its requests wait: then they are refused
