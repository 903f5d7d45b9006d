"""What muxd and the shims leave for each other on disk: the record of a child, its shim's card, its end."""

import errno
import fcntl
import logging
import os
import signal
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import msgspec

from muxd.errors import in_words
from muxd.own_files import UNREADABLE, put_aside, read

log = logging.getLogger(__name__)

#: Failures of exec that may be over at the next try.
PASSING = {errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.EIO, errno.ETXTBSY, errno.EINTR}


#: What the system takes for a pid, for a number of its own, and for a word in a path or in an environment.
Pid = Annotated[int, msgspec.Meta(ge=1, le=1 << 22)]
Number = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]
Text = Annotated[str, msgspec.Meta(pattern=r"^[^\0]+$")]


@dataclass(frozen=True, slots=True)
class ChildRecord:
    """What it takes to find a child again from another process; plain types, for the state file."""

    name: Text
    shim_pid: Pid
    shim_start: Number  # clock ticks since boot: with it, a pid means one process and never another
    boot_id: str
    token: Text  # random, new for each start; MUXD_TOKEN in the child's environment
    lock_file: Text
    exit_file: Text
    cgroup: Text | None = None

    def within(self, run_dir: Path) -> "ChildRecord":
        """The same, whose files are in there and whose cgroup is a child's, whatever was read."""
        lock_file = run_dir / Path(self.lock_file).name
        cgroup = self.cgroup if self.cgroup and Path(self.cgroup).name == f"child-{self.name}" else None
        return replace(self, lock_file=str(lock_file), exit_file=str(lock_file.with_suffix(".exit")), cgroup=cgroup)


class Dropped(NamedTuple):
    """What the disk refused of a child's output, what the system said when it last did, and whether it still does."""

    bytes: int = 0
    why: str = ""
    going_on: bool = False

    def after(self, former: "Dropped") -> "Dropped":
        """Both together, where `former` was dropped before."""
        return Dropped(former.bytes + self.bytes, self.why or former.why, self.going_on)


@dataclass(frozen=True, slots=True)
class ShimRecord:
    """What a shim writes into its lock file once its child runs."""

    token: Text
    pid: Pid  # of the child that was executed: the launcher, and the session it leads
    start: Number
    pipes: tuple[Number, ...] = ()  # inodes of what it was given as stdout and stderr
    dropped_bytes: int = 0
    dropped_why: str = ""
    dropping: bool = False


@dataclass(frozen=True, slots=True)
class ExitRecord:
    """How a child ended.  No process of it is left.  One of status, signal and error says how."""

    status: int | None = None
    signal: int | None = None
    error: str | None = None  # it could not be executed, or its shim did not live to see its end
    requested: bool = False  # a stop had been asked for
    dropped_bytes: int = 0  # of its output, refused by the disk
    swept: int = 0  # processes that outlived it and were killed
    left: tuple[str, ...] = ()  # what some of those were called
    time: float = 0.0  # seconds since the epoch
    errno: int | None = None  # of the exec that failed
    dropped_why: str = ""  # what the system said when it refused them

    @property
    def refused(self) -> bool:
        """It could not be executed, and trying again is no use."""
        return self.errno is not None and self.errno not in PASSING

    def __str__(self) -> str:
        if self.error is not None:
            return self.error
        if self.signal is not None:
            return f"killed by {signal_name(self.signal)}"
        return f"exited with status {self.status}"


def signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def read_card(lock_file: str, token: str) -> ShimRecord | None:
    """The card of that start of the child; None before its shim wrote it, and where it cannot be read."""
    try:
        card = _read(lock_file)
        return msgspec.convert(card, ShimRecord) if card.get("token") == token else None
    except (OSError, msgspec.ValidationError):
        return None


def read_exit(exit_file: str, token: str) -> ExitRecord | None:
    """The end of that start of the child; None if its shim did not write it.  Raises OSError."""
    ending = _read(exit_file)
    try:
        return msgspec.convert(ending, ExitRecord) if ending.get("token") == token else None
    except msgspec.ValidationError:
        return None


def records_in(run_dir: Path) -> list[ChildRecord]:
    """A record for every card found: also of children that muxd had not yet put into its state file when it died."""
    found = []
    for path in sorted(run_dir.glob("*.lock")):
        try:
            if content := read(path).strip():
                card = msgspec.json.decode(content, type=dict[str, Any])
                found.append(msgspec.convert(card | {"lock_file": str(path)}, ChildRecord))
        except UNREADABLE as error:
            if not is_locked(path):
                put_aside(path, error)
            else:  # by a shim, which is found by its token
                log.error("%s cannot be read (%s)", path, in_words(error))
    return found


def is_locked(path: Path) -> bool:
    """Whether a shim lives that holds it."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def forget(record: ChildRecord) -> None:
    """Remove what that start of the child left.  The lock file stays: removing one that may be locked is a race.

    What cannot be removed stays: its token is no other start's.
    """
    with suppress(OSError):
        if read_exit(record.exit_file, record.token):
            Path(record.exit_file).unlink()
    with suppress(OSError):
        if read_card(record.lock_file, record.token):
            os.truncate(record.lock_file, 0)


def error_file(lock_file: str | Path) -> Path:
    """What the shim itself had to complain of."""
    return Path(lock_file).with_suffix(".err")


def _read(path: str) -> dict[str, Any]:
    """The JSON object in the file; {} if there is none.  Raises OSError."""
    try:
        value = msgspec.json.decode(read(path))
    except (FileNotFoundError, IsADirectoryError, ValueError, RecursionError, msgspec.DecodeError):
        return {}
    return value if isinstance(value, dict) else {}
