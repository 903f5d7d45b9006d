"""The GPUs of this host and how much of their memory is used, by NVML or by nothing.

This module is the only seam to the hardware, and gives every GPU its id: the index of a card as NVML counts, and the
UUID of a MIG slice.  A slice is a GPU of its own, with memory of its own; a card that is divided into slices is none:
CUDA gives processes its slices alone.  A reading is of the whole device; figures by process are told where NVML has
them, which is not in containers.
"""

import logging
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import pynvml
import trio

from .config import Config
from .config.flags import runs_on_cpu
from .core.ledger import GpuId
from .host.bounded import NoAnswer, within
from .threads import in_thread

log = logging.getLogger(__name__)

#: Seconds that an NVML call may take.  A lost GPU can hang a call for good; its thread is then abandoned.
NVML_TIMEOUT = 5.0

#: The number of pretend GPUs that have a UUID.
SIMULATED = 64

#: Bytes: readings that differ by less count as equal, because contexts of other processes come and go.
NOISE = 64 << 20


class CannotAsk(Exception):
    """NVML gives no list of the GPUs; the text says why."""


@dataclass(frozen=True, slots=True)
class GpuIdentity:
    """The id of one GPU, and the names by which a configuration or a script can mean it."""

    id: GpuId
    uuid: str  # such as GPU-... or, of a slice, MIG-...
    place: str = ""  # of a slice: its name before driver 470, MIG-<UUID of its card>/<GPU instance>/<compute instance>
    slices: tuple[str, ...] = ()  # of a divided card: UUIDs of its slices

    def is_meant(self, name: str) -> bool:
        """Say whether `name` means this GPU; as in CUDA the beginning of a UUID is enough."""
        return self.uuid.startswith(name) or self.place == name


@dataclass(frozen=True, slots=True)
class GpuHealth:
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

    def cover(self, config: Config) -> None:
        """Read the GPUs of these models from now on; they must all have this source."""
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

    def cover(self, config: Config) -> None:
        pass


class NvmlGpus:
    """NVIDIA's management library.  Not yet seen on hardware by this project."""

    measured = True

    def __init__(self) -> None:
        """Initialize NVML; raises pynvml.NVMLError where there is no driver."""
        pynvml.nvmlInit()
        self._thread = trio.CapacityLimiter(1)  # calls that hang must not use up trio's threads
        self.latest: dict[GpuId, GpuMemory] = {}
        self.there: frozenset[GpuId] = frozenset()

    async def read(self, *, holders: bool = False) -> dict[GpuId, GpuMemory]:
        try:
            with trio.fail_after(NVML_TIMEOUT):
                there, self.latest = await in_thread(
                    partial(_read_nvml, holders=holders), abandon_on_cancel=True, limiter=self._thread
                )
                self.there = there if there == self.latest.keys() else there | self.there  # a lost card has slices
        except trio.TooSlowError:
            log.warning("GPU memory cannot be read: NVML did not answer in %.0f s", NVML_TIMEOUT)
            return {}
        except pynvml.NVMLError as error:
            log.warning("GPU memory cannot be read: %s", error)
            return {}
        return self.latest

    def cover(self, config: Config) -> None:
        pass


def _read_nvml(*, holders: bool) -> tuple[frozenset[GpuId], dict[GpuId, GpuMemory]]:
    """Return the ids of all GPUs, and the readings; raises pynvml.NVMLError where no GPU can be read.

    A GPU that is lost is left out, so that muxd still sees the others.
    """
    there, readings, lost = set(), {}, None
    for index in range(pynvml.nvmlDeviceGetCount()):
        gpu = str(index)
        try:
            card = pynvml.nvmlDeviceGetHandleByIndex(index)
            devices = {uuid: mig for mig, uuid in _slices(card)} or {gpu: card}
            for gpu, device in devices.items():
                there.add(gpu)
                memory, name = pynvml.nvmlDeviceGetMemoryInfo(device), str(pynvml.nvmlDeviceGetName(device))
                told = _holders(device) if holders else None
                readings[gpu] = GpuMemory(gpu, name, int(memory.total), int(memory.used), told, _health(device))
        except pynvml.NVMLError as error:
            lost = error
            there.add(gpu)
            log.warning("GPU %s cannot be read: %s", gpu, error)
    if lost is not None and not readings:
        raise lost
    return frozenset(there), readings


