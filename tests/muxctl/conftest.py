import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from muxctl.cli import main

from .fake_muxd import FakeMuxd
from .terminal import Terminal

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def in_utc(monkeypatch):
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.fixture
def short_dir():
    """A directory whose sockets have short paths."""
    with tempfile.TemporaryDirectory(prefix="muxctl") as directory:
        yield Path(directory)


@pytest.fixture
def muxd(short_dir):
    fake = FakeMuxd(short_dir / "muxd.sock")
    yield fake
    fake.close()


@pytest.fixture
def elsewhere(short_dir, monkeypatch):
    """No muxd of this machine can be found: home, runtime directory and working directory are empty ones."""
    for variable in ("MUXD_SOCKET", "LOGS_DIRECTORY", "STATE_DIRECTORY", "RUNTIME_DIRECTORY"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HOME", str(short_dir / "home"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(short_dir / "run"))
    monkeypatch.setattr("muxctl.socket_path.SYSTEM_SOCKET", str(short_dir / "system/muxd.sock"))
    monkeypatch.setattr("muxd.config.default_paths.SYSTEM_CONFIG", short_dir / "system/muxd.toml")
    monkeypatch.setattr("muxd.config.default_paths.SYSTEM_LOGS", short_dir / "system/logs")
    monkeypatch.setenv("TMPDIR", str(short_dir / "tmp"))
    for folder in ("work", "tmp"):
        (short_dir / folder).mkdir()
    monkeypatch.chdir(short_dir / "work")
    return short_dir


@pytest.fixture
def muxctl(capsys, monkeypatch, elsewhere, request):
    """Run muxctl in this process: -> (exit code, stdout, stderr).  It asks `muxd` when the test has one."""
    if "muxd" in request.fixturenames:
        monkeypatch.setenv("MUXD_SOCKET", str(request.getfixturevalue("muxd").path))

    def run(*argv: str) -> tuple[int, str, str]:
        try:
            code = main(list(argv))
        except SystemExit as end:  # argparse
            code = end.code
        out, err = capsys.readouterr()
        return int(code), out, err

    return run


@pytest.fixture
def process(monkeypatch):
    """Start muxctl as a process of its own; it is gone when the test ends."""
    started = []

    def start(*argv: str, **options) -> subprocess.Popen:
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True} | options
        environ = os.environ | {"TZ": "UTC"} | options.pop("env", {})
        child = subprocess.Popen([sys.executable, "-m", "muxctl", *argv], cwd=ROOT, env=environ, **options)
        started.append(child)
        return child

    yield start
    for child in started:
        child.kill()
        child.communicate()


@pytest.fixture
def terminal():
    """Start muxctl on a terminal of its own; it is gone when the test ends."""
    opened = []

    def start(*argv: str, **options) -> Terminal:
        opened.append(Terminal([sys.executable, "-m", "muxctl", *argv], cwd=ROOT, **options))
        return opened[-1]

    yield start
    for each in opened:
        each.close()
