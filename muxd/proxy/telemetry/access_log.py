"""One line for every request: text for people, JSON for machines.

A line is made at once, in 2 us (timeit), and written later: `record` never waits.  Left to the thread
that writes, the same work would come in lumps, and who serves would wait for the interpreter's lock.

Values that clients choose cannot break a line or forge another: what is not plain is quoted and
escaped.  Queries are not logged: people put secrets into them.
"""

import json
import logging
from math import inf
from pathlib import Path
from threading import Lock
from time import gmtime, strftime, time
from typing import TYPE_CHECKING, NamedTuple

import trio

from muxd.errors import MuxdError
from muxd.threads import NoThread, in_new_thread

from .log_destinations import Folder, LogDestination, Lost, Stdout

if TYPE_CHECKING:
    from .recorder import RequestRecord

log = logging.getLogger(__name__)

_FLUSH_AFTER = 0.25  # seconds that a line waits, at most
_FLUSH_AT = 64 << 10  # bytes that wait, at most, while the disk is quick
_MOST = 8 << 20  # bytes that wait for a disk that is not; further lines are dropped
_NO_THREAD = 1.0  # seconds until it is tried again, where the system lets none be started
_LAST_PATIENCE = 2.0  # seconds for the lines that are left at the end
_MOST_PARTS = 4096
_LONGEST_PART = 256  # longer ones are not kept
_LONGEST_PATH = 2048


class _Form(NamedTuple):
    line: str
    asked: str  # the part of it that says who asked what
    ended: str  # and how it ended
    time: str
    no_time: str


# Both take the same values in the same order.  %.0s takes one and prints nothing of it.
_TEXT = _Form(
    "%s.%03dZ %s %s %.3fs wait=%.3f first=%s in=%d out=%d tokens=%d+%d replays=%d id=%s\n",
    "%s %s %s %s%.0s %s",
    "%d %s %s",
    "%.3f",
    "-",
)
_JSON = _Form(
    '{"time":"%s.%03dZ",%s,%s,"duration_s":%.6f,"wait_s":%.6f,"ttft_s":%s,"request_bytes":%d,"response_bytes":%d,'
    '"prompt_tokens":%d,"completion_tokens":%d,"replays":%d,"request_id":%s}\n',
    '"client":%s,"key":%s,"method":%s,"path":%s,"route":%s,"model":%s',
    '"status":%d,"end":%s,"code":%s',
    "%.6f",
    "null",
)


class CannotWriteLog(MuxdError):
    code = "cannot_write_log"


def open_access_log(form: str, folder: Path | None) -> "AccessLog | None":
    """The log in the form "text" or "json", on stdout or in a folder; None for "off".  Raises CannotWriteLog."""
    if form == "off":
        return None
    place = Stdout() if folder is None else Folder(folder)
    try:
        place.prepare(time())
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise CannotWriteLog(
            f"the access log cannot be written in {folder}: {reason}; see [proxy] access_log_dir"
        ) from None
    return AccessLog(form, place)


