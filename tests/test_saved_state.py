import msgspec
import pytest

from muxd.children import ChildRecord
from muxd.saved_state import StateFile, WorkerRecord

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
