"""Every decision can be made once more: on all random worlds of tests/core, bit for bit."""

import logging
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from muxd.core.commands import Command
from muxd.core.events import Event, LeaseAsked, Started
from muxd.core.scheduler import Scheduler
from muxd.core.states import WorkerState
from muxd.history import decision_journal as module
from muxd.history.decision_journal import DecisionJournal, NotAJournal, checksum, freeze, read_journal, thaw
from muxd.history.replay import replay
from muxd.history.whatif import whatif
from tests.core.playbook import single
from tests.core.random_world import World
from tests.core.worlds import WORLDS
from tests.seeds import seeds, thorough


def journal_at(path: Path) -> DecisionJournal:
    journal = DecisionJournal(path)
    journal._is_kept = True
    return journal


def written(journal: DecisionJournal) -> Path:
    trio.run(journal._write)
    return journal._path


def recorded(journal: DecisionJournal, seed: int, name: str, steps: int = 80) -> None:
    """Have a random world live, and record its decisions from its beginning, or the middle of it, on."""
    world = World(seed, WORLDS[name])
    for _ in range(seed % 3 * 20):
        world.step()
    scheduler, handle = world.book.scheduler, world.book.scheduler.handle

    def decide(event: Event) -> list[Command]:
        del scheduler.handle  # it has no place in the journal
        journal.before(scheduler)
        commands = handle(event)
        journal.record(event, commands)
        scheduler.handle = decide
        return commands

    scheduler.handle = decide
    for _ in range(steps):
        world.step()


@pytest.mark.parametrize("start", [0, *thorough(*range(20, 200, 20))])
@pytest.mark.parametrize("name", WORLDS)
def test_every_decision_of_every_random_world_is_the_same_again(name, start, tmp_path):
    for seed in seeds(start, 20):
        journal = journal_at(tmp_path / f"{seed}.journal")
        recorded(journal, seed, name)
        again, _, decisions = read_journal(written(journal))
        found = [(event, checksum(again.handle(event)) == told) for event, told in decisions]
        assert found
        assert [event for event, is_same in found if not is_same] == [], f"seed {seed}"


@pytest.mark.parametrize("name", ["sized", *thorough(*(name for name in WORLDS if name != "sized"))])
def test_another_process_decides_the_same_in_whatever_order_it_has_its_sets(name, tmp_path, capfd):
    journal = journal_at(tmp_path / f"{name}.journal")
    recorded(journal, list(WORLDS).index(name), name, 200)
    path = written(journal)
    for seed in ("1", "2"):
        environ = os.environ | {"PYTHONHASHSEED": seed}
        assert subprocess.run([sys.executable, "-m", "muxd", "replay", str(path)], env=environ).returncode == 0
        assert "every one of them the same" in capfd.readouterr().out


def test_a_decision_that_is_another_one_is_told(tmp_path, capsys, monkeypatch):
    journal = journal_at(tmp_path / "decisions.journal")
    recorded(journal, 0, "sized")
    path = written(journal)
    monkeypatch.setattr("muxd.core.policy.score", lambda candidate, wait_target, now: -candidate.weight)
    assert replay(path) == 1
    assert "is another one: of " in capsys.readouterr().out


def test_a_long_journal_goes_on_in_another_file_from_the_core_as_it_is_then(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SEGMENT", 30_000)
    journal = journal_at(tmp_path / "decisions.journal")
    for _ in range(8):
        scheduler = Scheduler([single("a"), single("b")])
        for event in [Started(0.0), *(LeaseAsked(float(n), n, "ab"[n % 2]) for n in range(1, 60))]:
            journal.before(scheduler)
            journal.record(event, scheduler.handle(event))
        written(journal)
        journal._begins_anew = True  # the next world is another one
    assert sorted(path.name for path in tmp_path.iterdir()) == ["decisions.journal", "decisions.journal.1"]
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 3 * 30_000
    assert [replay(path) for path in sorted(tmp_path.iterdir())] == [0, 0]


def test_an_end_that_was_not_written_whole_is_left_out(tmp_path):
    journal = journal_at(tmp_path / "decisions.journal")
    recorded(journal, 0, "whole")
    path = written(journal)
    path.write_bytes(path.read_bytes()[:-3])
    assert replay(path) == 0


def places_of_lengths(data: bytes) -> list[int]:
    places, at = [], len(module._MAGIC)
    while at < len(data):
        places.append(at)
        at += 4 + int.from_bytes(data[at : at + 4], "little")
    return places


def test_a_length_that_was_damaged_is_no_end_that_was_not_written_whole(tmp_path):
    journal = journal_at(tmp_path / "decisions.journal")
    recorded(journal, 0, "whole")
    path = written(journal)
    whole = path.read_bytes()
    places = places_of_lengths(whole)
    assert {whole[place + 4] == module._PICKLE[0] for place in places} == {True, False}, "records of both forms"
    for place in places:
        for bit in (0, 3, 6, 9, 12, 31):
            data = bytearray(whole)
            data[place + bit // 8] ^= 1 << bit % 8
            path.write_bytes(data)
            with pytest.raises(NotAJournal, match="is damaged"):
                replay(path)


def test_an_end_is_left_out_wherever_it_was_cut(tmp_path):
    journal = journal_at(tmp_path / "decisions.journal")
    recorded(journal, 0, "whole", steps=3)
    path = written(journal)
    whole = path.read_bytes()
    for size in range(places_of_lengths(whole)[1], len(whole)):
        path.write_bytes(whole[:size])
        assert replay(path) == 0


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "muxd keeps its journal in state_dir/decisions.journal"),
        (b"hello", "is no journal of muxd's decisions"),
        (b"muxd decisions 1\n\x04\0\0\0abcd", "was written by another build of muxd, in another form: replay it with"),
        (b"muxd decisions 3\n", "was not written as far as its first record ends: nothing can be read of it"),
        (b"muxd decisions 3\n\x04\0\0\0abc", "was not written as far as its first record ends"),
        (b"muxd decisions 3\n\x04\0\0\0abcd", "is damaged at its beginning"),
    ],
)
def test_what_is_no_journal_is_told(tmp_path, content, said):
    path = tmp_path / "it"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(NotAJournal, match=said):
        read_journal(path)


