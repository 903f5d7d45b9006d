"""What a worker is given for its temporary files."""

import shutil
import socket
import tempfile
import uuid
from pathlib import Path

import pytest

from muxd.workers.launch import TMPDIR_MAX, _past_proxies, _short_tmpdir, _with_modules


def test_a_work_folder_holds_the_temporary_files_too():
    assert _short_tmpdir(Path("/var/lib/muxd/workers/qwen-0a1b2c3d")) == Path("/var/lib/muxd/workers/qwen-0a1b2c3d/tmp")


@pytest.fixture
def short_folder():
    """A folder with a path short enough for the lengths that a test sweeps."""
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    yield folder
    shutil.rmtree(folder)


def test_a_socket_named_by_a_uuid_as_vllm_names_them_can_be_bound_whatever_the_length_of_the_state_folder(short_folder):
    for length in range(1, 60):
        workdir = short_folder / ("x" * length)
        workdir.mkdir()
        tmpdir = _short_tmpdir(workdir)
        tmpdir.mkdir()
        try:
            with socket.socket(socket.AF_UNIX) as bound:
                bound.bind(str(tmpdir / str(uuid.uuid4())))
        finally:
            shutil.rmtree(tmpdir)


def test_below_a_deep_state_folder_a_socket_still_finds_room(monkeypatch):
    monkeypatch.delenv("TMPDIR", raising=False)
    deep = Path("/srv") / ("deep/" * 20) / "workers" / "qwen-0a1b2c3d"
    chosen = _short_tmpdir(deep)
    assert len(str(chosen)) <= TMPDIR_MAX
    assert chosen != _short_tmpdir(deep), "nobody else's"


def test_workers_do_not_ask_a_proxy_for_themselves():
    assert _past_proxies({"A": "1", "no_proxy": "x"}) == {"A": "1", "no_proxy": "x"}
    env = _past_proxies({"HTTPS_PROXY": "http://p:1", "no_proxy": "x, 127.0.0.1", "NO_PROXY": "y"})
    assert env["no_proxy"] == env["NO_PROXY"] == "x,127.0.0.1,y,localhost,::1"


def test_an_engines_own_modules_come_before_those_of_the_user():
    assert _with_modules({"A": "1"}, None) == {"A": "1"}
    assert _with_modules({}, Path("/w")) == {"PYTHONPATH": "/w"}
    assert _with_modules({"PYTHONPATH": "/x:/y"}, Path("/w")) == {"PYTHONPATH": "/w:/x:/y"}
