"""The GPUs of this host and how much of their memory is used, by NVML, by the simulator's ledger, or by nothing.

This module is the only seam to the hardware.  A reading is of the whole device: NVML gives
no figures per process in containers.
"""

import logging
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pynvml
import trio

from .config import Config
from .config.flags import runs_on_cpu
from .errors import in_words
from .host.bounded import NoAnswer, within
from .own_files import UNREADABLE, make_way, put_aside
from .simulator.gpu_ledger import GpuLedger
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
    """The names by which a configuration or a script can mean one GPU."""

    index: int
    uuid: str  # such as GPU-...
    slices: tuple[str, ...] = ()  # UUIDs of its MIG devices, MIG-...

    def is_meant(self, name: str) -> bool:
        """Say whether `name` means this GPU or one of its MIG devices; as in CUDA the beginning of a UUID is enough."""
        return self.uuid.startswith(name) or any(uuid.startswith(name) for uuid in self.slices)


@dataclass(frozen=True, slots=True)
class GpuMemory:
    index: int
    name: str
    total: int  # bytes
    used: int  # bytes

    @property
    def free(self) -> int:
        return self.total - self.used


class Gpus(Protocol):
    """A source of readings of the GPUs' memory."""

    measured: bool  # whether there is a source at all; a single reading may fail all the same
    latest: dict[int, GpuMemory]  # the last reading by GPU index, for status
    count: int  # number of GPUs at the last reading, readable or not; 0 where that is unknown

    async def read(self) -> dict[int, GpuMemory]:
        """Return a fresh reading by GPU index, empty where no GPU can be read."""
        ...

    def cover(self, config: Config) -> None:
        """Read the GPUs of these models from now on; they must all have this source."""
        ...


class NoGpus:
    """The source where no GPU can be read: no memory is measured, and no switch waits for memory."""

    measured = False
    count = 0

    def __init__(self) -> None:
        self.latest: dict[int, GpuMemory] = {}

    async def read(self) -> dict[int, GpuMemory]:
        await trio.lowlevel.checkpoint()
        return {}

    def cover(self, config: Config) -> None:
        pass


class SimulatedGpus:
    """The pretend GPUs of simulated models."""

    measured = True
    count = 0

    def __init__(self, ledger: GpuLedger, indices: Iterable[int]) -> None:
        self._ledger = ledger
        self._indices = sorted(indices)
        self.latest: dict[int, GpuMemory] = {}

    async def read(self) -> dict[int, GpuMemory]:
        await trio.lowlevel.checkpoint()
        total = self._ledger.capacity
        try:
            self.latest = {i: GpuMemory(i, "simulated GPU", total, self._ledger.used(i)) for i in self._indices}
        except OSError as error:
            log.warning("the simulated GPUs cannot be read: %s", in_words(error))
            return {}
        return self.latest

    def cover(self, config: Config) -> None:
        self._indices = _indices(config)


class NvmlGpus:
    """NVIDIA's management library.  Not yet seen on hardware by this project."""

    measured = True

    def __init__(self) -> None:
        """Initialize NVML; raises pynvml.NVMLError where there is no driver."""
        pynvml.nvmlInit()
        self._thread = trio.CapacityLimiter(1)  # calls that hang must not use up trio's threads
        self.latest: dict[int, GpuMemory] = {}
        self.count = 0

    async def read(self) -> dict[int, GpuMemory]:
        try:
            with trio.fail_after(NVML_TIMEOUT):
                self.count, self.latest = await in_thread(_read_nvml, abandon_on_cancel=True, limiter=self._thread)
        except (pynvml.NVMLError, trio.TooSlowError) as error:
            log.warning("GPU memory cannot be read: %s", error or f"NVML did not answer in {NVML_TIMEOUT:.0f} s")
            return {}
        return self.latest

    def cover(self, config: Config) -> None:
        pass


def _read_nvml() -> tuple[int, dict[int, GpuMemory]]:
    """Return the number of GPUs and the readings by index; raises pynvml.NVMLError where no GPU can be read.

    A GPU that is lost is left out, so that muxd still sees the others.
    """
    readings, lost = {}, None
    count = pynvml.nvmlDeviceGetCount()
    for index in range(count):
        try:
            device = pynvml.nvmlDeviceGetHandleByIndex(index)
            memory = pynvml.nvmlDeviceGetMemoryInfo(device)
        except pynvml.NVMLError as error:
            lost = error
            log.warning("GPU %d cannot be read: %s", index, error)
            continue
        name = str(pynvml.nvmlDeviceGetName(device))
        readings[index] = GpuMemory(index, name, int(memory.total), int(memory.used))
    if lost is not None and not readings:
        raise lost
    return count, readings


def installed_cards() -> list[GpuIdentity]:
    """Return the GPUs of this machine, in NVML's order; raises CannotAsk."""
    try:
        return within(_list_gpus, NVML_TIMEOUT)
    except NoAnswer as error:
        raise CannotAsk(f"NVML: {error}") from None


def _list_gpus() -> list[GpuIdentity]:
    pynvml.nvmlInit()
    try:
        handles = [(index, pynvml.nvmlDeviceGetHandleByIndex(index)) for index in range(pynvml.nvmlDeviceGetCount())]
        return [GpuIdentity(index, str(pynvml.nvmlDeviceGetUUID(gpu)), tuple(_mig_ids(gpu))) for index, gpu in handles]
    finally:
        pynvml.nvmlShutdown()


def _mig_ids(gpu: object) -> Iterator[str]:
    """Yield the UUIDs of a GPU's MIG devices: none where the GPU has no MIG."""
    try:
        places = pynvml.nvmlDeviceGetMaxMigDeviceCount(gpu)
    except pynvml.NVMLError:
        return
    for place in range(places):
        with suppress(pynvml.NVMLError):  # there is no MIG device at this index
            yield str(pynvml.nvmlDeviceGetUUID(pynvml.nvmlDeviceGetMigDeviceHandleByIndex(gpu, place)))


def simulated_cards() -> list[GpuIdentity]:
    """Return the identities of the simulator's pretend GPUs."""
    return [GpuIdentity(index, f"GPU-00000000-0000-0000-0000-{index:012d}") for index in range(SIMULATED)]


def simulated_ledger_path(config: Config) -> Path:
    return config.daemon.state_dir / "simulated-gpus.json"


def are_simulated(config: Config) -> bool:
    """Say whether all models are simulated, so that muxd reads the pretend GPUs: a real model takes real memory."""
    return bool(config.models) and all(model.engine == "simulator" for model in config.models)


def _indices(config: Config) -> list[int]:
    return sorted({gpu for model in config.models for gpu in model.gpus})


def open_gpus(config: Config) -> Gpus:
    """Return the simulator's ledger where all models are simulated, else NVML, or NoGpus where there is no driver."""
    if are_simulated(config):
        path = simulated_ledger_path(config)
        ledger = GpuLedger(path, config.daemon.simulated_gpu_memory)
        make_way(path)
        try:
            ledger.holders(0)
        except (*UNREADABLE, TypeError) as error:
            put_aside(path, error)
        return SimulatedGpus(ledger, _indices(config))
    try:
        return NvmlGpus()
    except pynvml.NVMLError as error:
        if not all(runs_on_cpu(model.args) for model in config.models):
            remedy = "install NVIDIA's driver, or give this user or container the GPUs"
            log.warning("no GPU can be seen, and no GPU memory is measured: %s; %s", error, remedy)
        return NoGpus()
