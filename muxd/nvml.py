"""The GPUs of this host as NVIDIA's management library (NVML) tells of them.

Here is the only seam to the hardware.  It is imported where GPUs are asked for: pynvml takes 5 ms of CPU, and a host
with pretend GPUs or none of its own has no use for it.
"""

import logging
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import partial

import pynvml
import trio

from .core.ledger import GpuId
from .gpus import CannotAsk, GpuHealth, GpuIdentity, GpuMemory, Gpus, NoGpus
from .host.bounded import NoAnswer, within
from .threads import in_thread

log = logging.getLogger(__name__)

#: Seconds that an NVML call may take.  A lost GPU can hang a call for good; its thread is then abandoned.
NVML_TIMEOUT = 5.0


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

    def cover(self, gpus: Iterable[GpuId]) -> None:
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


def open_real_gpus(*, needed: bool) -> Gpus:
    """Return this machine's GPUs as NVML tells them; NoGpus without a driver, with a warning where GPUs are needed."""
    try:
        return NvmlGpus()
    except pynvml.NVMLError as error:
        if needed:
            remedy = "install NVIDIA's driver, or give this user or container the GPUs"
            log.warning("no GPU can be seen, and no GPU memory is measured: %s; %s", error, remedy)
        return NoGpus()
