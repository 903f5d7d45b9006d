import threading
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
import trio

from muxd import saved_state
from muxd.children import ChildRecord
from muxd.saved_state import PATIENCE, StateFile, WorkerRecord

RECORD = ChildRecord("qwen", 10, 20, "boot", "token", "/run/qwen.lock", "/run/qwen.exit", None)


def a_worker(**facts):
    return WorkerRecord(child=RECORD, workdir="/w", tmpdir="/w/tmp", port=31001, admin_key="k", **facts)


def test_what_is_saved_is_loaded(tmp_path):
    file = StateFile(tmp_path / "state.json")
    file.state.workers["qwen"] = a_worker(call="release", released=["kv_cache"], leftovers=["/dev/shm/x"])
    file.state.proxy = RECORD
    file.save()
    assert StateFile(tmp_path / "state.json").load() == file.state


@pytest.mark.parametrize(("asleep", "released"), [(True, ["kv_cache", "weights"]), (False, [])])
def test_a_file_of_an_earlier_muxd_which_knew_no_tags_is_read(tmp_path, asleep, released):
    file = StateFile(tmp_path / "state.json")
    file.state.workers["qwen"] = a_worker()
    file.save()
    told = msgspec.json.decode(file.path.read_bytes())
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
        b'{"version":1e400}',
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


def test_a_file_that_was_cut_at_any_byte_is_put_aside(tmp_path):
    """It is replaced whole; a power cut may still leave a part of it."""
    file = StateFile(tmp_path / "state.json")
    file.state.workers["qwen"] = a_worker(call="release", released=["kv_cache", "weights"])
    file.save()
    whole = file.path.read_bytes()
    for length in range(len(whole)):
        file.path.write_bytes(whole[:length])
        assert StateFile(file.path).load().workers == {}
        assert (tmp_path / "state.unreadable").read_bytes() == whole[:length]


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
        self.begun.append(msgspec.json.decode(data)["stopped"])
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


async def test_the_last_state_is_on_disk_in_the_end(tmp_path):
    file = StateFile(tmp_path / "state.json")
    async with file.kept():
        await file.write_ahead()
        file.state.stopped.append("late")
        file.save()
    assert on_disk(file) == ["late"]


async def test_an_act_does_not_wait_for_ever_for_a_disk_that_hangs(autojump_clock, tmp_path, monkeypatch, caplog):
    async def hang(work: object) -> None:
        await trio.sleep_forever()

    monkeypatch.setattr(saved_state, "in_thread", hang)
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
