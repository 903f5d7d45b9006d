"""What `muxd check` says of this machine."""

import os
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from muxd.children import mark_of
from muxd.config.schema import GiB
from muxd.engines import engine_packages
from muxd.host import bounded
from muxd.simulator.gpu_ledger import GpuLedger, start_time

from .conftest import A, of


def test_an_interpreter_is_told_with_its_sglang_once(report, interpreter):
    interpreter()
    status, lines = report(f"[defaults]\npython = './python'\n{A}[models.b]\nmodel_path = 'org/b'\n")
    assert status == 0
    assert of(lines, "python") == [("ok", "python", "python: SGLang 0.5.23, torch 2.9.1 (CUDA 12.9)")]


@pytest.mark.parametrize(
    ("script", "mark", "why"),
    [
        ("exit 0", "WRONG", "no SGLang is installed in it (engine_missing)"),
        ("exit 3", "warn", "it is no Python that works: it ended with status 3"),
        ("kill -9 $$", "warn", "it is no Python that works: it ended with signal 9"),
        ("echo 'sglang {'", "WRONG", "no SGLang is installed in it (engine_missing)"),
        ("head -c 3000000 /dev/zero", "WRONG", "no SGLang is installed in it (engine_missing)"),
    ],
)
def test_an_interpreter_without_sglang_is_named_with_its_line(report, interpreter, script, mark, why):
    interpreter(script=script)
    status, lines = report(A + "python = './python'\n")
    remedy = "name the python of an environment that has SGLang, or install it there: python -m pip install sglang"
    told = f"muxd.toml:5: python: {why}; {remedy}"
    assert (status, of(lines, "python")) == (2 if mark == "WRONG" else 0, [(mark, "python", told)])
    assert report(A + "python = './python'\n", strict=True)[0] == 2


def test_an_interpreter_that_hangs_is_a_warning(report, interpreter, monkeypatch):
    monkeypatch.setattr(engine_packages, "PATIENCE", 0.1)
    interpreter(script="exec sleep 1000")
    status, lines = report(A + "python = './python'\n")
    assert (status, "it did not answer" in of(lines, "python")[0][2]) == (0, True)


def test_args_are_compared_with_the_flags_of_the_sglang_that_is_there(report, interpreter):
    interpreter(rejected={"a": "unrecognized arguments: --contxt-length 3", "b": "expected one argument"})
    text = f"[defaults]\npython = './python'\nargs = ['x']\n{A}[models.b]\nmodel_path = 'org/b'\nargs = ['--tp']\n"
    status, lines = report(text)
    place = "the SGLang of python does not take args:"
    assert status == 2
    assert of(lines, "a", "b") == [
        ("WRONG", "a", f"muxd.toml:5: {place} it knows no --contxt-length; did you mean --context-length?"),
        ("WRONG", "b", f"muxd.toml:10: {place} expected one argument"),
    ]


def test_a_parser_that_fails_is_a_warning(report, interpreter):
    interpreter(script='case "$2" in *ServerArgs*) exit 1;; *) echo \'sglang {"version": "1"}\';; esac')
    _, lines = report(A + "python = './python'\nargs = ['--x']\n")
    assert of(lines, "python")[1][2].startswith("python: args were not compared with its flags: ")


def test_no_host_asks_nobody(report, interpreter):
    asked = interpreter(script='touch "$0.asked"')
    status, lines = report(A + "python = './python'\ngpus = [7]\n", host=False)
    assert (status, lines) == (0, [("ok", "socket", "s")])
    assert not Path(f"{asked}.asked").exists()


def test_no_host_misses_no_folder_and_no_interpreter(report):
    text = "model_path = '/nowhere/q'\ncwd = '/nowhere/c'\npython = '/nowhere/python'\n"
    for table in ("[models.a]\n", "[models.a]\n[defaults]\n"):
        assert report(f"{table}{text}", host=False) == (0, [("ok", "socket", "s")])
        status, lines = report(f"{table}{text}")
        assert (status, [line[0] for line in lines].count("WRONG")) == (2, 3)
    assert report("[models.a]\nmodel_path = 'no id'\n", host=False)[0] == 2, "it is a matter of the files"