def _health(device: object) -> GpuHealth:
    """Return what NVML tells of a GPU besides its memory: a slice and some virtual GPUs have none of it."""
    utilization = temperature = power = None
    with suppress(pynvml.NVMLError):
        utilization = int(pynvml.nvmlDeviceGetUtilizationRates(device).gpu)
    with suppress(pynvml.NVMLError):
        temperature = int(pynvml.nvmlDeviceGetTemperature(device, pynvml.NVML_TEMPERATURE_GPU))
    with suppress(pynvml.NVMLError):
        power = int(pynvml.nvmlDeviceGetPowerUsage(device)) / 1000
    return GpuHealth(utilization, temperature, power)


def _holders(device: object) -> dict[int, int] | None:
    """Return the bytes that each process has on a GPU, by pid; None where NVML does not tell, as in containers."""
    held: dict[int, int] = {}
    for ask in (pynvml.nvmlDeviceGetComputeRunningProcesses, pynvml.nvmlDeviceGetGraphicsRunningProcesses):
        with suppress(pynvml.NVMLError_NotSupported):  # a slice, or a card for computing alone, has no graphics
            for process in ask(device):
                if process.usedGpuMemory is None:
                    return None
                held[int(process.pid)] = max(held.get(int(process.pid), 0), int(process.usedGpuMemory))
    return held


def installed_gpus() -> list[GpuIdentity]:
    """Return the GPUs of this machine, in NVML's order, each divided card before its slices; raises CannotAsk."""
    try:
        return within(_list_gpus, NVML_TIMEOUT)
    except NoAnswer as error:
        raise CannotAsk(f"NVML: {error}") from None


def _list_gpus() -> list[GpuIdentity]:
    pynvml.nvmlInit()
    try:
        found = []
        for index in range(pynvml.nvmlDeviceGetCount()):
            card = pynvml.nvmlDeviceGetHandleByIndex(index)
            card_uuid, slices = str(pynvml.nvmlDeviceGetUUID(card)), list(_slices(card))
            found.append(GpuIdentity(str(index), card_uuid, slices=tuple(uuid for _, uuid in slices)))
            found += [GpuIdentity(uuid, uuid, _place_of(mig, card_uuid)) for mig, uuid in slices]
        return found
    finally:
        pynvml.nvmlShutdown()


def _slices(card: object) -> Iterator[tuple[object, str]]:
    """Yield the handle and the UUID of each MIG slice of a card: none where the card is not divided."""
    try:
        places = pynvml.nvmlDeviceGetMaxMigDeviceCount(card)
    except pynvml.NVMLError:
        return
    for place in range(places):
        with suppress(pynvml.NVMLError):  # there is no slice at this index
            mig = pynvml.nvmlDeviceGetMigDeviceHandleByIndex(card, place)
            yield mig, str(pynvml.nvmlDeviceGetUUID(mig))


def _place_of(mig: object, card_uuid: str) -> str:
    """Return the name that a slice had before driver 470, which CUDA still takes."""
    instances = pynvml.nvmlDeviceGetGpuInstanceId(mig), pynvml.nvmlDeviceGetComputeInstanceId(mig)
    return f"MIG-{card_uuid}/{instances[0]}/{instances[1]}"


def simulated_gpus() -> list[GpuIdentity]:
    """Return the identities of the simulator's pretend GPUs."""
    return [GpuIdentity(str(index), f"GPU-00000000-0000-0000-0000-{index:012d}") for index in range(SIMULATED)]


def open_real_gpus(config: Config) -> Gpus:
    """Return this machine's GPUs as NVML tells them; NoGpus where there is no driver."""
    try:
        return NvmlGpus()
    except pynvml.NVMLError as error:
        if not all(not model.gpus or runs_on_cpu(model.args) for model in config.models):
            remedy = "install NVIDIA's driver, or give this user or container the GPUs"
            log.warning("no GPU can be seen, and no GPU memory is measured: %s; %s", error, remedy)
        return NoGpus()
