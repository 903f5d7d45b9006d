"""One line for every request, save probes: text for people, by their clock; JSON for machines, by UTC.

`record` formats lines at once, in 1 us each (timeit), and never waits; a thread writes the lines later.  If the thread
formatted them too, that work would come in lumps, and the serving thread would wait for the interpreter's lock.

A value that a client chooses cannot break a line or forge another: a value that is not plain is quoted and escaped.
The query of a target is not logged, since people put secrets into it.
"""

import json
import logging
from collections.abc import Iterable
from math import inf
from pathlib import Path
from threading import Lock
from time import gmtime, localtime, strftime, time
from typing import NamedTuple

import trio

from muxd.errors import MuxdError
from muxd.threads import NoThread, in_new_thread

from .log_destinations import Folder, LogDestination, Lost, Stdout
from .request_record import RequestRecord

log = logging.getLogger(__name__)

_FLUSH_AFTER = 0.25  # seconds, at most, that a line waits to be written
# Bytes of waiting lines that are written without further delay.  Each write is a thread, some turns of trio, and cold
# caches: with 64 KiB it took 5 % of all CPU of 20 000 requests a second.
_FLUSH_AT = 1 << 20
_MOST = 8 << 20  # bytes, at most, that wait for a slow disk; further lines are dropped
_NO_THREAD = 1.0  # seconds to the next attempt after the system let no thread be started
_LAST_PATIENCE = 2.0  # seconds to write the lines that are left at the end
_MOST_PARTS = 4096  # formatted parts of lines that are kept
_LONGEST_PART = 256  # characters; longer parts are not kept
LONGEST_PATH = 2048  # bytes of a path that are logged


class _Form(NamedTuple):
    """The % formats of a line and its parts; bytes are formatted in half the time that text takes."""

    line: bytes
    part: str  # with the client, its key, what it asked for, and status, end and error code
    times: bytes  # the part with the wait and the time to the first byte
    time: bytes
    no_time: bytes
    usual: bytes  # the line of a request that did not wait, was no stream and not replayed, and has a plain id
    is_local: bool  # times are of this host, with their offset, and not UTC

    def moment(self, seconds: float, form: str) -> str:
        """Return a time since 1970 as a line of this form has it."""
        return strftime(form, localtime(seconds) if self.is_local else gmtime(seconds))


# Both forms take the same values in the same order; %.0s takes a value and prints nothing.
_TEXT = _Form(
    b"%b %b %.3fs %b in=%d out=%d tokens=%d+%d replays=%d id=%b\n",
    "%s %s %s %s%.0s %s %d %s %s",
    b"wait=%.3f first=%b",
    b"%.3f",
    b"-",
    b"%b %b %.3fs wait=0.000 first=- in=%d out=%d tokens=%d+%d replays=0 id=%b\n",
    True,
)
_JSON = _Form(
    b'{"time":"%b",%b,"duration_s":%.6f,%b,"request_bytes":%d,"response_bytes":%d,'
    b'"prompt_tokens":%d,"completion_tokens":%d,"replays":%d,"request_id":%b}\n',
    '"client":%s,"key":%s,"method":%s,"path":%s,"route":%s,"model":%s,"status":%d,"end":%s,"code":%s',
    b'"wait_s":%.6f,"ttft_s":%b',
    b"%.6f",
    b"null",
    b'{"time":"%b",%b,"duration_s":%.6f,"wait_s":0.000000,"ttft_s":null,"request_bytes":%d,"response_bytes":%d,'
    b'"prompt_tokens":%d,"completion_tokens":%d,"replays":0,"request_id":"%b"}\n',
    False,
)


class CannotWriteLog(MuxdError):
    """The access log cannot be opened."""

    code = "cannot_write_log"


def open_access_log(form: str, folder: Path | None, process: int | None = None) -> "AccessLog | None":
    """Return the log in the form "text" or "json", in `folder` or on stdout; None for "off"; raise CannotWriteLog.

    `process`: this process's number, where it is one of several.
    """
    if form == "off":
        return None
    destination = Stdout() if folder is None else Folder(folder, process)
    try:
        destination.prepare((_JSON if form == "json" else _TEXT).moment(time(), "%Y-%m-%d"))
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise CannotWriteLog(
            f"the access log cannot be written in {folder}: {reason}; see [proxy] access_log_dir"
        ) from None
    return AccessLog(form, destination)


