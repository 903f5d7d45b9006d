"""The GPUs of this host and how much of their memory is used: what is told of them, by `nvml` or by nothing.

A GPU's id is the index of a card as NVML counts, and the UUID of a MIG slice.  A slice is a GPU of its own, with memory
of its own; a card that is divided into slices is none: CUDA gives processes its slices alone.  A reading is of the
whole device; figures by process are told where NVML has them, which is not in containers.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import trio
from msgspec import Struct

from .core.ledger import GpuId

#: The number of pretend GPUs that have a UUID.
SIMULATED = 64

#: Bytes: readings that differ by less count as equal, because contexts of other processes come and go.
NOISE = 64 << 20


class CannotAsk(Exception):
    """NVML gives no list of the GPUs; the text says why."""


class GpuIdentity(Struct, frozen=True):
    """The id of one GPU, and the names by which a configuration or a script can mean it."""

    id: GpuId
    uuid: str  # such as GPU-... or, of a slice, MIG-...
    place: str = ""  # of a slice: its name before driver 470, MIG-<UUID of its card>/<GPU instance>/<compute instance>
    slices: tuple[str, ...] = ()  # of a divided card: UUIDs of its slices

    def is_meant(self, name: str) -> bool:
        """Say whether `name` means this GPU; as in CUDA the beginning of a UUID is enough."""
        return self.uuid.startswith(name) or self.place == name


class GpuHealth(Struct, frozen=True):
    """How a GPU does besides its memory; None for what nobody tells, as of MIG slices and of pretend GPUs."""

    utilization: int | None = None  # percent of the last moment in which a kernel ran
    temperature: int | None = None  # degrees Celsius
    power: float | None = None  # watts


@dataclass(frozen=True, slots=True)
class GpuMemory:
    id: GpuId
    name: str
    total: int  # bytes
    used: int  # bytes
    holders: Mapping[int, int] | None = None  # bytes by pid, where they were asked for and can be told
    health: GpuHealth = field(default=GpuHealth(), compare=False)

    @property
    def free(self) -> int:
        return self.total - self.used


class Gpus(Protocol):
    """A source of readings of the GPUs' memory."""

    measured: bool  # whether there is a source at all; a single reading may fail all the same
    latest: dict[GpuId, GpuMemory]  # the last reading, for status
    there: frozenset[GpuId]  # all GPUs at the last reading, readable or not; none where that is unknown

    async def read(self, *, holders: bool = False) -> dict[GpuId, GpuMemory]:
        """Return a fresh reading, with `holders` by process too; empty where no GPU can be read."""
        ...

    def cover(self, gpus: Iterable[GpuId]) -> None:
        """Read these GPUs too from now on; they must all have this source."""
        ...


class NoGpus:
    """The source where no GPU can be read: no memory is measured, and no switch waits for memory."""

    measured = False
    there: frozenset[GpuId] = frozenset()

    def __init__(self) -> None:
        self.latest: dict[GpuId, GpuMemory] = {}

    async def read(self, *, holders: bool = False) -> dict[GpuId, GpuMemory]:
        await trio.lowlevel.checkpoint()
        return {}

    def cover(self, gpus: Iterable[GpuId]) -> None:
        pass


def simulated_gpus() -> list[GpuIdentity]:
    """Return the identities of the simulator's pretend GPUs."""
    return [GpuIdentity(str(index), f"GPU-00000000-0000-0000-0000-{index:012d}") for index in range(SIMULATED)]
