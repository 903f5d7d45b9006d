"""The state file: the part of muxd's state that the next muxd needs.

The file names every child, so that the next muxd can find the processes that this one left,
and take them over or end them, and says of each worker whether it is at rest: that it no longer is, is written
before anything is done to it.  The file is replaced whole and atomically, but not synced to disk: a power cut that
loses the file has also ended the processes that it names, which the boot id shows.  Its form is in `state_lines`.

A busy disk may take a second to replace a file.  So a thread does that while muxd's loop goes on; one write at a time,
each of the newest state, however often that has changed meanwhile.  Only an act that must be on record first waits:
`until_written` for a change that was saved as soon as it was known to come (`save_ahead`), or `write_ahead`.
"""

import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Literal

import msgspec
import trio

from .borrowers import Borrower
from .children import ChildRecord
from .core.events import Verb
from .core.spec import Troubles
from .engines.wake_proof import ProofAnswer
from .errors import in_words
from .own_files import UNREADABLE, put_aside, read, write
from .shim.processes import boot_id
from .state_lines import decoded, encoded
from .threads import KeptThread

log = logging.getLogger(__name__)

#: Seconds that an act waits for its record at most; on a disk that hangs muxd goes on, as it does on a full one.
PATIENCE = 5.0

#: Seconds that the loop waits at most while the thread writes what must be on record first.  Beside a loop that goes on
#: the thread would wait for the interpreter after each of its system calls: for a millisecond, where a write takes 0.2.
PROMPT = 0.001

#: Seconds for which what is written at leisure may wait for something else to be written.
LEISURE = 0.01


class TrackedMemory(msgspec.Struct, kw_only=True, omit_defaults=True, frozen=True):
    """What was measured of a worker's GPU memory, see `workers/gpu_memory`: bytes, by GPU."""

    before: dict[str, int] | None = None
    awake: dict[str, int] | None = None
    level: int | None = None
    given_up: dict[int, dict[str, int]] = {}  # by level
    kept: int | None = None
    kept_before: int = 0


