"""The weight files of models on this machine: how much of them is in RAM, and reading them there ahead of a load.

The core says whose, and when to stop.  A thread reads them, in the order of their names, which is that of loading.
It uses RAM that is free or holds other files alone, and no more than would fit there with what the model itself takes
on its way; and it uses the disk when nobody else does.
"""

import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import trio

from muxd.config import Model
from muxd.core.commands import PrefetchWeights
from muxd.errors import in_words
from muxd.host.hardware import available_memory
from muxd.host.model_kinds import Unusable
from muxd.host.page_cache import bytes_in_ram, read_ahead
from muxd.host.priority import read_when_idle
from muxd.host.search import place_of
from muxd.host.weights import weight_files
from muxd.members import has_files
from muxd.threads import NoThread, in_new_thread
from muxd.ticks import next_tick

log = logging.getLogger(__name__)

#: The share of the available host RAM that files may be read into.
SHARE = 0.9

#: Seconds between two looks at how much is in RAM; a look at 64 GiB that are there takes half a second of a thread.
LOOK = 60.0

MiB = 1 << 20


@dataclass(slots=True)
class WeightFiles:
    """The files of one model; sizes in bytes."""

    size: int = 0
    in_ram: int | None = None  # None: the kernel does not say
    is_read: bool = False  # they are being read ahead now
    is_stopped: bool = field(default=False, repr=False)


class WeightReader:
    """All models' weight files; `available` returns the bytes of RAM that are free, or hold files alone."""

    def __init__(self, models: Callable[[], Mapping[str, Model]], available: Callable[[], int] = available_memory):
        self._models = models
        self._available = available
        self._found: dict[str, WeightFiles] = {}
        self._reading: dict[str, WeightFiles] = {}
        self._limiter = trio.CapacityLimiter(2)  # a thread that a dead disk holds is one of these

    def status(self, model: str) -> dict[str, object] | None:
        """Return what is known of a model's files; None where there are none here."""
        found = self._reading.get(model) or self._found.get(model)
        if found is None or not found.size:
            return None
        return {"bytes": found.size, "in_ram": found.in_ram, "being_read": found.is_read}

    async def watch(self, is_of_use: Callable[[str], bool]) -> None:
        """Look again and again how much is in RAM of those models for whom it is of use, until cancelled."""
        while True:
            for name, model in list(self._models().items()):
                if name not in self._reading and has_files(model) and (name not in self._found or is_of_use(name)):
                    await self._in_thread(partial(self._look, name, model))
            await next_tick(LOOK)

    async def read(self, command: PrefetchWeights) -> None:
        """Read a model's files ahead, until all are in RAM, no more fits there, or `stop`."""
        name, model = command.group, self._models().get(command.group)
        if model is None:
            return
        reading = self._reading[name] = WeightFiles(is_read=True)
        try:
            await self._in_thread(partial(self._read, name, model, reading, command.reserve))
        finally:
            reading.is_read, reading.is_stopped = False, True
            if self._reading.get(name) is reading:
                self._found[name] = self._reading.pop(name)

    def stop(self, model: str) -> None:
        if (reading := self._reading.get(model)) is not None:
            reading.is_stopped = True

    async def _in_thread(self, work: Callable[[], None]) -> None:
        with suppress(NoThread):  # nothing depends on it
            await in_new_thread(work, abandon_on_cancel=True, limiter=self._limiter)

    # In a thread

    def _look(self, name: str, model: Model) -> None:
        files = _files_of(model)
        self._found[name] = WeightFiles(*_residency(files))

    def _read(self, name: str, model: Model, reading: WeightFiles, reserve: int) -> None:
        read_when_idle()
        files, began = _files_of(model), time.monotonic()
        reading.size, reading.in_ram = _residency(files)
        before, done = reading.in_ram, 0

        def goes_on(size: int) -> bool:
            nonlocal done
            if reading.is_stopped or done + size > SHARE * self._available() - reserve:
                return False
            done += size
            return True

        for file in files:
            there = done
            try:
                read_ahead(file, goes_on)
            except OSError as error:
                log.warning("%s: %s cannot be read ahead: %s", name, file, in_words(error))
                return
            reading.in_ram = _residency(files)[1]
            if done == there:
                break
        reading.size, reading.in_ram = _residency(files)
        if before is not None and reading.in_ram is not None and reading.in_ram > before:
            sizes = (each // MiB for each in (reading.in_ram, reading.size, before))
            took = time.monotonic() - began
            log.info("%s: %d of %d MiB of its weights are in RAM, and %d were: read in %.1f s", name, *sizes, took)


def _files_of(model: Model) -> list[Path]:
    """Return the weight files of a model that are here; none where they cannot be read."""
    try:
        place = place_of(model.model_path, {**os.environ, **model.env})
        return weight_files(place) if place is not None else []
    except (Unusable, OSError, ValueError):  # ValueError: the name cannot be a path
        return []


def _residency(files: Sequence[Path]) -> tuple[int, int | None]:
    """Return the bytes that files have, and how many of these are in RAM; None where the kernel does not say."""
    try:
        found = [(file.stat().st_size, bytes_in_ram(file)) for file in files]
    except OSError:
        return 0, None
    there = [cached for _, cached in found if cached is not None]
    return sum(size for size, _ in found), sum(there) if len(there) == len(found) else None
