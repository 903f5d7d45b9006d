"""Records that muxd and the shims leave for each other on disk: a child, its shim's record, its end."""

import errno
import logging
import os
import signal
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from muxd.errors import in_words
from muxd.locks import is_held
from muxd.own_files import UNREADABLE, put_aside, read

log = logging.getLogger(__name__)

#: Errors of exec that may be gone at the next attempt.
PASSING = {errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.EIO, errno.ETXTBSY, errno.EINTR}


#: Values that the system accepts: as a pid, as an inode or a start time, and as text in a path or an environment.
Pid = Annotated[int, msgspec.Meta(ge=1, le=1 << 22)]
Number = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]
Text = Annotated[str, msgspec.Meta(pattern=r"^[^\0]+$")]


class ChildRecord(Struct, frozen=True):
    """All that another process needs to find a child again; plain types, for the state file."""

    name: Text
    shim_pid: Pid
    shim_start: Number  # clock ticks since boot: with it, a pid means one process and never another
    boot_id: str
    token: Text  # random, new for each start; MUXD_TOKEN in the child's environment
    lock_file: Text
    exit_file: Text
    cgroup: Text | None = None

    def within(self, run_dir: Path) -> "ChildRecord":
        """Return a copy whose files are in `run_dir` and whose cgroup is this child's or None.

        A record that was read from disk may name anything.
        """
        lock_file = run_dir / Path(self.lock_file).name
        cgroup = self.cgroup if self.cgroup and Path(self.cgroup).name == f"child-{self.name}" else None
        return replace(self, lock_file=str(lock_file), exit_file=str(lock_file.with_suffix(".exit")), cgroup=cgroup)


class Dropped(NamedTuple):
    """Output of a child that the disk refused: bytes, the text of the last error, and whether it goes on."""

    bytes: int = 0
    why: str = ""
    going_on: bool = False

    def after(self, former: "Dropped") -> "Dropped":
        """Return the sum of both, where `former` was dropped earlier."""
        return Dropped(former.bytes + self.bytes, self.why or former.why, self.going_on)


class ShimRecord(Struct, frozen=True):
    """A shim's record: what the shim writes into its lock file once its child runs."""

    token: Text
    pid: Pid  # of the child that was executed: the main process, and the session it leads
    start: Number
    pipes: tuple[Number, ...] = ()  # inodes of the child's stdout and stderr
    dropped_bytes: int = 0
    dropped_why: str = ""
    dropping: bool = False


class ExitRecord(Struct, frozen=True):
    """How a child ended.  No process of it is left.  One of status, signal and error says how."""

    status: int | None = None
    signal: int | None = None
    error: str | None = None  # the child could not be executed, or its shim ended before it
    requested: bool = False  # a stop was asked for before the end
    dropped_bytes: int = 0  # of the child's output, refused by the disk
    swept: int = 0  # the number of processes that outlived the child and were killed
    left: tuple[str, ...] = ()  # the program names of some of those
    time: float = 0.0  # seconds since the epoch
    errno: int | None = None  # of the exec that failed
    dropped_why: str = ""  # the text of the last error of the disk

    @property
    def refused(self) -> bool:
        """Say whether the child could not be executed for a reason that another attempt will not cure."""
        return self.errno is not None and self.errno not in PASSING

    def __str__(self) -> str:
        if self.error is not None:
            return self.error
        if self.signal is not None:
            return f"killed by {signal_name(self.signal)}"
        return f"exited with status {self.status}"


def signal_name(number: int) -> str:
    """Return "SIGKILL" for 9 and so on; "signal NUMBER" if it has no name."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def read_shim_record(lock_file: str, token: str) -> ShimRecord | None:
    """Return the shim's record of the start that has the token; None if it is not written yet, or cannot be read."""
    try:
        written = _read(lock_file)
        return msgspec.convert(written, ShimRecord) if written.get("token") == token else None
    except (OSError, msgspec.ValidationError):
        return None


def is_written_by_shim(record: ChildRecord) -> bool:
    """Say whether the shim that holds the child's lock has written there that the record is its own."""
    try:
        written = _read(record.lock_file)
    except OSError:
        return False
    return all(written.get(key) == getattr(record, key) for key in ("token", "boot_id", "shim_pid", "shim_start"))


def read_exit(exit_file: str, token: str) -> ExitRecord | None:
    """Return the end of the start that has the token; None if its shim did not write one.  Raises OSError."""
    ending = _read(exit_file)
    try:
        return msgspec.convert(ending, ExitRecord) if ending.get("token") == token else None
    except msgspec.ValidationError:
        return None


def records_in(run_dir: Path) -> list[ChildRecord]:
    """Return a record for every shim's in `run_dir`: also for children that muxd, when it died, had not yet saved.

    One that cannot be read is put aside, unless a living shim holds it.
    """
    found = []
    for path in sorted(run_dir.glob("*.lock")):
        try:
            if content := read(path).strip():
                written = msgspec.json.decode(content, type=dict[str, Any])
                found.append(msgspec.convert(written | {"lock_file": str(path)}, ChildRecord))
        except UNREADABLE as error:
            if not is_locked(path):
                put_aside(path, error)
            else:  # a living shim holds the file, and is found by its token
                log.error("%s cannot be read (%s)", path, in_words(error))
    return found


def is_locked(path: Path) -> bool:
    """Say whether a living shim holds the lock file; others may look at the same time."""
    try:
        return is_held(path)
    except OSError:
        return False


def forget(record: ChildRecord) -> None:
    """Remove the files of one start of a child, as far as they can be removed: a later start has another token.

    The lock file is emptied but stays: to remove a file that another process may lock is a race.
    """
    with suppress(OSError):
        if read_exit(record.exit_file, record.token):
            Path(record.exit_file).unlink()
    with suppress(OSError):
        if read_shim_record(record.lock_file, record.token):
            os.truncate(record.lock_file, 0)


def error_file(lock_file: str | Path) -> Path:
    """Return the path of the file that holds the shim's own stderr."""
    return Path(lock_file).with_suffix(".err")


def _read(path: str) -> dict[str, Any]:
    """Return the JSON object in the file; {} if there is none.  Raises OSError."""
    try:
        value = msgspec.json.decode(read(path))
    except (FileNotFoundError, IsADirectoryError, ValueError, RecursionError, msgspec.DecodeError):
        return {}
    return value if isinstance(value, dict) else {}
