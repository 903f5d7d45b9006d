import re
from pathlib import Path

import pytest

import muxd
from muxd.errors import BadRequest
from muxd.history.event_kinds import KINDS
from muxd.history.journal import KEPT, LAG, LEFT_OUT, EntryFilter, Journal


def drain(channel):
    found = []
    while channel.statistics().current_buffer_used:
        found.append(channel.receive_nowait())
    return found


async def test_a_reader_gets_what_is_kept_and_what_comes():
    journal = Journal()
    journal.record("state", model="a")
    channel = journal.read(0, follow=True)
    journal.record("state", model="b")
    assert [await channel.receive() for _ in range(2)] == [
        {"id": 1, "time": journal_time(journal, 1), "type": "state", "model": "a"},
        {"id": 2, "time": journal_time(journal, 2), "type": "state", "model": "b"},
    ]


def journal_time(journal, number):
    return next(e["time"] for e in journal._entries if e["id"] == number)


async def test_a_reader_that_does_not_follow_gets_an_end():
    journal = Journal()
    journal.record("x")
    assert [e["type"] async for e in journal.read(0, follow=False)] == ["x"]


async def test_a_reader_that_is_too_slow_is_told_what_it_missed_and_holds_up_nobody():
    journal = Journal()
    channel = journal.read(None, follow=True)
    for _ in range(LAG + 5):
        journal.record("x")
    assert [e["id"] for e in drain(channel)] == list(range(1, LAG + 1))
    journal.record("x")
    assert await channel.receive() == {"type": "gap", "missed": 5}
    assert (await channel.receive())["id"] == LAG + 6


async def test_what_is_no_longer_kept_is_a_gap():
    journal = Journal()
    for _ in range(KEPT + 3):
        journal.record("x")
    channel = journal.read(1, follow=False)
    assert await channel.receive() == {"type": "gap", "missed": 2}
    assert (await journal.read(0, follow=False).receive())["id"] == 4  # all that there are, and nothing is missing


async def test_a_reader_that_left_is_forgotten():
    journal = Journal()
    journal.read(None, follow=True).close()
    journal.record("x")
    journal.record("x")
    assert not journal._followers


async def test_a_reader_gets_only_what_it_wants_of_old_and_new_and_of_old_ones_the_last():
    journal = Journal()
    for number in range(6):
        journal.record("ab"[number % 2], model="xyz"[number % 3])
    wanted = EntryFilter(kinds=frozenset({"a"}), last=2)
    channel = journal.read(0, follow=True, wanted=wanted)
    assert [entry["id"] for entry in drain(channel)] == [3, 5]
    journal.record("b")
    journal.record("a")
    assert [entry["id"] for entry in drain(channel)] == [8]
    assert [entry["id"] for entry in drain(journal.read(2, follow=False, wanted=EntryFilter("x")))] == [4]
    middle = journal_time(journal, 3)
    by_time = EntryFilter(since=middle, until=middle)
    assert 3 in [entry["id"] for entry in drain(journal.read(0, follow=False, wanted=by_time))]


async def test_a_number_that_no_entry_has_yet_is_refused():
    journal = Journal()
    journal.record("x")
    with pytest.raises(BadRequest, match="there is no entry 2 yet, the newest is 1; begin anew with after=0"):
        journal.read(2, follow=True)


def test_every_kind_of_event_can_be_asked_for():
    texts = [path.read_text() for path in Path(muxd.__file__).parent.rglob("*.py")]
    found = {kind for text in texts for kind in re.findall(r'(?<!self.ended)\.record\("(\w+)"', text)}
    found |= {kind for text in texts for kind in re.findall(r'\brecord\("(proxy_\w+)"', text)}
    assert found - {"request", "requests_left_out"} <= set(KINDS)
    assert sorted(KINDS) == list(KINDS)


async def test_no_number_means_two_entries_though_a_killed_muxd_could_not_keep_its_last_ones():
    journal = Journal(entries=[{"id": 7, "time": 1.0, "type": "x"}])
    journal.record("y")
    assert [entry["id"] for entry in journal] == [7, 8 + LEFT_OUT]
    assert [entry async for entry in journal.read(9, follow=False)] == [list(journal)[1]]


async def test_the_numbers_left_out_are_no_entries_that_were_missed():
    journal = Journal(entries=[{"id": 7, "time": 1.0, "type": "x"}])
    journal.record("y")
    assert [entry["id"] async for entry in journal.read(7, follow=False)] == [8 + LEFT_OUT]
    assert [entry["id"] async for entry in journal.read(6, follow=False)] == [7, 8 + LEFT_OUT]
    few = Journal(kept=1, entries=[{"id": 7, "time": 1.0, "type": "x"}])
    few.record("y")
    channel = few.read(5, follow=False)
    assert await channel.receive() == {"type": "gap", "missed": 2}
    channel.close()
