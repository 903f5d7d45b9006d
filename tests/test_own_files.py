"""Whatever lies in muxd's own folders, muxd starts, and touches nothing elsewhere."""

import os
from pathlib import Path

import pytest

from muxd.config import load_config
from muxd.demo import write_demo_config
from muxd.engines.gpu_source import open_gpus
from muxd.locks import hold
from muxd.missing_folders import make_missing
from muxd.own_files import CannotStart, claim_folder, make_folder, make_way, put_aside
from muxd.saved_state import StateFile, WorkerRecord
from muxd.workers import remove_left_outside
from tests.test_saved_state import RECORD

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to others")


def a_folder(path: Path) -> None:
    path.mkdir()
    (path / "inside").touch()


#: What may be at a place where muxd keeps a file.
THINGS = {
    "a folder": a_folder,
    "a fifo": os.mkfifo,
    "a link to a file of others": lambda path: path.symlink_to(path.parent / "precious"),
    "a link to nothing": lambda path: path.symlink_to("nothing"),
    "a file without rights": lambda path: path.touch(mode=0o000),
}


@pytest.mark.parametrize("thing", THINGS.values(), ids=THINGS)
def test_whatever_is_in_a_files_place_makes_way(tmp_path, thing):
    (tmp_path / "precious").write_text("precious")
    for name in ("state.json", "state.new", "muxd.lock"):
        thing(tmp_path / name)
    file = StateFile(tmp_path / "state.json")
    assert file.load().workers == {}
    file.state.stopped.append("qwen")
    file.save()
    assert StateFile(tmp_path / "state.json").load().stopped == ["qwen"]
    os.close(hold(tmp_path / "muxd.lock", "in a test"))
    assert (tmp_path / "precious").read_text() == "precious"


@pytest.mark.parametrize("thing", THINGS.values(), ids=THINGS)
def test_whatever_is_in_a_folders_place_makes_way(tmp_path, thing):
    thing(tmp_path / "workers")
    make_folder(tmp_path / "workers")
    assert (tmp_path / "workers").stat().st_mode & 0o777 == 0o700
    assert not (tmp_path / "workers").is_symlink()


def test_what_is_put_aside_is_said_in_words(tmp_path, caplog):
    (tmp_path / "state.json").symlink_to("elsewhere")
    StateFile(tmp_path / "state.json").load()
    assert "too many levels of symbolic links" in caplog.text
    assert "Errno" not in caplog.text


def test_nothing_that_was_put_aside_keeps_the_next_from_it(tmp_path):
    for _ in range(3):
        a_folder(tmp_path / "qwen.lock")
        put_aside(tmp_path / "qwen.lock", "in a test")
    assert not (tmp_path / "qwen.lock").exists()
    assert len(list(tmp_path.iterdir())) == 3
    make_way(tmp_path / "qwen.lock")


@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o757, 0o770])
def test_a_state_folder_that_others_may_write_is_refused_with_the_cure(tmp_path, mode):
    tmp_path.chmod(mode)
    with pytest.raises(CannotStart, match=rf"chmod go-w {tmp_path}.*state_dir"):
        claim_folder(tmp_path, "state_dir", others_may=0)


def test_the_group_of_a_log_folder_may_write_in_it(tmp_path):
    tmp_path.chmod(0o775)
    claim_folder(tmp_path, "log_dir", others_may=0o020)


@needs_root
def test_a_folder_of_another_user_is_refused(tmp_path):
    os.chown(tmp_path, 65534, -1)
    with pytest.raises(CannotStart, match=r"belongs to user 65534.*log_dir"):
        claim_folder(tmp_path, "log_dir", others_may=0o020)


def test_what_a_state_file_names_elsewhere_is_not_deleted(tmp_path):
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").touch()
    record = WorkerRecord(
        child=RECORD,
        workdir=str(precious),
        tmpdir=str(precious),
        port=1,
        admin_key="k",
        leftovers=[str(precious / "file"), "/dev/shm/../../etc/hosts", "\0"],
    )
    remove_left_outside(record)
    assert (precious / "file").exists()
    assert Path("/etc/hosts").exists()


@pytest.mark.parametrize("content", [b"\xff", b"[" * 100_000, b'{"a":1}', b'[{"pid":"x"}]', b"7"])
async def test_a_ledger_that_cannot_be_read_is_put_aside(tmp_path, content):
    config = load_config(write_demo_config(tmp_path, port=0), os.environ)
    config.daemon.state_dir.mkdir(exist_ok=True)
    ledger = config.daemon.state_dir / "simulated-gpus.json"
    ledger.write_bytes(content)
    await open_gpus(config).read()
    assert ledger.with_suffix(".unreadable").read_bytes() == content


@pytest.mark.parametrize("mask", [0o000, 0o022])
def test_a_folder_that_was_removed_with_those_above_it_is_made_again_as_muxds_start_makes_it(tmp_path, mask):
    before = os.umask(mask)
    try:
        make_missing(tmp_path / "lib" / "state" / "children")
    finally:
        os.umask(before)
    modes = [(tmp_path / folder).stat().st_mode & 0o777 for folder in ("lib/state", "lib/state/children")]
    assert modes == [0o750, 0o700]


def test_a_folder_whose_mode_is_right_is_left_as_it_is_on_a_disk_that_lets_nothing_be_changed(tmp_path, monkeypatch):
    make_folder(tmp_path / "workers")
    monkeypatch.setattr(Path, "chmod", lambda *_: pytest.fail("a read-only disk refuses it"))
    make_folder(tmp_path / "workers")
