"""What a worker is given for its temporary files."""

from pathlib import Path

from muxd.workers.launch import TMPDIR_MAX, _short_tmpdir


def test_a_work_folder_holds_the_temporary_files_too():
    assert _short_tmpdir(Path("/var/lib/muxd/workers/qwen-0a1b2c3d")) == Path("/var/lib/muxd/workers/qwen-0a1b2c3d/tmp")


def test_below_a_deep_state_folder_a_socket_still_finds_room(monkeypatch):
    monkeypatch.delenv("TMPDIR", raising=False)
    deep = Path("/srv") / ("deep/" * 20) / "workers" / "qwen-0a1b2c3d"
    chosen = _short_tmpdir(deep)
    assert len(str(chosen)) <= TMPDIR_MAX
    assert chosen != _short_tmpdir(deep), "nobody else's"