class AccessLog:
    """`dropped` counts the lines that are not in the log: the disk was full, away, or too slow."""

    def __init__(self, form: str, place: LogDestination) -> None:
        self.dropped = 0
        self._place = place
        self._form, self._word = (_JSON, _json_word) if form == "json" else (_TEXT, _text_word)
        # Parts of lines as they are written, by what they were made of: they come again and again, and 0.15 us finds
        # one where making it takes 2.
        self._parts: dict[tuple[object, ...], str] = {}
        self._second, self._stamp = -1, ""
        self._lines: list[str] = []
        self._waiting = 0  # bytes of `_lines`
        self._writing = 0  # bytes on their way
        self._alarm: float = 0  # bytes of `_lines` from which `_bell` rings
        self._bell = trio.Event()
        self._one_at_a_time = trio.CapacityLimiter(1)
        self._absent = False  # it could not be written last time

    def record(self, visit: "RequestRecord") -> None:
        """Log a request that has ended."""
        at = visit.ended_at
        second = int(at)
        if second != self._second:
            self._second, self._stamp = second, strftime("%Y-%m-%dT%H:%M:%S", gmtime(second))
        target = visit.target
        if b"?" in target:
            target = target.partition(b"?")[0]
        asked = (visit.address, visit.key, visit.method, target, visit.route, visit.model)
        ended = (visit.status, visit.how, visit.code)
        line = self._form.line % (
            self._stamp,
            (at - second) * 1000,
            self._parts.get(asked) or self._asked(asked),
            self._parts.get(ended) or self._ended(ended),
            visit.seconds,
            visit.waited,
            self._form.no_time if visit.first_byte is None else self._form.time % visit.first_byte,
            visit.received,
            visit.sent,
            visit.tokens[0],
            visit.tokens[2],
            visit.replays,
            self._word(visit.id.text),
        )
        size = self._waiting + len(line)
        if size + self._writing > _MOST:
            self.dropped += 1
            return
        self._lines.append(line)
        self._waiting = size
        if size > self._alarm:
            self._bell.set()

    def _asked(self, asked: tuple[str, str, str, bytes, str, str]) -> str:
        client, key, method, target, route, model = asked
        path = target[:_LONGEST_PATH].decode("latin-1")
        return self._keep(asked, self._form.asked % tuple(map(self._word, (client, key, method, path, route, model))))

    def _ended(self, ended: tuple[int, str, str]) -> str:
        status, end, code = ended
        return self._keep(ended, self._form.ended % (status, self._word(end), self._word(code)))

    def _keep(self, told: tuple[object, ...], part: str) -> str:
        if len(part) <= _LONGEST_PART:
            if len(self._parts) >= _MOST_PARTS:
                self._parts.clear()
            self._parts[told] = part
        return part

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Write what is recorded, until cancelled; then what is left, within two seconds."""
        task_status.started()
        try:
            while True:
                await self._ring_at(0)
                with trio.move_on_after(_FLUSH_AFTER):
                    await self._ring_at(_FLUSH_AT)
                if not await self._flush():
                    await trio.sleep(_NO_THREAD)
        finally:
            with trio.move_on_after(_LAST_PATIENCE, shield=True):
                if not await self._flush():
                    self._tell(self._place.write(self._lines))
                async with self._one_at_a_time:
                    pass  # the thread that was writing when the end came has written

    async def _ring_at(self, size: int) -> None:
        """Return once more than `size` bytes wait."""
        if self._waiting <= size:
            self._bell = trio.Event()
            self._alarm = size
            try:
                await self._bell.wait()
            finally:
                self._alarm = inf

    async def _flush(self) -> bool:
        """Hand the lines to a thread; a disk that hangs holds only that one.

        False where no thread can be started (ulimit -u, pids.max): the lines wait on.
        """
        if not self._lines:
            return True
        lines, self._lines = self._lines, []
        self._writing, self._waiting = self._waiting, 0
        begun = Lock()  # taken once: by the thread, or by a cancellation that comes before it

        def write() -> Lost | None:
            return self._place.write(lines) if begun.acquire(blocking=False) else None

        try:
            lost = await in_new_thread(write, abandon_on_cancel=True, limiter=self._one_at_a_time)
        except (trio.Cancelled, NoThread) as error:
            if begun.acquire(blocking=False):
                self._lines = lines + self._lines
                self._waiting += self._writing
                self._writing = 0
                if isinstance(error, NoThread):
                    return False
            raise
        self._writing = 0
        self._tell(lost)
        return True

    def _tell(self, lost: Lost | None) -> None:
        if lost is not None:
            self.dropped += lost.lines
            if not self._absent:
                log.warning("the access log cannot be written, lines are dropped until it can be: %s", lost.why)
        elif self._absent:
            log.info("the access log is written again; %d lines were dropped so far", self.dropped)
        self._absent = lost is not None


def _text_word(value: str) -> str:
    """One word without quotes, or a JSON string."""
    return value if _is_plain(value) else _escaped(value) if value else "-"


def _json_word(value: str) -> str:
    return f'"{value}"' if _is_plain(value) else _escaped(value)  # 0.15 us, json.dumps 0.3


def _is_plain(value: str) -> bool:
    if not value.isascii():
        return False
    return value.isalnum() or (
        value.isprintable() and " " not in value and '"' not in value and "\\" not in value and value != ""
    )


def _escaped(value: str) -> str:
    """A JSON string of printable ASCII; of what is not, json.dumps leaves only DEL as it is."""
    return json.dumps(value).replace("\x7f", "\\u007f")
