"""The history over a restart, and on disks that are full, damaged or away."""

import logging
import os
import sqlite3
import time
from pathlib import Path

import pytest
import trio

from muxd.history import History
from muxd.history import database as module
from muxd.history.book import MOST
from muxd.history.database import HistoryFile
from muxd.history.journal import LEFT_OUT
from muxd.history.series import FIELDS, STEPS, NotedModel
from muxd.protocol import ActivityReport, KeyUsage, ModelActivity
from tests.fakes import InlineThread


@pytest.fixture
def file(tmp_path: Path) -> HistoryFile:
    return HistoryFile(tmp_path / "history.sqlite")


def kinds(history: History) -> list[str]:
    return [entry["type"] for entry in history.events]


def lived(history: History) -> History:
    """A history in which a little of everything has happened."""
    history.events.record("state", model="a", reason="därum")
    history.requests.record("request", model="a", request="r1")
    history.switches.record("switch", model="a", cause="due", compared=[{"model": "a", "score": None}])
    history.report(ActivityReport((ModelActivity("a", 100),), (KeyUsage("alice", "a", 1, completion_tokens=100),)))
    return history


async def test_the_next_muxd_remembers_all_and_goes_on_with_the_numbers(file):
    first = lived(History())
    first.series.note(time.time() - 40, {"a": NotedModel(2, 1, 1 << 30)})
    await file.write(first)
    second = file.load()
    assert [list(journal) for journal in (second.events, second.requests, second.switches)] == [
        list(journal) for journal in (first.events, first.requests, first.switches)
    ]
    second.events.record("muxd_started")
    assert [entry["id"] for entry in second.events] == [1, 2 + LEFT_OUT]
    now = time.time()
    assert second.usage.read(now, 1, None, None) == first.usage.read(now, 1, None, None)
    assert second.usage.total == {}
    told = second.series.read(now, 0, now, 10, FIELDS)["models"]["a"]
    assert 2 in told["in_flight"]
    assert (file.path.stat().st_mode & 0o777) == 0o600


async def test_only_so_much_is_kept(file, monkeypatch):
    monkeypatch.setitem(MOST, "events", 10)
    history = file.load()
    for number in range(25):
        history.events.record("x", number=number)
        if number % 7 == 0:
            await file.write(history)
    history.series.note(1000.0, {"a": NotedModel(1, 0, 0)})
    await file.write(history)
    await file.write(history)
    with sqlite3.connect(file.path) as database:
        assert [row[0] for row in database.execute("SELECT id FROM entries ORDER BY id")] == list(range(16, 26))
        oldest = time.time() // 10 - STEPS[10]
        assert database.execute("SELECT count(*) FROM series WHERE slot < ?", (oldest,)).fetchone() == (0,)
    assert [entry["number"] for entry in file.load().events] == list(range(15, 25))


async def test_many_restarts_take_nothing_of_it_away(file):
    for number in range(5):
        history = file.load()
        assert [entry["number"] for entry in history.events] == list(range(number))
        history.events.record("muxd_started", number=number)
        history.requests.record("request", model="a")
        await file.write(history)
    assert len(list(file.load().requests)) == 5


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b"this is no database, and longer than a header of one" * 100),
        lambda path: path.write_bytes(path.read_bytes()[:4096] + os.urandom(8192) + path.read_bytes()[12288:]),
        lambda path: sqlite3.connect(path).execute("UPDATE entries SET body = 'not JSON'").connection.commit(),
        lambda path: sqlite3.connect(path).execute("PRAGMA user_version = 99").connection.commit(),
        lambda path: (path.unlink(), os.mkfifo(path)),
    ],
    ids=["no database", "torn", "no JSON", "of a newer muxd", "a pipe"],
)
async def test_a_file_that_cannot_be_used_is_put_aside_and_said_and_muxd_begins_anew(file, damage, caplog):
    await file.write(lived(file.load()))
    with sqlite3.connect(file.path) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    database.close()
    damage(file.path)
    with caplog.at_level(logging.ERROR):
        history = file.load()
    assert "put aside as history.unreadable, which muxd does not need" in caplog.text
    assert "\n" not in caplog.records[0].getMessage()
    assert kinds(history) == []
    history.events.record("muxd_started")
    await file.write(history)
    assert kinds(file.load()) == ["muxd_started"]


async def test_a_full_disk_stops_history_and_nothing_else_and_what_waited_is_written_later(file, monkeypatch, caplog):
    history = lived(file.load())
    monkeypatch.setattr(module, "LARGEST", 16 * 4096)
    with caplog.at_level(logging.INFO):
        for _ in range(3):
            history.events.record("big", text="x" * 200_000)
            await file.write(history)
        assert caplog.text.count("is not kept") == 1, "it is said once"
        assert "database or disk is full; muxd goes on without, and tries again" in caplog.text
        monkeypatch.undo()
        await file.write(history)
    assert "is kept in" in caplog.text
    assert kinds(file.load()) == ["state", "big", "big", "big"]
    assert file.load().usage.read(time.time(), 1, None, None)[0]["requests"] == 1


async def test_a_folder_that_may_not_be_written_and_a_file_that_was_removed(file, caplog):
    history = lived(file.load())
    await file.write(history)
    for part in file.path.parent.glob("history*"):
        part.unlink()
    await file.write(history)
    assert kinds(file.load()) == ["state"], "all of it is written again"
    with caplog.at_level(logging.ERROR):
        lost = HistoryFile(file.path.parent / "gone/history.sqlite")
        assert kinds(lost.load()) == []
        await lost.write(lived(History()))
    assert "the history is not kept in" in caplog.text


async def test_it_is_written_every_few_seconds_and_at_the_end(file, autojump_clock, monkeypatch):
    monkeypatch.setattr("muxd.threads.Thread", InlineThread)
    history = file.load()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(file.keep, history)
        history.events.record("one")
        await trio.sleep(3 * module.PACE)
        assert kinds(file.load()) == ["one"]
        history.events.record("two")
        nursery.cancel_scope.cancel()
    assert kinds(file.load()) == ["one", "two"]


async def test_what_waits_for_a_disk_is_bounded(file, monkeypatch):
    monkeypatch.setattr("muxd.history.book._MOST_WAITING", 10)
    history = History()
    for number in range(30):
        history.events.record("x", number=number)
    batch = history.take()
    assert [entry["number"] for _, entry in batch.entries] == list(range(20, 30))
    history.events.record("x", number=30)
    history.put_back(batch)
    assert [entry["number"] for _, entry in history.take().entries] == list(range(21, 31))
