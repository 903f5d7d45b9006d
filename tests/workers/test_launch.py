"""What a worker is given for its temporary files."""

from pathlib import Path

from muxd.workers.launch import TMPDIR_MAX, _past_proxies, _short_tmpdir


def test_a_work_folder_holds_the_temporary_files_too():
    assert _short_tmpdir(Path("/var/lib/muxd/workers/qwen-0a1b2c3d")) == Path("/var/lib/muxd/workers/qwen-0a1b2c3d/tmp")


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
