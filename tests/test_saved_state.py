import errno
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch
from zlib import crc32

import msgspec
import pytest
import trio
import trio.testing

from muxd import saved_state
from muxd.borrowers import Borrower
from muxd.children import ChildRecord
from muxd.own_files import UNREADABLE
from muxd.saved_state import LEISURE, PATIENCE, LearnedRecord, LoanRecord, SavedState, StateFile, WorkerRecord
from muxd.state_lines import decoded, encoded

from .fakes import InlineKeptThread

RECORD = ChildRecord("qwen", 10, 20, "boot", "token", "/run/qwen.lock", "/run/qwen.exit", None)


def a_worker(**facts):
    return WorkerRecord(child=RECORD, workdir="/w", tmpdir="/w/tmp", port=31001, admin_key="k", **facts)


def test_what_is_saved_is_loaded(tmp_path):
    file = StateFile(tmp_path / "state.json")
    file.state.workers["qwen"] = a_worker(call="release", released=["kv_cache"], leftovers=["/dev/shm/x"])
    file.state.proxies["muxd-proxy"] = RECORD
    file.save()
    assert StateFile(tmp_path / "state.json").load() == file.state


@pytest.mark.parametrize(("asleep", "released"), [(True, ["kv_cache", "weights"]), (False, [])])
def test_a_file_of_an_earlier_muxd_which_knew_no_tags_is_read(tmp_path, asleep, released):
    file = StateFile(tmp_path / "state.json")
    told = msgspec.to_builtins({"version": 1, "workers": {"qwen": a_worker()}})
    told["workers"]["qwen"]["asleep"] = asleep
    file.path.write_bytes(msgspec.json.encode(told))
    assert StateFile(file.path).load().workers["qwen"] == a_worker(released=released)


def test_nobody_else_may_read_it(tmp_path):
    file = StateFile(tmp_path / "state.json")
    file.save()
    assert file.path.stat().st_mode & 0o777 == 0o600


def test_without_a_file_there_is_nothing_left_over(tmp_path):
    assert StateFile(tmp_path / "state.json").load().workers == {}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b'{"workers": 3}',
        b"\xff",
        b'{"version":1,"stopped":["al\xffpha"]}',
        b"[" * 100_000,
        b'{"stopped":' + b"[" * 100_000,
        b"\xff\xfe{\0}\0",
        b'{"workers":{"a":{"child":{"name":"a"}}}}',
        b'{"learned":{"a":{"model":1e400}}}',
        b'12345678 ["workers","a",{}]',
    ],
)
def test_a_file_that_cannot_be_read_is_put_aside_and_nothing_of_it_is_lost(tmp_path, content):
    file = StateFile(tmp_path / "state.json")
    file.path.write_bytes(content)
    assert file.load().workers == {}
    assert (tmp_path / "state.unreadable").read_bytes() == content


def test_a_full_disk_does_not_end_muxd(tmp_path, caplog):
    file = StateFile(tmp_path / "no such folder" / "state.json")
    file.state.workers["qwen"] = a_worker()
    file.save()
    assert "cannot write the state file" in caplog.text


