"""`muxd start --demo` as somebody meets it: its port, and how muxctl finds it."""

import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.request
from contextlib import suppress
from pathlib import Path

import pytest

from muxd.demo import demo_folder
from tests.typed import run_muxd


@pytest.fixture
def listener():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener


def a_demo(*words: str, **options) -> subprocess.Popen:
    argv = [sys.executable, "-m", "muxd", "start", "--demo", *words]
    return subprocess.Popen(argv, stderr=subprocess.PIPE, text=True, **options)


def test_a_taken_port_is_told_with_what_to_do_before_anything_starts(listener, capsys):
    port = listener.getsockname()[1]
    assert run_muxd("start", "--demo", "--listen-port", str(port)) == 1
    (line,) = capsys.readouterr().err.splitlines()
    taken = f"muxd: the proxy cannot listen at 127.0.0.1:{port}: address already in use"
    assert line.startswith(f"{taken}: process {os.getpid()} listens on it (")
    assert line.endswith("); end it, or choose another port: muxd start --demo --listen-port PORT")


@pytest.mark.thorough
def test_after_a_killed_demo_the_next_one_says_how_its_processes_are_ended(tmp_path):
    environ = os.environ | {"TMPDIR": str(tmp_path), "HOME": str(tmp_path)}
    demo = a_demo("--listen-port", "0", env=environ)
    port = re.search(r"127\.0\.0\.1:(\d+)", demo.stderr.readline())[1]
    _until_it_listens(int(port))
    assert urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=60).status == 200, "the proxy runs"
    demo.kill()
    demo.communicate(timeout=60)
    (config,) = tmp_path.glob("muxd-demo-*/muxd.toml")
    another = a_demo("--listen-port", port, env=environ)
    try:
        _, err = another.communicate(timeout=60)
        assert another.returncode == 1
        assert f"an earlier demo was killed: end what is left of it: muxd sweep --config {config}\n" in err
    finally:
        another.kill()
        argv = [sys.executable, "-m", "muxd", "sweep", "--config", str(config)]
        swept = subprocess.run(argv, env=environ, timeout=60, check=False, capture_output=True, text=True)
    assert swept.returncode == 0
    assert "muxd-proxy was left running by an earlier muxd: ended" in swept.stderr
    assert swept.stdout == "nothing of an earlier muxd is left running\n"
    with socket.create_server(("127.0.0.1", int(port))):
        """It is free."""


def test_what_else_is_on_the_command_line_is_refused(capsys):
    assert run_muxd("start", "--demo", "--host", "0.0.0.0") == 2
    assert (
        capsys.readouterr().err
        == "--demo brings its own models and settings; beside it goes --listen-port, and no more\n"
    )


def test_a_demo_at_any_free_port_is_found_by_a_plain_muxctl(tmp_path):
    environ = {name: value for name, value in os.environ.items() if name not in ("MUXD_SOCKET", "XDG_RUNTIME_DIR")}
    environ |= {"TMPDIR": str(tmp_path), "HOME": str(tmp_path)}
    demo = a_demo("--listen-port", "0", env=environ)
    try:
        said = demo.stderr.readline()
        where = re.search(r"at (http://127\.0\.0\.1:\d+/v1)", said)[1]
        demo.stderr.readline()
        body = json.dumps({"model": "demo/alpha", "messages": [{"role": "user", "content": "?"}]}).encode()
        _until_it_listens(int(where.rpartition(":")[2].split("/")[0]))
        request = urllib.request.Request(f"{where}/chat/completions", body, {"Content-Type": "application/json"})
        assert urllib.request.urlopen(request, timeout=60).status == 200
        found = subprocess.run(
            [sys.executable, "-m", "muxctl", "status", "alpha"], env=environ, capture_output=True, text=True, timeout=60
        )
        assert (found.returncode, found.stderr) == (0, "")
    finally:
        demo.send_signal(signal.SIGTERM)
        demo.communicate(timeout=60)
    assert demo.returncode == 0


@pytest.mark.thorough
def test_a_demo_waits_for_its_console_and_leaves_no_file(tmp_path):
    os.mkfifo(tmp_path / "opened")
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\nprintf %s "$1" > {tmp_path}/opened\n')
    browser.chmod(0o755)
    environ = os.environ | {"TMPDIR": str(tmp_path), "HOME": str(tmp_path), "BROWSER": str(browser)}
    demo = a_demo("--ui", "--listen-port", "0", env=environ)
    try:
        said = "".join(demo.stderr.readline() for _ in range(3))
        ports = [int(port) for port in re.findall(r"127\.0\.0\.1:(\d+)", said)]
        link = (tmp_path / "opened").read_text()
        assert link in next(line for line in demo.stderr if "the console, good once" in line)
        assert urllib.request.urlopen(link, timeout=60).url.endswith("/ui/")
        for port in ports:
            _until_it_listens(port)
    finally:
        demo.send_signal(signal.SIGTERM)
        demo.communicate(timeout=60)
    assert (demo.returncode, len(ports)) == (0, 2)
    assert not list(tmp_path.glob("muxd-demo-*"))
    assert _pid_of_the_console(str(tmp_path)) == 0


@pytest.mark.parametrize(
    ("error", "has_logs", "is_kept"),
    [
        (RuntimeError("a bug"), True, True),
        (SystemExit("muxd ended with status 1"), True, True),
        (RuntimeError("before anything ran"), False, False),
        (SystemExit(0), True, False),
        (KeyboardInterrupt(), True, False),
        (None, True, False),
    ],
)
def test_the_folder_of_a_demo_that_fails_is_kept_for_its_logs_and_named(
    monkeypatch, tmp_path, capsys, error, has_logs, is_kept
):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with suppress(BaseException), demo_folder() as folder:
        if has_logs:
            (folder / "logs").mkdir()
            (folder / "logs/muxd.log").write_text("what happened")
        if error is not None:
            raise error
    assert folder.exists() is is_kept
    told = f"the demo failed: its configuration and its logs are kept in {folder}\n" if is_kept else ""
    assert capsys.readouterr().err == told


def _pid_of_the_console(folder: str) -> int:
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            words = path.read_bytes().decode(errors="replace").split("\0")
            if words[2:4] == ["muxd", "ui"] and words[5].startswith(folder):
                return int(path.parent.name)
    return 0


def _until_it_listens(port: int) -> None:
    for _ in range(3000):
        with socket.socket() as probe:
            if not probe.connect_ex(("127.0.0.1", port)):
                return
        select.select([], [], [], 0.02)
