"""The parent of several processes of a proxy that muxd does not run; its life is in end_to_end/test_proxy_pool."""

import os
import resource
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from muxd.config import Config, load_config
from muxd.demo import write_demo_config
from muxd.errors import ConfigError
from muxd.frontends.proxy_parent import ProcessLife, run_processes
from muxd.ports import listen_at

RUN = """
import sys
from dataclasses import replace
from pathlib import Path
from muxd.config import load_config
from muxd.frontends.proxy_parent import run_processes
config = load_config(Path(sys.argv[1]), {"HOME": "/"})
config = replace(config, proxy=replace(config.proxy, processes=2))
sys.exit(run_processes(config, Path("/nowhere/muxd.toml"), [], None))
"""


@pytest.fixture
def config(tmp_path: Path) -> Config:
    config = load_config(write_demo_config(tmp_path, port=0), os.environ)
    return replace(config, proxy=replace(config.proxy, processes=2))


def test_as_many_sockets_as_processes_are_to_be_passed(config: Config) -> None:
    with (
        listen_at("127.0.0.1", 0) as passed,
        pytest.raises(ConfigError, match=r"passed 1 sockets and has 2 processes.*ReusePort=yes and 2 lines"),
    ):
        run_processes(config, Path("muxd.toml"), [passed], None)


def test_a_configuration_that_its_processes_cannot_use_ends_it_with_their_status(
    config: Config, tmp_path: Path
) -> None:
    argv = [sys.executable, "-c", RUN, str(config.path)]
    ended = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 2, ended.stderr
    assert "/nowhere/muxd.toml" in ended.stderr


def test_a_process_has_answered_once_it_has_and_not_before(tmp_path: Path) -> None:
    life, path = ProcessLife(), tmp_path / "1.sock"
    assert not life.answers(path), "it does not listen yet"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(4)
        assert [life.answers(path) for _ in range(3)] == [False, False, False]
        with listener.accept()[0] as client:
            assert client.recv(1 << 12).startswith(b"GET /health HTTP/1.1\r\n")
            client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            assert life.answers(path)
        listener.accept()[0].close()
        assert [life.answers(path) for _ in range(2)] == [False, False], "it has ended the connection"
        with listener.accept()[0] as client:
            client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            assert life.answers(path), "to which it was asked again"
    life.forget()


def test_a_process_that_cannot_be_asked_is_not_taken_for_silent(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, before[1]))
    try:
        assert ProcessLife().answers(tmp_path / "1.sock")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
