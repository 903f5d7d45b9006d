"""A proxy that is a service of its own feeds systemd's watchdog, from the loop that serves."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from muxd.demo import write_demo_config


@pytest.mark.parametrize("processes", [1, 2])
def test_it_reports_again_and_again(tmp_path: Path, processes: int) -> None:
    config = write_demo_config(tmp_path, port=0 if processes == 1 else _free_port())
    config.write_text(config.read_text().replace("[proxy]", f"[proxy]\nmanaged = false\nprocesses = {processes}"))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(30)
        env = os.environ | {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "200000"}
        argv = [sys.executable, "-m", "muxd", "proxy", "--config", str(config)]
        with subprocess.Popen(argv, env=env, stderr=subprocess.DEVNULL) as proxy:
            try:
                assert [manager.recv(4096) for _ in range(3)] == [b"WATCHDOG=1"] * 3
            finally:
                proxy.send_signal(signal.SIGTERM)
        assert proxy.returncode == 0


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])