def test_on_a_full_disk_the_file_is_written_over_so_that_no_former_state_is_believed(tmp_path, caplog, monkeypatch):
    file = StateFile(tmp_path / "state.json")
    file.state.workers["qwen"] = a_worker(is_at_rest=True)
    file.save()

    def refuse(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("muxd.saved_state.write", refuse)
    file.state.workers["qwen"] = a_worker(call="release")
    file.save()
    assert "overwritten in its place" in caplog.text
    assert StateFile(file.path).load().workers == file.state.workers


def test_a_disk_that_is_full_is_told_once_and_so_is_its_end(tmp_path, caplog):
    caplog.set_level("INFO")
    file = StateFile(tmp_path / "folder" / "state.json")
    for _ in range(3):
        file.save()
    file.path.parent.mkdir()
    for _ in range(3):
        file.save()
    said = [record.message for record in caplog.records]
    assert [line.partition(str(file.path))[0] for line in said] == ["cannot write the state file ", "the state file "]
    assert said[1].endswith("is written again")


async def test_what_is_saved_at_leisure_is_written_with_the_next_change_or_a_moment_later(tmp_path, autojump_clock):
    with patch("muxd.saved_state.KeptThread", InlineKeptThread):
        file = StateFile(tmp_path / "state.json")
        async with file.kept():
            await file.write_ahead()
            began = trio.current_time()
            file.state.stopped = ["a"]
            file.save(at_leisure=True)
            await trio.testing.wait_all_tasks_blocked()
            assert StateFile(file.path).load().stopped == []
            while StateFile(file.path).load().stopped == []:
                await trio.sleep(LEISURE / 4)
            assert LEISURE <= trio.current_time() - began < 2 * LEISURE
            began = trio.current_time()
            file.state.stopped = ["a", "b"]
            file.save(at_leisure=True)
            await file.write_ahead()
            assert StateFile(file.path).load().stopped == ["a", "b"]
            assert trio.current_time() == began


# Damage


def a_state() -> SavedState:
    """Two workers, one in the midst of a call, a proxy, a stop, a hold, a loan, what was measured."""
    call = a_worker(call="release", released=["kv_cache", "weights"])
    learned = {"qwen": LearnedRecord(model="d", seconds={"starting": 12.5}, kept={2: 7})}
    return SavedState(
        workers={"qwen": call, "pair/0": a_worker(is_at_rest=True, level=2)},
        proxies={"muxd-proxy": RECORD},
        outgoing={"muxd-proxy.2": RECORD},
        proxy_digest="p",
        stopped=["llama"],
        held={"qwen": 7.5},
        loans={"3": LoanRecord(gpus=["0"], until=5.5, is_borrowed=True, borrower=Borrower(77, 9, "b"))},
        learned=learned,
    )


TABLES = ("workers", "proxies", "outgoing", "held", "loans", "learned", "scaled")


def parts_of(state: SavedState) -> dict[str, Any]:
    """Each record by its place: of the tables each entry."""
    told: dict[str, Any] = msgspec.to_builtins(state)
    tables = {name: told.pop(name) for name in TABLES}
    return told | {f"{name} {key}": record for name, table in tables.items() for key, record in table.items()}


def assert_some_of(found: SavedState, whole: SavedState) -> int:
    """Whatever is there is as it was written; return how many records are lost."""
    there, written = parts_of(found), parts_of(whole)
    empty = parts_of(SavedState())
    assert all(value in (written[place], empty.get(place)) for place, value in there.items())
    return sum(there.get(place) != value for place, value in written.items())


def loaded(path: Path, data: bytes) -> SavedState:
    path.write_bytes(data)
    return StateFile(path).load()


def read(data: bytes) -> tuple[SavedState, str]:
    """What is read of it, and what is wrong with it."""
    try:
        return decoded(data, SavedState)
    except UNREADABLE as error:
        return SavedState(), str(error)


def test_cut_at_any_byte_it_has_what_was_whole_before_the_cut():
    state = a_state()
    whole = encoded(state)
    found = [read(whole[:length]) for length in range(len(whole) - 1)]
    assert all(damage for _, damage in found), "each is reported"
    lost = [assert_some_of(there, state) for there, _ in found]
    assert lost == sorted(lost, reverse=True)
    assert (lost[0], lost[-1]) == (sum(map(bool, parts_of(state).values())), 1)


@pytest.mark.parametrize("flip", [0x01, 0x20, 0x80, 0xFF], ids=hex)
def test_with_any_byte_flipped_no_more_than_its_record_is_lost(flip):
    state = a_state()
    whole = encoded(state)
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= flip
        there, damage = read(bytes(damaged))
        assert damage
        is_between = whole[place : place + 1] == b"\n"  # two lines have become one
        assert assert_some_of(there, state) <= 1 + is_between


def test_a_damaged_file_is_put_aside_as_it_was(tmp_path, caplog):
    whole = encoded(a_state())
    assert loaded(tmp_path / "state.json", whole[:-2]).workers.keys() == {"qwen", "pair/0"}
    assert "1 of 9 records are damaged or missing): put aside as state.unreadable" in caplog.text
    assert (tmp_path / "state.unreadable").read_bytes() == whole[:-2]


def test_killed_at_any_byte_of_a_write_it_leaves_the_former_state(tmp_path):
    file = StateFile(tmp_path / "state.json")
    file.state = a_state()
    file.save()
    next_one = encoded(SavedState(stopped=["another"]))
    for length in range(len(next_one)):
        (tmp_path / "state.new").write_bytes(next_one[:length])
        assert StateFile(file.path).load() == file.state
    file.state.stopped.append("another")
    file.save()
    assert StateFile(file.path).load() == file.state, "what was left of it is in nobody's way"


def test_where_a_block_was_never_written_the_other_records_are_there(tmp_path):
    state, whole = a_state(), encoded(a_state())
    for place in range(100, len(whole) - 50, 50):
        damaged = whole[:place] + bytes(50) + whole[place + 50 :]
        assert 1 <= assert_some_of(loaded(tmp_path / "state.json", damaged), state) <= 3


def test_a_file_of_a_later_form_is_put_aside_whole(tmp_path, caplog):
    whole = encoded(a_state())
    text = whole.split(b"\n", 1)[0][9:].replace(b",2,", b",3,")
    later = b"%08x %b\n" % (crc32(text), text) + whole.split(b"\n", 1)[1]
    assert loaded(tmp_path / "state.json", later) == SavedState()
    assert "it is of form 3, and this muxd reads 1 and 2" in caplog.text


def test_a_record_that_another_muxd_wrote_otherwise_is_left_out_alone(tmp_path, caplog):
    whole = encoded(a_state()).splitlines()
    text = whole[1][9:].replace(b'"port":31001', b'"port":"31001"')
    assert text != whole[1][9:]
    whole[1] = b"%08x %b" % (crc32(text), text)
    assert loaded(tmp_path / "state.json", b"\n".join(whole)).workers.keys() == {"pair/0"}
    assert "1 of 9 records are damaged or missing" in caplog.text


# A slow disk


class SlowDisk:
    """A disk that writes when the test says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun: list[list[str]] = []  # what each write has of `stopped`
        self._turns = threading.Semaphore(0)
        self._write: Callable[..., None] = saved_state.write
        monkeypatch.setattr(saved_state, "write", self._wait_and_write)

    def _wait_and_write(self, path: Any, data: bytes) -> None:
        assert threading.current_thread() is not threading.main_thread(), "the loop waits for the disk"
        self.begun.append(decoded(data, SavedState)[0].stopped)
        assert self._turns.acquire(timeout=30)
        self._write(path, data)

    def writes(self) -> None:
        self._turns.release()

    async def has_begun(self, count: int) -> None:
        while len(self.begun) < count:
            await trio.sleep(0.001)


def on_disk(file: StateFile) -> list[str]:
    return StateFile(file.path).load().stopped


async def test_a_slow_disk_holds_up_nothing_but_what_must_be_on_record_first(tmp_path, monkeypatch):
    file, done = StateFile(tmp_path / "state.json"), list[str]()

    async def act() -> None:
        file.state.stopped.append("act")
        await file.write_ahead()
        done.append(*on_disk(file)[-1:])

    disk = SlowDisk(monkeypatch)
    with trio.fail_after(30):
        async with file.kept(), trio.open_nursery() as nursery:
            file.save()
            await disk.has_begun(1)
            for name in "abc":
                file.state.stopped.append(name)
                file.save()
            nursery.start_soon(act)
            await trio.testing.wait_all_tasks_blocked()
            disk.writes()
            await disk.has_begun(2)
            await trio.testing.wait_all_tasks_blocked()
            assert done == [], "the first write has nothing of this act"
            disk.writes()
    assert done == ["act"]
    assert disk.begun == [[], ["a", "b", "c", "act"]], "one write at a time, of the newest state"


async def test_what_must_be_on_record_first_is_there_without_a_turn_of_the_loop(tmp_path, monkeypatch):
    monkeypatch.setattr(saved_state, "PROMPT", 30.0)
    file = StateFile(tmp_path / "state.json")
    async with file.kept():
        for name in "ab":
            file.state.stopped.append(name)
            change = file.save_ahead()
            assert on_disk(file) == file.state.stopped
            await file.until_written(change)


async def test_the_loop_does_not_wait_longer_than_a_moment_for_what_must_be_on_record_first(tmp_path, monkeypatch):
    file, disk = StateFile(tmp_path / "state.json"), SlowDisk(monkeypatch)
    async with file.kept(), trio.open_nursery() as nursery:
        change = file.save_ahead()
        nursery.start_soon(file.until_written, change)
        await disk.has_begun(1)
        file.save_ahead()
        disk.writes()
        disk.writes()


async def test_the_last_state_is_on_disk_in_the_end(tmp_path):
    file = StateFile(tmp_path / "state.json")
    async with file.kept():
        await file.write_ahead()
        file.state.stopped.append("late")
        file.save()
    assert on_disk(file) == ["late"]


async def test_an_act_does_not_wait_for_ever_for_a_disk_that_hangs(autojump_clock, tmp_path, monkeypatch, caplog):
    class HangingThread(InlineKeptThread):
        def begin(self, work: object, then: object) -> None:
            pass

    monkeypatch.setattr(saved_state, "KeptThread", HangingThread)
    file = StateFile(tmp_path / "state.json")
    async with file.kept():
        began = trio.current_time()
        await file.write_ahead()
        assert trio.current_time() - began == PATIENCE
    assert "could not be written for 5 s; muxd goes on without it" in caplog.text


async def test_an_act_does_not_wait_for_a_disk_that_refuses(tmp_path, caplog):
    file = StateFile(tmp_path / "no such folder" / "state.json")
    async with file.kept():
        with trio.fail_after(PATIENCE):
            await file.write_ahead()
    assert "cannot write the state file" in caplog.text