def test_a_sleep_at_level_1_is_held_against_the_ram(report, interpreter):
    interpreter()
    text = f"[defaults]\npython = './python'\n{A}sleep_level = 1\nmemory = {{ weights = '9000GiB' }}\n"
    _, lines = report(text, gpus=(10000,))
    assert of(lines, "a")[0][2].startswith("muxd.toml:7: sleep level 1 takes 9000.0 GiB of host RAM, and there are ")


@pytest.mark.parametrize(("processes", "is_told"), [("64", True), ("1", False), ("'auto'", False)])
def test_more_processes_of_the_proxy_than_there_are_cores_gain_nothing(report, processes, is_told):
    _, lines = report(f"[proxy]\nprocesses = {processes}\n[models.a]\nengine = 'simulator'\n")
    assert any(mark == "warn" and "more gain nothing" in told for mark, _, told in of(lines, "proxy")) == is_told


def test_no_process_at_all_is_wrong(report):
    status, lines = report("[proxy]\nprocesses = 0\n[models.a]\nengine = 'simulator'\n")
    assert status == 2
    assert any('0 is out of range; use 1 to 64, or "auto"' in told for _, _, told in lines)


def test_a_port_that_is_held_is_told_with_its_holder(report):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        text = f"[proxy]\nlisten = '127.0.0.1:{port}'\n[models.a]\nengine = 'simulator'\n"
        status, lines = report(text)
        (mark, _, told) = of(lines, "port")[0]
        assert (status, mark) == (0, "warn")
        assert told.startswith(f"muxd.toml:4: {port} is held by ")
        assert told.endswith(f" (pid {os.getpid()}): end it, or use another port")


