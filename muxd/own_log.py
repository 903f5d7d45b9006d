"""muxd's own log: text or JSON lines on stderr, with journald's priorities where stderr is the journal.

The models' logs are written by their shims.
"""

import json
import logging
import os
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import IO, Any

# syslog(3) priorities, which journald reads from a prefix such as "<3>" on each line.
_PRIORITIES = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6), (logging.DEBUG, 7))
_PLAIN_RECORD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}


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
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for chatty in ("httpx", "httpcore"):
        logging.getLogger(chatty).setLevel(max(logging.WARNING, root.level))


def in_journal(stream: IO[str], environ: Mapping[str, str]) -> bool:
    """Say whether `stream` is the journal's socket, which $JOURNAL_STREAM names by device and inode."""
    try:
        found = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"


class _Quiet(logging.StreamHandler[IO[str]]):
    """A handler that drops lines that it cannot write, instead of reporting an error for each."""

    def handleError(self, record: logging.LogRecord) -> None:
        pass


class _Text(logging.Formatter):
    def __init__(self, *, timestamps: bool) -> None:
        super().__init__("%(levelname)s %(name)s: %(message)s")
        self._timestamps = timestamps

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        return f"{_time(record)} {text}" if self._timestamps else text


class _JsonLines(logging.Formatter):
    """A formatter that writes each record as one JSON object, with the record's `extra` values as further keys."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": _time(record),
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


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
