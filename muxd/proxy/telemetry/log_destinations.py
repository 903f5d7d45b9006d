"""Where an access log goes: stdout, or a folder with one file a day.  `write` is for a thread: it may wait."""

import os
import select
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import NamedTuple, Protocol

_DAY = len("2026-01-31")


class Lost(NamedTuple):
    """Lines that could not be written, and why."""

    lines: int
    why: str


class LogDestination(Protocol):
    def prepare(self, now: float) -> None:
        """See that it can be written; raises OSError."""

    def write(self, lines: list[str]) -> Lost | None:
        """Write whole lines, as many as it takes."""


class Stdout:
    """File descriptor 1, whatever it is."""

    def __init__(self) -> None:
        self._output = _Output(1)

    def prepare(self, now: float) -> None:
        """It is there."""

    def write(self, lines: list[str]) -> Lost | None:
        return self._output.write(lines)


class Folder:
    """access-YYYY-MM-DD.log in `folder`, by UTC; a line's day is `day_of` it.

    A file that was moved or removed is made anew with the next lines.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder
        self._output: _Output | None = None

    def prepare(self, now: float) -> None:
        self._open(datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%d"))

    def write(self, lines: list[str]) -> Lost | None:
        lost: Lost | None = None
        for day, its_lines in groupby(lines, day_of):
            some = list(its_lines)
            try:
                here = self._open(day).write(some)
            except OSError as error:
                here = Lost(len(some), f"{self._path}: {_reason(error)}")
            if here is not None:
                lost = Lost(here.lines + (lost.lines if lost else 0), here.why)
        return lost

    def _open(self, day: str) -> "_Output":
        """The day's file; raises OSError."""
        path = self._folder / f"access-{day}.log"
        if self._output is None or path != self._path or not self._output.is_at(path):
            self.close()
            self._folder.mkdir(mode=0o750, parents=True, exist_ok=True)
            self._path, self._output = path, _Output(_appending(path), str(path))
        return self._output

    def close(self) -> None:
        if self._output is not None:
            self._output.close()
            self._output = None


class _Output:
    """An open file."""

    def __init__(self, number: int, name: str = "stdout") -> None:
        self._number = number
        self._name = name
        self._torn = False  # it ends in the midst of a line

    def close(self) -> None:
        os.close(self._number)

    def is_at(self, path: Path) -> bool:
        """`path` still names it."""
        try:
            return os.path.samestat(os.stat(path), os.fstat(self._number))
        except FileNotFoundError:
            return False

    def write(self, lines: list[str]) -> Lost | None:
        torn = b"\n" if self._torn else b""  # a line after half of one would be lost too
        data = torn + "".join(lines).encode()
        done, why = self._write(data)
        if done:
            self._torn = data[done - 1 : done] != b"\n"
        if why is None:
            return None
        return Lost(len(lines) - data.count(b"\n", len(torn), done), f"{self._name}: {_reason(why)}")

    def _write(self, data: bytes) -> tuple[int, OSError | None]:
        """How much was written, and what kept the rest from it."""
        done = 0
        while done < len(data):
            try:
                done += os.write(self._number, memoryview(data)[done:])
            except BlockingIOError:  # a pipe that others made non-blocking
                poll = select.poll()
                poll.register(self._number, select.POLLOUT)
                poll.poll()
            except OSError as error:
                return done, error
        return done, None


def day_of(line: str) -> str:
    """The date in a line's time, with which text begins, and JSON after {"time":"."""
    start = len('{"time":"') if line.startswith("{") else 0
    return line[start : start + _DAY]


def _appending(path: Path) -> int:
    """Open to append, made with mode 0640 whatever the umask is.  A FIFO that nobody reads is an error, not a wait."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NONBLOCK
    try:
        number = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o640)
    except FileExistsError:
        return os.open(path, flags)
    os.fchmod(number, 0o640)
    return number


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