def test_what_an_earlier_muxd_has_left_is_no_others(report, tmp_path):
    """It is what `muxd start` takes over or ends, and nobody else may end: streams pass through it."""
    children = tmp_path / "state/children"
    children.mkdir(parents=True, mode=0o700)
    (tmp_path / "state").chmod(0o700)
    code = "import socket; s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1], flush=True); input()"

    def told(token):
        environ = {**os.environ, "MUXD_TOKEN": token}
        argv = [sys.executable, "-c", code]
        with subprocess.Popen(argv, env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
            port = int(holder.stdout.readline())
            text = f"state_dir = '{tmp_path}/state'\n[proxy]\nlisten = '127.0.0.1:{port}'\n"
            ledger = GpuLedger(tmp_path / "state/simulated-gpus.json", 80 * GiB)
            ledger.hold(holder.pid, start_time(holder.pid), "0", 12 * GiB)
            lines = report(f"{text}[models.a]\nengine = 'simulator'\n")[1]
            (line,) = of(lines, "port")
            holder.communicate("\n")
        return line[0], line[2].rpartition(")")[2], [mark for mark, _, _ in of(lines, "GPUs")]

    assert told(f"{mark_of(children)}{'0' * 20}") == (
        "ok", ", which a muxd that is gone has left: muxd start takes it over", ["ok"]
    )  # fmt: skip
    assert told("0" * 32) == ("warn", ": end it, or use another port", ["ok", "warn"])


def test_ports_that_a_running_muxd_holds_are_fine(report, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as other, socket.socket(socket.AF_UNIX) as control:
        control.bind(f"{tmp_path}/s")
        control.listen()
        port = other.getsockname()[1]
        _, lines = report(f"[proxy]\nlisten = '127.0.0.1:{port}'\n[models.a]\nengine = 'simulator'\n")
        assert of(lines, "port")[0][0] == "ok"


def test_an_address_that_is_not_this_machines_is_a_warning(report):
    text = "[proxy]\nlisten = '192.0.2.1:80'\nallow_anonymous = true\n[models.a]\nengine = 'simulator'\n"
    assert of(report(text)[1], "port")[0][2].startswith("muxd.toml:4: 192.0.2.1:80 cannot be had: ")


def test_files_that_anybody_may_write_are_wrong(report, tmp_path):
    (tmp_path / "muxd.d").mkdir()
    keys = tmp_path / "muxd.d/keys.toml"
    keys.write_text(f"[[keys]]\nname = 'a'\nsecret_sha256 = '{'0' * 64}'\n")
    keys.chmod(0o666)
    status, lines = report("[models.a]\nengine = 'simulator'\n")
    told = "muxd.d/keys.toml: -rw-rw-rw-, which anybody may write: run: chmod o-w muxd.d/keys.toml"
    assert (status, of(lines, "files")[0]) == (2, ("WRONG", "files", told))
    status, lines = report("[models.a]\nengine = 'simulator'\n", host=False)
    assert (status, of(lines, "files")[0]) == (2, ("WRONG", "files", told)), "it is a matter of the files"
    keys.chmod(0o644)
    (tmp_path / "muxd.d").chmod(0o777)
    assert "anybody may replace its files" in of(report("[models.a]\nengine = 'simulator'\n")[1], "files")[0][2]
    (tmp_path / "muxd.d").chmod(0o1777)
    assert report("[models.a]\nengine = 'simulator'\n")[0] == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
@pytest.mark.parametrize("name", ["muxd.toml", "muxd.d/a.toml", "muxd.d/keys.toml"])
def test_files_of_another_user_or_group_are_wrong_to_root(report, tmp_path, name):
    text = "[models.a]\nengine = 'simulator'\n"
    (tmp_path / "muxd.d").mkdir()
    (tmp_path / "muxd.d/a.toml").write_text("")
    (tmp_path / "muxd.d/keys.toml").write_text(f"[[keys]]\nname = 'a'\nsecret_sha256 = '{'0' * 64}'\n")
    assert report(text)[0] == 0
    file = tmp_path / name

    def told():
        status, lines = report(text)
        return status, [line[2] for line in of(lines, "files") if line[0] != "ok"]

    file.chmod(0o664)
    assert told() == (0, []), "root's group"
    os.chown(file, 0, 54321)
    why = f"{name}: -rw-rw-r--, which group 54321 may write: run: chmod g-w {name}"
    assert told() == (2, [why])
    file.chmod(0o644)
    assert told() == (0, []), "the group may only read"
    os.chown(file, 54321, 0)
    why = f"{name}: -rw-r--r--, which its owner, user 54321, may write: run: chown root {name}"
    assert told() == (2, [why])
    os.chown(file, 0, 0)
    os.chown(file.parent, 54321, 0)
    assert "in which its owner, user 54321, may replace its files: run: chown root" in told()[1][0]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_files_of_muxds_own_user_are_right(report, tmp_path):
    (tmp_path / "state").mkdir()
    text = "state_dir = './state'\n[models.a]\nengine = 'simulator'\n"
    report(text)
    os.chown(tmp_path / "muxd.toml", 54321, 0)
    assert report(text)[0] == 2
    os.chown(tmp_path / "state", 54321, 0)
    assert report(text)[0] == 0


def test_folders_are_judged_as_the_start_does(report, tmp_path):
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs").chmod(0o777)
    status, lines = report("log_dir = './logs'\n[models.a]\nengine = 'simulator'\n")
    told = "muxd.toml:3: other users may write in logs, and so have muxd write and delete what they want: "
    assert (status, of(lines, "muxd")[0][0], of(lines, "muxd")[0][2].startswith(told)) == (2, "WRONG", True)
    (tmp_path / "logs").chmod(0o770)
    assert report("log_dir = './logs'\n[models.a]\nengine = 'simulator'\n")[0] == 0


def test_folders_that_this_user_cannot_make_are_told(report, tmp_path, monkeypatch):
    text = "state_dir = './none/state'\nlog_dir = './there'\n[models.a]\nengine = 'simulator'\n"
    (tmp_path / "there").mkdir()
    assert not of(report(text)[1], "muxd")
    why = "is not there: make it"
    monkeypatch.setattr("muxd.check.machine.why_not_had", lambda folder: None if folder.exists() else why)
    status, lines = report(text.replace("./there", "./none/state/logs"))
    ((mark, _, said),) = of(lines, "muxd")
    assert (status, mark) == (2, "WRONG"), "start refuses it"
    assert said == f"muxd.toml:3: muxd.state_dir: {why}", "once: the logs are below it"


def test_a_disk_that_is_nearly_full_is_a_warning(report, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=3 << 20))
    status, lines = report("log_dir = './logs'\n[models.a]\nengine = 'simulator'\n")
    told = "muxd.toml:3: log_dir logs: its disk has 3 MiB left; free some, or name another"
    assert (status, of(lines, "muxd")[-1]) == (0, ("warn", "muxd", told))


def test_a_probe_that_hangs_is_given_up():
    import threading

    held = threading.Event()
    with pytest.raises(bounded.NoAnswer, match="no answer in 0 s"):
        bounded.within(held.wait, 0.01)
    held.set()
