"""muxd's own log: text or JSON lines on stderr, with journald's priorities where stderr is the journal.

The supervisor keeps the same lines in a file beside the models' logs, which their shims write: `muxctl logs muxd` finds
them wherever stderr goes.
"""

import io
import json
import logging
import os
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from queue import SimpleQueue
from threading import Condition, Thread
from typing import IO, Any, Protocol

# syslog(3) priorities, which journald reads from a prefix such as "<3>" on each line.
_PRIORITIES = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6), (logging.DEBUG, 7))
_PLAIN_RECORD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}

#: Bytes of muxd's own log file, how many older ones are kept, and seconds that muxd's end waits for its last lines.
MAX_BYTES, BACKUPS, FLUSH_TIMEOUT = 4 << 20, 2, 2.0


class LinesKept(Protocol):
    """A file of log lines."""

    def write(self, data: bytes, came: int) -> None:
        """Append `data`, which came at `came`, in nanoseconds since 1970; never raises."""
        ...


#: Lines that wait for the disk at most; what comes then is on stderr only.
MOST_WAITING = 10_000


def setup_logging(
    level: str, form: str, environ: Mapping[str, str] = os.environ, stream: IO[str] | None = None
) -> None:
    """Log to `stream` (default: stderr) from `level` on: debug, info, warning or error.

    `form` is "text" or "json".  A second call replaces the first.
    """
    stream = stream or sys.stderr
    journal = in_journal(stream, environ)
    handler = _Quiet(stream)
    formatter: logging.Formatter = _JsonLines() if form == "json" else _Text(timestamps=not journal)
    handler.setFormatter(_Prioritised(formatter) if journal else formatter)
    root = logging.getLogger()
    kept = [each for each in root.handlers if isinstance(each, _Kept)]
    root.handlers[:] = [handler, *kept]
    for each in kept:
        each.setFormatter(_formatter_of_file(form))
    root.setLevel(level.upper())
    for chatty in ("httpx", "httpcore"):
        logging.getLogger(chatty).setLevel(max(logging.WARNING, root.level))


def keep_log(file: LinesKept, form: str) -> None:
    """Keep what is logged from now on in a file, too; `form` as for setup_logging."""
    handler = _Kept(_LogWriter(file))
    handler.setFormatter(_formatter_of_file(form))
    logging.getLogger().addHandler(handler)


def _formatter_of_file(form: str) -> logging.Formatter:
    return _JsonLines() if form == "json" else _Text(timestamps=True)


def in_journal(stream: IO[str], environ: Mapping[str, str]) -> bool:
    """Say whether `stream` is the journal's socket, which $JOURNAL_STREAM names by device and inode."""
    try:
        found = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"


class _Quiet(logging.StreamHandler[IO[str] | io.TextIOBase]):
    """A handler that drops lines that it cannot write, instead of reporting an error for each."""

    def handleError(self, record: logging.LogRecord) -> None:
        pass


class _Kept(_Quiet):
    """The handler of muxd's own log file; the end of muxd waits for its last lines."""

    def __init__(self, writer: "_LogWriter") -> None:
        super().__init__(writer)
        self._writer = writer

    def close(self) -> None:
        self._writer.finish()
        super().close()


class _LogWriter(io.TextIOBase):
    """A stream whose lines a thread of its own writes to a log: nobody who logs waits for the disk."""

    def __init__(self, file: LinesKept) -> None:
        self._file = file
        self._waiting: SimpleQueue[tuple[bytes, int]] = SimpleQueue()
        self._changed = Condition()
        self._unwritten = 0
        Thread(target=self._write, name="own log", daemon=True).start()

    def write(self, text: str, /) -> int:
        with self._changed:
            if self._unwritten < MOST_WAITING:
                self._unwritten += 1
                self._waiting.put((text.encode(errors="replace"), time.time_ns()))
        return len(text)

    def finish(self) -> None:
        """Wait until all is written, or FLUSH_TIMEOUT has passed."""
        with self._changed:
            self._changed.wait_for(lambda: not self._unwritten, FLUSH_TIMEOUT)

    def _write(self) -> None:
        while True:
            self._file.write(*self._waiting.get())
            with self._changed:
                self._unwritten -= 1
                self._changed.notify_all()


class _Text(logging.Formatter):
    def __init__(self, *, timestamps: bool) -> None:
        super().__init__("%(levelname)s %(name)s: %(message)s")
        self._timestamps = timestamps

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        local = datetime.fromtimestamp(record.created).astimezone().isoformat(timespec="milliseconds")
        return f"{local} {text}" if self._timestamps else text


class _JsonLines(logging.Formatter):
    """A formatter that writes each record as one JSON object, with the record's `extra` values as further keys."""

    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created, UTC)
        line: dict[str, Any] = {
            "time": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        for key, value in vars(record).items():
            if key not in _PLAIN_RECORD:
                line[f"{key}_" if key in line else key] = value
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            line["stack"] = self.formatStack(record.stack_info)
        return _json(line)


class _Prioritised(logging.Formatter):
    """A formatter that puts the priority before every line: journald makes an entry of each line."""

    def __init__(self, inner: logging.Formatter) -> None:
        super().__init__()
        self._inner = inner

    def format(self, record: logging.LogRecord) -> str:
        priority = next((number for level, number in _PRIORITIES if record.levelno >= level), 7)
        return "\n".join(f"<{priority}>{line}" for line in self._inner.format(record).split("\n"))


def _json(line: dict[str, Any]) -> str:
    """Return the object as JSON; where it has values that JSON lacks, such as an infinite duration, all as text."""
    try:
        return json.dumps(line, default=str, ensure_ascii=False, allow_nan=False)
    except ValueError:
        return json.dumps({key: str(value) for key, value in line.items()}, ensure_ascii=False)
