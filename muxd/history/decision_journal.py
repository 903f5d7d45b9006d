"""The core's events, written down so that every decision can be made once more: `muxd replay`.

A journal is a file of records.  The first has the core as it was then, each other one an event, when it was told, and a
checksum of the commands that came of it; a report of demand that led to none is there alone, in MessagePack.  The core
is a function of its events: fed with them it must decide the same, in the build that wrote them, which the first record
names by its version and a digest of the core's source.
When a file has SEGMENT bytes, another one is begun with the core as it is by then, and the last one kept beside it.

All other records are pickles, which keep floats and enumerations as they are.  They are read by a reader that makes
objects of the core's classes and of a few plain ones, and calls nothing else.  No record has a body of a request or an
answer, a secret, or a name but those of models and GPUs.
"""

import builtins
import io
import logging
import os
import pickle
import struct
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import Enum, EnumType
from functools import partial
from importlib import import_module
from pathlib import Path
from types import FunctionType
from typing import Any, NamedTuple
from zlib import crc32

import msgspec
import trio

import muxd.core
from muxd import __version__
from muxd.core.commands import Command
from muxd.core.events import DemandReported, Event, Reconfigured
from muxd.core.scheduler import Scheduler
from muxd.errors import MuxdError, in_words
from muxd.own_files import make_way
from muxd.threads import in_thread
from muxd.ticks import next_tick

log = logging.getLogger(__name__)

#: Bytes after which another file is begun: some 200 000 events, of hours on a busy host and weeks on a quiet one.
SEGMENT = 16 << 20

#: Bytes that wait for a disk that is slow; beyond that a journal ends, and another one is begun.
_MOST_WAITING = 8 << 20

_PACE, _LAST_PATIENCE = 2.0, 2.0
_KIND = b"muxd decisions "
_MAGIC = _KIND + b"3\n"
_LENGTH = struct.Struct("<I")
_PICKLE = pickle.PROTO  # a pickle's first byte, which is none of a report's: that begins with its number of fields

#: What a journal may have besides the core's classes.
_PLAIN = {"set", "frozenset", "dict", "list", "tuple", "bytearray", "complex", "object"}


class NotAJournal(MuxdError):
    code = "not_a_journal"


class Decision(NamedTuple):
    """An event, and the checksum of the commands that came of it."""

    event: Event
    checksum: int


class DecisionJournal:
    """The journal at `path`; it records while `keep` runs."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._build = core_digest()
        self._is_kept = False
        self._waiting: list[bytes] = []
        self._size = 0  # of the file and of what waits for it
        self._waiting_size = 0
        self._begins_anew = True
        self._trouble = ""

    def before(self, scheduler: Scheduler) -> None:
        """Begin another file where that is due; to be called before an event is handled."""
        if self._is_kept and self._begins_anew:
            self._begins_anew = False
            self._waiting, self._waiting_size, self._size = [], 0, 0
            self._append(pickle.dumps((__version__, self._build, time.time(), freeze(scheduler)), 5), mark=_MAGIC)

    def record(self, event: Event, commands: Sequence[Command]) -> None:
        if not self._is_kept or self._begins_anew:
            return
        if not commands and type(event) is DemandReported:  # as nearly all are: a fifth of the cost, half the bytes
            self._append(_encode(event))
        else:
            if type(event) is not Reconfigured and isinstance(event, Reconfigured):  # it has the supervisor's part, too
                event = Reconfigured(**{name: getattr(event, name) for name in Reconfigured.__struct_fields__})
            self._append(pickle.dumps((event, checksum(commands)), 5))
        self._begins_anew = self._size > SEGMENT or self._waiting_size > _MOST_WAITING

    def _append(self, record: bytes, *, mark: bytes = b"") -> None:
        data = mark + _LENGTH.pack(len(record)) + record
        size = len(data)
        self._waiting.append(data)
        self._size += size
        self._waiting_size += size

    async def keep(self) -> None:
        """Write what was recorded, until cancelled; and then the rest, within a moment."""
        self._is_kept = True
        try:
            while True:
                await next_tick(_PACE)
                await self._write()
        finally:
            with trio.move_on_after(_LAST_PATIENCE, shield=True):
                await self._write()

    async def _write(self) -> None:
        waiting, self._waiting, self._waiting_size = self._waiting, [], 0
        if waiting and not await in_thread(partial(self._append_to_file, waiting), abandon_on_cancel=True):
            self._begins_anew = True  # what follows would be of no use

    def _append_to_file(self, waiting: list[bytes]) -> bool:
        try:
            make_way(self._path)
            if waiting[0].startswith(_MAGIC) and self._path.exists():
                os.replace(self._path, self._path.with_name(self._path.name + ".1"))
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            with os.fdopen(os.open(self._path, flags, 0o600), "ab") as file:
                file.writelines(waiting)
        except OSError as error:
            if (why := in_words(error)) != self._trouble:
                log.error("no decisions are recorded in %s: %s; muxd goes on, and tries again", self._path, why)
            self._trouble = why
            return False
        self._trouble = ""
        return True


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(DemandReported).decode


def core_digest() -> str:
    """Return a digest of the core's source as it is on disk now: two builds of one version may differ in it."""
    files = sorted(Path(muxd.core.__path__[0]).glob("*.py"))
    return f"{crc32(b''.join(file.read_bytes() for file in files)):08x}"