class WorkerRecord(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One worker's processes and the state of its engine."""

    child: ChildRecord
    workdir: str
    tmpdir: str
    port: int
    admin_key: str
    call: str | None = None  # a call that is sent and not answered: its effect is in doubt
    released: list[str] = []  # the engine's tags of the memory that it has given up; a second release kills SGLang
    proof: ProofAnswer | None = None  # what it answered when it was loaded; None: its wakes are not proved
    asleep: bool = False  # of an earlier muxd, which knew no tags
    leftovers: list[str] = []  # files that the worker left outside its work folder
    # What the next muxd needs to take a worker over as it is:
    is_at_rest: bool = False  # it is ready, or asleep at `level`; else it loads, wakes, falls asleep or ends
    level: int | None = None  # at which it sleeps; None: it is ready, or
    waits: bool = False  # waits at its engine's gate
    gate_port: int = 0  # of its gate; 0: it was not started ahead
    gate_size: int | None = None  # bytes of host RAM that it takes there; None: nobody knows
    digest: str = ""  # of the configuration that its processes depend on
    api_key: str = ""
    chosen: dict[str, str] = {}  # at its launch, see CommandSpec.chosen
    gpus: list[str] = []  # that were chosen for it; none: those that are configured
    launched: int | None = None  # the sleep level for which it was launched; None: the configured one
    memory: TrackedMemory = TrackedMemory()
    peak: int = 0  # the most bytes that it was measured to have had on one GPU when it fell asleep
    context_length: int | None = None
    is_generation: bool | None = None

    def __post_init__(self) -> None:
        """Take over what an earlier muxd wrote: its sleepers had released all but their graphs."""
        if self.asleep:
            self.released, self.asleep = ["kv_cache", "weights"], False


class LearnedRecord(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What was measured of a worker, for as long as its model is configured as it was."""

    model: str  # a digest of the model's configuration
    seconds: dict[str, float] = {}  # by state and, where that matters, level: "starting", "waking at 2"
    kept: dict[int, int] = {}  # bytes of each of its GPUs that it keeps asleep, by level
    troubles: Troubles | None = None  # with times as CLOCK_MONOTONIC has them,
    boot_id: str = ""  # since this boot


class LoanRecord(msgspec.Struct, kw_only=True, omit_defaults=True):
    """A loan of GPUs that was granted; `until` is in seconds since the epoch, None for endless."""

    gpus: list[str]
    until: float | None
    is_borrowed: bool
    is_preemptible: bool = False
    refuses: bool = False
    returning: list[str] = []  # models that come back after it
    by: str = ""
    borrower: Borrower | None = None


class OrderRecord(msgspec.Struct, kw_only=True, omit_defaults=True, frozen=True):
    """An operator's order, or a switch, that was not carried out yet when muxd left its workers to the next one."""

    boot_id: str = ""  # of the boot that it counts for
    left: float | None = None  # when that muxd left, in seconds of CLOCK_BOOTTIME
    model: str
    verb: Verb | None = None  # None: a switch to it
    now: bool = False
    level: int | None = None
    replicas: int = 0
    by: str = ""


class SavedState(msgspec.Struct, kw_only=True):
    ending: Literal["", "stop", "handover"] = ""  # how muxd was about to end: with its workers, or without them
    workers: dict[str, WorkerRecord] = {}
    proxies: dict[str, ChildRecord] = {}  # the proxy's processes, by name
    outgoing: dict[str, ChildRecord] = {}  # those of former settings, which finish what runs; by the child's name
    proxy_digest: str = ""  # of the configuration that they were started with
    stopped: list[str] = []  # models that an operator stopped: the next muxd does not start them
    held: dict[str, float | None] = {}  # models that an operator holds: until when, since the epoch; None: endless
    loans: dict[str, LoanRecord] = {}  # of GPUs, by number
    orders: list[OrderRecord] = []  # of operators, that were not carried out yet at a handover
    learned: dict[str, LearnedRecord] = {}  # by worker
    scaled: dict[str, int] = {}  # how many replicas groups have, where they were scaled


class StateFile:
    """The state in memory and on disk; call `save` after each change.

    Within `kept` the file is written by a thread; before and after, such as at muxd's start, `save` writes it itself.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.boot_id = boot_id()
        self.state = SavedState()
        self._is_kept = False
        self._changes = 0  # so many saves were asked for;
        self._due = 0  # this one is not to wait for LEISURE,
        self._written = 0  # and the file has the state as of this one, unless the disk refused it
        self._is_writing = False
        self._disk = Lock()  # is held while the thread writes
        self._thread = KeptThread()
        self._has_leisure = trio.Event()  # a change is to be written within LEISURE
        self._was_written = trio.Event()
        self._trouble = ""  # of the last write, which is logged once and not with every change

    def load(self) -> SavedState:
        """Return the state that an earlier muxd left, as far as it can be read.

        A damaged file, such as after a power cut, is put aside.  The sweep then finds the children that the rest does
        not name by their lock files, and by the tokens in their environment.
        """
        try:
            self.state, damage = decoded(read(self.path), SavedState)
            if damage:
                put_aside(self.path, damage)
        except FileNotFoundError:
            self.state = SavedState()
        except UNREADABLE as error:
            put_aside(self.path, error)
            self.state = SavedState()
        return self.state

    @asynccontextmanager
    async def kept(self) -> AsyncIterator[None]:
        """Write what is saved meanwhile in a thread; the last state is on disk when this ends."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._write_at_leisure, name="state file")
            self._is_kept = True
            try:
                yield
            finally:
                self._is_kept = False
                nursery.cancel_scope.cancel()
                with trio.move_on_after(PATIENCE, shield=True):
                    while self._is_writing:
                        await self._was_written.wait()
                self._thread.end()
        if self._is_writing:
            self._tell_hanging()
        elif self._written < self._changes:
            self._write(encoded(self.state))

    def save(self, *, at_leisure: bool = False) -> int:
        """Have the state written to disk soon; return the change's number, for `until_written`.

        An error is logged only: a full disk must not end the workers.  `at_leisure`: with what is written next, within
        LEISURE seconds; a worker whose rest that does not reach is ended by the next muxd, not taken over.
        """
        self._changes += 1
        if not self._is_kept:
            self._write(encoded(self.state))
        elif at_leisure:
            self._has_leisure.set()
        else:
            self._hasten()
        return self._changes

    def save_ahead(self) -> int:
        """Save what must be on disk before something happens, and give the thread PROMPT seconds to write it.

        Return the change's number, for `until_written`: a busy disk takes longer.
        """
        change = self.save()
        if self._is_writing and self._disk.acquire(timeout=PROMPT):
            self._disk.release()
        return change

    async def until_written(self, change: int) -> None:
        """Wait until the state as of this change is on disk: what follows must not happen without its record.

        After PATIENCE seconds, or where the disk refuses it, that is logged, and it happens all the same.
        """
        with trio.move_on_after(PATIENCE):
            while self._is_kept and self._written < change:
                await self._was_written.wait()
            return
        self._tell_hanging()

    async def write_ahead(self) -> None:
        """Save, and wait until that is on disk, as `until_written` does."""
        await self.until_written(self.save_ahead())

    def _tell_hanging(self) -> None:
        log.error("the state file %s could not be written for %g s; muxd goes on without it", self.path, PATIENCE)

    async def _write_at_leisure(self) -> None:
        while True:
            await self._has_leisure.wait()
            await trio.sleep(LEISURE)
            self._has_leisure = trio.Event()
            self._hasten()

    def _hasten(self) -> None:
        """Have all changes written: at once, not by a task, as whoever saves may keep the loop busy for a while."""
        self._due = self._changes
        self._begin_write()

    def _begin_write(self) -> None:
        """Have the thread write the state as it is now, unless it still writes or nothing is due."""
        if self._is_writing or self._written >= self._due:
            return
        self._is_writing = True
        self._disk.acquire()
        then = partial(self._note_written, self._changes)
        self._thread.begin(partial(self._write_beside, encoded(self.state)), then)

    def _note_written(self, change: int) -> None:
        self._written, self._is_writing = change, False
        self._was_written.set()
        self._was_written = trio.Event()
        if self._is_kept:
            self._begin_write()

    def _write_beside(self, data: bytes) -> None:
        try:
            self._write(data)
        finally:
            self._disk.release()

    def _write(self, data: bytes) -> None:
        trouble = ""
        try:
            write(self.path, data)
        except OSError as error:
            is_current = _overwrite(self.path, data)
            so = "it is overwritten in its place" if is_current else "should muxd die now, it would not be up to date"
            trouble = f"{in_words(error)}; {so}"
        if trouble and trouble != self._trouble:
            log.error("cannot write the state file %s: %s", self.path, trouble)
        elif self._trouble and not trouble:
            log.info("the state file %s is written again", self.path)
        self._trouble = trouble


def _overwrite(path: Path, data: bytes) -> bool:
    """Write over a file, whose space a full disk does not take back; return whether all of it could be written.

    A former state would have the next muxd take over sleepers that are awake.  What of this is cut, a checksum tells.
    """
    try:
        fd = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        written = os.pwrite(fd, data, 0)
        os.ftruncate(fd, written)
        return written == len(data)
    except OSError:
        return False
    finally:
        os.close(fd)
