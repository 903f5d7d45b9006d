"""The places an access log is written to: stdout, or a folder with one file a day.

`write` may wait for the disk, and is called in a thread.
"""

import os
import select
from itertools import groupby
from pathlib import Path
from typing import NamedTuple, Protocol

from muxd.missing_folders import make_missing

_DAY = len("2026-01-31")


class Lost(NamedTuple):
    """Lines that could not be written, and why."""

    lines: int
    why: str


class LogDestination(Protocol):
    """A place that lines are written to."""

    def prepare(self, day: str) -> None:
        """Open the destination for the lines of a day, "2026-01-31"; raise OSError where it cannot be written."""

    def write(self, lines: list[bytes]) -> Lost | None:
        """Write the lines; return those that were lost, or None.  May block."""


class Stdout:
    """File descriptor 1, whatever it is."""

    def __init__(self) -> None:
        self._output = _Output(1)

    def prepare(self, day: str) -> None:
        """Do nothing: stdout is open."""

    def write(self, lines: list[bytes]) -> Lost | None:
        return self._output.write(lines)


class Folder:
    """A folder with a file access-YYYY-MM-DD.log for each day; `day_of` gives a line's day, by its own clock.

    A file that was moved or removed is created again for the next lines.  Each of several processes has files of its
    own, access-YYYY-MM-DD.2.log for the second: a line that a full disk has cut could not be told from the next one of
    another process, and over NFS two writers overwrite each other.
    """

    def __init__(self, folder: Path, process: int | None = None) -> None:
        self._folder = folder
        self._end = ".log" if process is None else f".{process}.log"
        self._path = folder
        self._output: _Output | None = None

    def prepare(self, day: str) -> None:
        self._open(day)

    def write(self, lines: list[bytes]) -> Lost | None:
        lost: Lost | None = None
        for day, day_lines in _by_day(lines):
            try:
                day_lost = self._open(day).write(day_lines)
            except OSError as error:
                day_lost = Lost(len(day_lines), f"{self._path}: {_reason(error)}")
            if day_lost is not None:
                lost = Lost(day_lost.lines + (lost.lines if lost else 0), day_lost.why)
        return lost

    def _open(self, day: str) -> "_Output":
        """Return the day's file, opened if it is not the open one; raise OSError."""
        path = self._folder / f"access-{day}{self._end}"
        if self._output is None or path != self._path or not self._output.is_at(path):
            self.close()
            make_missing(self._folder, mode=0o750)
            self._path, self._output = path, _Output(_open_to_append(path), str(path))
        return self._output

    def close(self) -> None:
        if self._output is not None:
            self._output.close()
            self._output = None


class _Output:
    """An open file descriptor, and whether its last line is whole."""

    def __init__(self, number: int, name: str = "stdout") -> None:
        self._number = number
        self._name = name
        self._torn = False  # the last write ended in the midst of a line

    def close(self) -> None:
        os.close(self._number)

    def is_at(self, path: Path) -> bool:
        """Return whether `path` still names the open file."""
        try:
            return os.path.samestat(os.stat(path), os.fstat(self._number))
        except FileNotFoundError:
            return False

    def write(self, lines: list[bytes]) -> Lost | None:
        torn = b"\n" if self._torn else b""  # a line that followed half a line would be lost too
        data = torn + b"".join(lines)
        done, why = self._write(data)
        if done:
            self._torn = data[done - 1 : done] != b"\n"
        if why is None:
            return None
        return Lost(len(lines) - data.count(b"\n", len(torn), done), f"{self._name}: {_reason(why)}")

    def _write(self, data: bytes) -> tuple[int, OSError | None]:
        """Write the data; return how many bytes were written, and the error that stopped the rest."""
        done = 0
        while done < len(data):
            try:
                done += os.write(self._number, memoryview(data)[done:])
            except BlockingIOError:  # another process made the pipe non-blocking
                poll = select.poll()
                poll.register(self._number, select.POLLOUT)
                poll.poll()
            except OSError as error:
                return done, error
        return done, None


def _by_day(lines: list[bytes]) -> list[tuple[str, list[bytes]]]:
    """Return the lines of each day, in their order."""
    day = day_of(lines[0])
    beginning = lines[0][: lines[0].find(day.encode()) + _DAY]
    if b"".join(lines).count(b"\n" + beginning) == len(lines) - 1:  # one day, as mostly: without a call for each
        return [(day, lines)]
    return [(day, list(its_lines)) for day, its_lines in groupby(lines, day_of)]


def day_of(line: bytes) -> str:
    """Return the date in a line's time, which text begins with, and JSON has after {"time":"."""
    start = len(b'{"time":"') if line.startswith(b"{") else 0
    return line[start : start + _DAY].decode()


def _open_to_append(path: Path) -> int:
    """Open a file to append, created with mode 0640 under any umask; fail for a FIFO without a reader."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NONBLOCK
    try:
        number = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o640)
    except FileExistsError:
        return os.open(path, flags)
    os.fchmod(number, 0o640)
    return number


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