def checksum(commands: Sequence[Command]) -> int:
    """Return a checksum of commands, every digit of their figures included; sets count in order."""
    return crc32(repr([_ordered(command) for command in commands]).encode())


def _ordered(command: Command) -> Any:
    fields = (getattr(command, name) for name in command.__struct_fields__)
    return type(command).__name__, [sorted(v) if isinstance(v, frozenset | set) else v for v in fields]


def freeze(scheduler: Scheduler) -> bytes:
    """Return a core as bytes; what it remembers of earlier decisions to be quicker is forgotten."""
    scheduler.host.learned += 1
    scheduler.host.placement.forget()
    return pickle.dumps(scheduler, 5)


class _CoreReader(pickle.Unpickler):
    """Makes objects of the core's classes and plain ones, and calls nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if module == "builtins" and name == "getattr":
            return _part_of
        if module == "builtins" and name in _PLAIN:
            return getattr(builtins, name)
        if (module, name) == ("collections", "deque"):
            return deque
        if module.startswith("muxd.core."):
            found = getattr(import_module(module), name, None)
            if isinstance(found, type) and found.__module__ == module:
                return found
        raise pickle.UnpicklingError(f"{module}.{name} has no place in a journal")


def _part_of(owner: object, name: str) -> Callable[..., Any] | Enum:
    """Return a method that an object of the core keeps of another one, or a member of an enumeration of the core.

    Python 3.11.2, which Debian 12 has, pickles a member as what getattr returns for its class and its name.
    """
    if isinstance(owner, EnumType) and name in owner.__members__:
        member: Enum = owner[name]
        return member
    method = vars(type(owner)).get(name)
    if not type(owner).__module__.startswith("muxd.core.") or not isinstance(method, FunctionType):
        raise pickle.UnpicklingError(f"{name} has no place in a journal")
    return partial(method, owner)


def thaw(data: bytes) -> Any:
    """Return what `freeze` was given, or a record; raises pickle.UnpicklingError and what broken pickles raise."""
    found, size = _thawed(data)
    if size < len(data):
        raise pickle.UnpicklingError(f"it has {size} bytes, and not {len(data)}")
    return found


def _thawed(data: bytes) -> tuple[Any, int]:
    """Return what the data begins with, and how many bytes of them that took."""
    file = io.BytesIO(data)
    return _CoreReader(file).load(), file.tell()


def read_journal(path: Path) -> tuple[Scheduler, float, Iterator[Decision]]:
    """Return the core as it was at the beginning, when that was, and what happened then; raises NotAJournal.

    An end that was not written whole is left out.  Damage that only a later record shows is raised as that is reached.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise NotAJournal(f"{in_words(error)}; muxd keeps its journal in state_dir/decisions.journal") from None
    if not data.startswith(_KIND):
        raise NotAJournal(f"{path} is no journal of muxd's decisions; state_dir/decisions.journal is one")
    if not data.startswith(_MAGIC):
        raise NotAJournal(f"{path} was written by another build of muxd, in another form: replay it with that one")
    records = _records(path, data)
    if (first := next(records, None)) is None:
        raise NotAJournal(f"{path} was not written as far as its first record ends: nothing can be read of it")
    try:
        version, build, began, core = thaw(first)
        if version != __version__:
            raise NotAJournal(f"{path} is of muxd {version}, and this is {__version__}: replay it with that one")
        if build != core_digest():
            raise NotAJournal(f"{path} was written by another build of muxd {version}: replay it with that one")
        scheduler = thaw(core)
        assert isinstance(scheduler, Scheduler)
    except NotAJournal:
        raise
    except Exception as error:
        raise NotAJournal(f"{path} is damaged at its beginning: {error}") from None
    return scheduler, began, _decisions(path, records)


@contextmanager
def deciding(path: Path, number: int) -> Iterator[None]:
    """Have the core of a journal take in its event `number`; raises NotAJournal where that ends in an error.

    What is in a journal has been decided once.
    """
    try:
        yield
    except Exception as error:
        what = f"{type(error).__name__}: {error}"
        raise NotAJournal(f"{path} is damaged somewhere before its event {number}, where {what}") from None


def _records(path: Path, data: bytes) -> Iterator[bytes]:
    at = len(_MAGIC)
    while at + _LENGTH.size <= len(data):
        (size,) = _LENGTH.unpack_from(data, at)
        at += _LENGTH.size
        if at + size > len(data):
            if _begins_with_a_whole_record(data[at:]):
                raise NotAJournal(f"{path} is damaged before byte {at}: the record there has fewer than {size} bytes")
            return
        yield data[at : at + size]
        at += size


def _begins_with_a_whole_record(data: bytes) -> bool:
    """Say whether a record which seems to be cut is whole, and its length false."""
    try:
        _thawed(data) if data.startswith(_PICKLE) else _decode(data)
    except Exception as error:
        return isinstance(error, msgspec.DecodeError) and "trailing" in str(error)
    return True


def _decisions(path: Path, records: Iterator[bytes]) -> Iterator[Decision]:
    for number, record in enumerate(records, start=1):
        try:
            event, told = thaw(record) if record.startswith(_PICKLE) else (_decode(record), checksum(()))
        except Exception as error:
            raise NotAJournal(f"{path} is damaged at its event {number}: {error}") from None
        yield Decision(event, told)