class AccessLog:
    """The open log.  `dropped` counts the lines that it lacks because the disk was full, away, or too slow."""

    def __init__(self, form: str, destination: LogDestination) -> None:
        self.dropped = 0
        self._destination = destination
        self._form, self._quote = (_JSON, _quote_for_json) if form == "json" else (_TEXT, _quote_for_text)
        # Formatted parts of lines, by their values.  The same parts recur: a look-up takes 0.15 us, formatting 2.
        self._parts: dict[tuple[object, ...], bytes] = {}
        self._moment, self._stamp = -1, b""  # milliseconds since 1970 of the line before, and what it was stamped with
        self._second, self._stamp_of_second, self._zone = -1, "", "Z"
        self._lines: list[bytes] = []
        self._waiting = 0  # bytes of `_lines`
        self._writing = 0  # bytes that the thread is writing
        self._threshold: float = 0  # bytes of `_lines` above which `_threshold_passed` is set
        self._threshold_passed = trio.Event()
        self._one_at_a_time = trio.CapacityLimiter(1)
        self._failing = False  # the last write failed

    def record(self, records: Iterable[RequestRecord]) -> None:
        """Log requests that have ended, but for probes of /health that went well: muxd alone sends 17280 a day."""
        known, usual = self._parts, self._form.usual
        lines: list[bytes] = []
        for record in records:
            of_part = (
                record.address,
                record.key,
                record.method,
                record.target,
                record.route,
                record.model,
                record.status,
                record.how,
                record.code,
            )
            part = known.get(of_part) or self._part(of_part)
            if not part:
                continue
            moment = int(record.ended_at * 1000)
            if moment != self._moment:
                self._begin(moment)
            value, (prompt, _, completion), received = record.id.value, record.tokens, record.received
            seconds, sent = record.seconds, record.sent
            if record.waited or record.first_byte is not None or record.replays or not value.isalnum():
                times, id = self._times(record), self._quote(record.id.text).encode()
                told = (seconds, times, received, sent, prompt, completion, record.replays, id)
                line = self._form.line % (self._stamp, part, *told)
            else:  # with three values less to format
                line = usual % (self._stamp, part, seconds, received, sent, prompt, completion, value)
            lines.append(line)
        size, room = self._waiting + sum(map(len, lines)), _MOST - self._writing
        while size > room and lines:
            size -= len(lines.pop())
            self.dropped += 1
        self._lines += lines
        self._waiting = size
        if size > self._threshold:
            self._threshold_passed.set()

    def _begin(self, moment: int) -> None:
        """Have lines stamped with a moment, in milliseconds since 1970."""
        second, milliseconds = divmod(moment, 1000)
        if second != self._second:
            self._second, self._stamp_of_second = second, self._form.moment(second, "%Y-%m-%dT%H:%M:%S")
            if self._form.is_local:
                offset = self._form.moment(second, "%z")
                self._zone = f"{offset[:3]}:{offset[3:]}"
        self._moment, self._stamp = moment, f"{self._stamp_of_second}.{milliseconds:03d}{self._zone}".encode()

    def _times(self, record: "RequestRecord") -> bytes:
        form, first = self._form, record.first_byte
        return form.times % (record.waited, form.no_time if first is None else form.time % first)

    def _part(self, values: tuple[str, str, str, bytes, str, str, int, str, str]) -> bytes:
        """Return a formatted part; b"" for a request that is not logged."""
        client, key, method, target, route, model, status, end, code = values
        if status == 200 and target == b"/health":
            return b""
        bare, mark, _ = target.partition(b"?")
        path = bare[:LONGEST_PATH].decode("latin-1")
        asked = map(self._quote, (client, key, method, path, route, model))
        part = (self._form.part % (*asked, status, self._quote(end), self._quote(code))).encode()
        if len(part) <= _LONGEST_PART and not mark:  # of queries there is no end
            if len(self._parts) >= _MOST_PARTS:
                self._parts.clear()
            self._parts[values] = part
        return part

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Write the recorded lines until cancelled; then `finish`."""
        task_status.started()
        try:
            while True:
                await self._wait_for_bytes(0)
                with trio.move_on_after(_FLUSH_AFTER):
                    await self._wait_for_bytes(_FLUSH_AT)
                if not await self._flush():
                    await trio.sleep(_NO_THREAD)
        finally:
            await self.finish()

    async def finish(self) -> None:
        """Write the lines that are left, within `_LAST_PATIENCE`, whatever is cancelled."""
        with trio.move_on_after(_LAST_PATIENCE, shield=True):
            if not await self._flush():
                lines, self._lines = self._lines, []
                self._report_loss(self._destination.write(lines))
            async with self._one_at_a_time:
                pass  # wait for the thread that was writing at the cancellation

    async def _wait_for_bytes(self, size: int) -> None:
        """Wait until more than `size` bytes of lines wait to be written."""
        if self._waiting <= size:
            self._threshold_passed = trio.Event()
            self._threshold = size
            try:
                await self._threshold_passed.wait()
            finally:
                self._threshold = inf

    async def _flush(self) -> bool:
        """Write the lines in a thread, which alone waits for a disk that hangs.

        Returns False where no thread can be started (ulimit -u, pids.max): the lines wait on.
        """
        if not self._lines:
            return True
        lines, self._lines = self._lines, []
        self._writing, self._waiting = self._waiting, 0
        begun = Lock()  # taken once: by the thread, or by a cancellation that comes first

        def write() -> Lost | None:
            return self._destination.write(lines) if begun.acquire(blocking=False) else None

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
        self._report_loss(lost)
        return True

    def _report_loss(self, lost: Lost | None) -> None:
        if lost is not None:
            self.dropped += lost.lines
            if not self._failing:
                log.warning("the access log cannot be written, lines are dropped until it can be: %s", lost.why)
        elif self._failing:
            log.info("the access log is written again; %d lines were dropped so far", self.dropped)
        self._failing = lost is not None


def _quote_for_text(value: str) -> str:
    """Return a plain value as it is, "-" for an empty one, and any other as a JSON string."""
    return value if _is_plain(value) else _json_string(value) if value else "-"


def _quote_for_json(value: str) -> str:
    # 0.15 us for a plain value, where json.dumps takes 0.3.
    return f'"{value}"' if _is_plain(value) else _json_string(value)


def _is_plain(value: str) -> bool:
    if not value.isascii():
        return False
    return value.isalnum() or (
        value.isprintable() and " " not in value and '"' not in value and "\\" not in value and value != ""
    )


def _json_string(value: str) -> str:
    """Return a JSON string of printable ASCII; json.dumps escapes all other characters but DEL."""
    return json.dumps(value).replace("\x7f", "\\u007f")