@pytest.mark.parametrize("read", [replay, lambda path: whatif(path, [])])
def test_what_cannot_be_decided_once_more_is_told_as_damage(tmp_path, read):
    journal = journal_at(tmp_path / "decisions.journal")
    recorded(journal, 0, "whole")
    path = written(journal)
    path.write_bytes(path.read_bytes().replace(b"is_sheltered", b"is_shelterex", 1))
    with pytest.raises(NotAJournal, match=r"is damaged somewhere before its event \d+, where AttributeError: "):
        read(path)


def test_the_journal_of_another_muxd_is_for_that_one(tmp_path, monkeypatch):
    journal = journal_at(tmp_path / "decisions.journal")
    recorded(journal, 0, "whole")
    path = written(journal)
    monkeypatch.setattr(module, "__version__", "99")
    with pytest.raises(NotAJournal, match=r"is of muxd .*, and this is 99: replay it with that one"):
        read_journal(path)


def test_the_journal_of_another_build_is_for_that_one(tmp_path, monkeypatch):
    with monkeypatch.context() as before:
        before.setattr("muxd.core.__path__", [str(tmp_path)])
        (tmp_path / "scheduler.py").write_text("# an earlier core")
        journal = journal_at(tmp_path / "decisions.journal")
        recorded(journal, 0, "whole")
    with pytest.raises(NotAJournal, match=r"was written by another build of muxd .*: replay it with that one"):
        read_journal(written(journal))


class Calls:
    """A pickle of it has its reader call something."""

    def __init__(self, what, *words) -> None:
        self._call = what, words

    def __reduce__(self):
        return self._call


@pytest.mark.parametrize(
    "harmful",
    [
        Calls(os.system, "true"),
        os.getcwd,
        subprocess.Popen,
        Calls(getattr, Scheduler, "__init__"),
        Calls(getattr, WorkerState, "__init__"),
    ],
    ids=["call", "function", "class", "globals", "method of an enumeration"],
)
def test_a_journal_makes_nothing_but_the_cores_objects(harmful):
    with pytest.raises(pickle.UnpicklingError, match="has no place in a journal"):
        thaw(pickle.dumps(harmful, 5))


@pytest.mark.parametrize("pickled", [WorkerState.READY, Calls(getattr, WorkerState, "READY")], ids=["here", "3.11.2"])
def test_a_state_is_read_as_every_python_writes_it(pickled):
    assert thaw(pickle.dumps(pickled, 5)) is WorkerState.READY


def test_a_core_comes_back_as_it_was():
    scheduler = Scheduler([single("a"), single("b")])
    scheduler.handle(Started(1.0))
    assert thaw(freeze(scheduler)).host.groups.keys() == {"a", "b"}


def test_a_full_disk_ends_the_journal_and_says_so_once(tmp_path, caplog):
    journal = journal_at(tmp_path / "gone/decisions.journal")
    with caplog.at_level(logging.ERROR):
        for seed in (0, 1):
            recorded(journal, seed, "whole", 5)
            written(journal)
    assert caplog.text.count("no decisions are recorded in") == 1
    (tmp_path / "gone").mkdir()
    recorded(journal, 3, "whole", 5)
    assert replay(written(journal)) == 0
