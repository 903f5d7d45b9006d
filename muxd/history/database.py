"""The history on disk, an SQLite file in state_dir: read once at muxd's start, then written by a thread.

A disk that is full, slow or gone costs history and nothing else: what could not be written waits in memory, within
bounds, and is written when that works again.  A file that is damaged, or of a newer muxd, is put aside and said.
"""

import logging
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from functools import partial
from pathlib import Path

import msgspec
import trio

from muxd.errors import in_words
from muxd.own_files import UNREADABLE, make_way, put_aside
from muxd.threads import in_thread
from muxd.ticks import next_tick

from .book import MOST, History, KeptRows
from .series import STEPS, SeriesRow
from .usage_book import KEPT_DAYS, UsageRow, day_of

log = logging.getLogger(__name__)

#: Seconds between two writes, and within which the last one must be done.
PACE, _LAST_PATIENCE = 5.0, 2.0

#: Bytes of the whole file, at most: 50 models take 20 MiB.
LARGEST = 128 << 20

_VERSION = 1
_PAGE = 4096
_SCHEMA = """
CREATE TABLE entries (journal TEXT, id INTEGER, body BLOB, PRIMARY KEY (journal, id)) WITHOUT ROWID;
CREATE TABLE series (slot INTEGER, model TEXT, body BLOB, PRIMARY KEY (slot, model)) WITHOUT ROWID;
CREATE TABLE usage (day TEXT, key TEXT, model TEXT, body BLOB, PRIMARY KEY (day, key, model)) WITHOUT ROWID;
"""

#: Delete the entries of a journal before its last so many.
_FORGET = """
DELETE FROM entries WHERE journal = ? AND id <= (
    SELECT id FROM entries WHERE journal = ? ORDER BY id DESC LIMIT 1 OFFSET ?
)
"""

_values = msgspec.json.Decoder(tuple[float | None, ...])
_counts = msgspec.json.Decoder(tuple[int, ...])


class _Unusable(Exception):
    """The file is none of this muxd's."""


class HistoryFile:
    """The file at `path`.  `load` at muxd's start, then `keep` for as long as muxd runs."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._trouble = ""  # why the last write failed

    def load(self) -> History:
        """Return what earlier muxds remembered; blocks.  Nothing is raised: without a file nothing was."""
        for _ in range(2):
            try:
                with self._open() as database:
                    return History(_read(database))
            except (_Unusable, sqlite3.DatabaseError, *UNREADABLE) as error:
                if not _is_damage(error):
                    self._tell(error)
                    break
                self._put_aside(error)
        return History()

    async def keep(self, history: History) -> None:
        """Write what is new every PACE seconds, until cancelled; and then the rest, within a moment."""
        try:
            while True:
                await next_tick(PACE)
                await self.write(history)
        finally:
            with trio.move_on_after(_LAST_PATIENCE, shield=True):
                await self.write(history)

    async def write(self, history: History) -> None:
        """Write what is new, or all that is remembered where there is no file; it waits on where that fails."""
        batch, is_there = history.take(), self._is_there()
        if is_there and not any(batch):
            return
        all_of_it = batch if is_there else history.everything()
        if not await in_thread(partial(self._write, all_of_it), abandon_on_cancel=True):
            history.put_back(batch)

    def _is_there(self) -> bool:
        return os.path.lexists(self.path)

    def _write(self, batch: KeptRows) -> bool:
        """Write a batch; return whether that worked.  What is damaged is put aside, and made anew the next time."""
        try:
            with self._open() as database:
                _add(database, batch, time.time())
        except (_Unusable, sqlite3.Error, OSError) as error:
            if _is_damage(error):
                self._put_aside(error)
            else:
                self._tell(error)
            return False
        if self._trouble:
            log.info("the history is kept in %s again", self.path)
            self._trouble = ""
        return True

    def _tell(self, error: Exception) -> None:
        why = in_words(error) if isinstance(error, OSError) else str(error)
        if why != self._trouble:
            log.error("the history is not kept in %s: %s; muxd goes on without, and tries again", self.path, why)
        self._trouble = why

    def _put_aside(self, error: Exception) -> None:
        put_aside(self.path, f"the history: {error}")
        for ending in ("-wal", "-shm"):
            with suppress(OSError):
                self.path.with_name(self.path.name + ending).unlink()

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """Open the file, made where it is missing; raises _Unusable, sqlite3.Error and OSError."""
        make_way(self.path)
        os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
        with closing(sqlite3.connect(self.path, timeout=1.0)) as database:
            database.execute(f"PRAGMA max_page_count = {LARGEST // _PAGE}")
            (version,) = database.execute("PRAGMA user_version").fetchone()
            if version > _VERSION:
                raise _Unusable(f"it is of a newer muxd (version {version})")
            database.execute("PRAGMA journal_mode = WAL")
            database.execute("PRAGMA synchronous = NORMAL")
            if version == 0:
                database.executescript(f"{_SCHEMA} PRAGMA user_version = {_VERSION};")
            yield database


def _is_damage(error: Exception) -> bool:
    """Say whether an error tells that the file cannot be used, and not that the disk is full, slow or gone."""
    return not isinstance(error, sqlite3.OperationalError | OSError)


def _read(database: sqlite3.Connection) -> KeptRows:
    for (problem,) in database.execute("PRAGMA quick_check(1)"):
        if problem != "ok":
            raise _Unusable(problem)
    rows = database.execute("SELECT journal, body FROM entries ORDER BY journal, id")
    entries = [(name, msgspec.json.decode(body, type=dict)) for name, body in rows if name in MOST]
    series = [
        SeriesRow(slot, model, tuple(float("nan") if value is None else value for value in _values.decode(body)))
        for slot, model, body in database.execute("SELECT slot, model, body FROM series ORDER BY slot")
    ]
    rows = database.execute("SELECT day, key, model, body FROM usage")
    usage = [UsageRow(day, key, model, _counts.decode(body)) for day, key, model, body in rows]
    return KeptRows(entries, series, usage)


def _add(database: sqlite3.Connection, batch: KeptRows, now: float) -> None:
    """Write a batch, and forget what is beyond what is kept, in one transaction."""
    encode = msgspec.json.encode
    with database:
        database.executemany(
            "INSERT OR REPLACE INTO entries VALUES (?, ?, ?)",
            [(name, entry["id"], encode(entry)) for name, entry in batch.entries],
        )
        for name in {name for name, _ in batch.entries}:  # by their count: each muxd leaves numbers out
            database.execute(_FORGET, (name, name, MOST[name]))
        database.executemany(
            "INSERT OR REPLACE INTO series VALUES (?, ?, ?)",
            [(slot, model, encode(values)) for slot, model, values in batch.series],
        )
        if batch.series:
            database.execute("DELETE FROM series WHERE slot < ?", (now // 10 - STEPS[10],))
        database.executemany(
            "INSERT OR REPLACE INTO usage VALUES (?, ?, ?, ?)",
            [(day, key, model, encode(counts)) for day, key, model, counts in batch.usage],
        )
        if batch.usage:
            database.execute("DELETE FROM usage WHERE day < ?", (day_of(now, KEPT_DAYS),))
