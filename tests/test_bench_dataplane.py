"""The programs behind `python -m bench.dataplane` count right, and the command prints its table."""

import json
import os
import shutil
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from bench.dataplane import interpreter, programs, quota, table, targets
from bench.dataplane.programs import Load
from bench.dataplane.rows import Goal
from bench.sglangmux.programs import free_ports

ROOT = Path(__file__).parents[1]
NEEDED = [name for name in ("cc", "taskset") if shutil.which(name) is None]

with_programs = pytest.mark.skipif(bool(NEEDED), reason=f"this machine has no {' and no '.join(NEEDED)}")


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Both programs, compiled now: with -Wall -Wextra -Werror among the flags."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(programs, "BUILD", tmp_path_factory.mktemp("build"))
        yield [programs.compiled(name) for name in ("upstream", "load")]


@pytest.fixture
def server(built):
    """A model server's port, and load for it; both on one core, which is enough to count."""
    core, (port,) = min(os.sched_getaffinity(0)), free_ports(1)
    with programs.upstream(core, port):
        yield port, Load(core, port)


def stats(port):
    return json.loads(targets.fetched(f"http://127.0.0.1:{port}/stats"))


@with_programs
def test_both_programs_compile_and_every_warning_is_an_error(built):
    assert {"-Wall", "-Wextra", "-Werror"} <= set(programs.FLAGS)
    assert all(os.access(program, os.X_OK) for program in built)


@with_programs
@pytest.mark.parametrize("prompt_bytes", [700, 5_000_000])
def test_every_request_counts_once_on_both_sides(server, prompt_bytes):
    port, load = server
    seen = load.requests(4, 0.2, prompt_bytes)
    assert seen["answers"] == stats(port)["requests"] >= 4
    assert (seen["refused"], seen["errors"], seen["cut"]) == (0, 0, 0)
    assert 0 < seen["latency_p50"] <= seen["latency_p99"] <= seen["latency_max"] < 1e6 * seen["seconds"]


@with_programs
def test_requests_differ_in_length_and_with_ids_in_all_of_the_head(built, heads_of):
    lengths, ids = zip(*heads_of(unique=False), strict=True)
    assert len(set(lengths)) == 8
    assert set(ids) == {b""}
    _, ids = zip(*heads_of(unique=True), strict=True)
    assert len(set(ids)) == len(ids) > 8


@pytest.fixture
def heads_of():
    """Length and id of some requests, as a server sees them that closes each connection."""

    def seen(*, unique):
        core, answer = min(os.sched_getaffinity(0)), b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
        found = []
        with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as beside:
            port = listener.getsockname()[1]
            loaded = beside.submit(Load(core, port).requests, 1, 0.2, unique=unique)
            client, _ = listener.accept()
            with client:
                while data := client.recv(1 << 16):
                    head = dict(line.split(b": ", 1) for line in data.partition(b"\r\n\r\n")[0].split(b"\r\n")[1:])
                    found.append((head[b"Content-Length"], head.get(b"X-Request-Id", b"")))
                    client.sendall(answer)
            loaded.result()
        return found

    return seen


@with_programs
def test_every_stream_is_held_to_its_end_and_every_event_arrives_after_it_was_made(server):
    port, load = server
    seen = load.streams(8, 5, 2, 0.01)
    assert (seen["answers"], seen["completed"], seen["events"]) == (8, 8, 40)
    assert (seen["refused"], seen["errors"], seen["cut"]) == (0, 0, 0)
    assert stats(port) == {"requests": 8, "streams": 8, "completed": 8, "abandoned": 0}
    assert 0 < seen["delay_p50"] <= seen["delay_p99"] <= seen["delay_max"] < 1e6 * seen["seconds"]
    assert seen["seconds"] >= 5 * 0.002


@with_programs
def test_streams_that_outlast_the_limit_count_as_cut(server):
    _, load = server
    seen = load.streams(3, 1000, 50, 0, limit_s=0.3)
    assert (seen["cut"], seen["completed"], seen["errors"]) == (3, 0, 0)


@with_programs
def test_nobody_listening_counts_as_errors(built):
    (port,) = free_ports(1)
    assert Load(min(os.sched_getaffinity(0)), port).requests(2, 0.1)["errors"] == 2


def test_a_ratio_is_the_median_of_the_ratios_of_each_round():
    results = table.Results()
    for turn, (ours, theirs) in enumerate([(1.0, 10.0), (6.0, 20.0), (9.0, 30.0)]):
        results.values["cpu", "muxd"][turn] = ours
        results.values["cpu", "nginx"][turn] = theirs
    judged = table.judged(results, "cpu", Goal(0.4, "nginx", stretch=0.2))
    assert judged == ("<= 0.4 x nginx (stretch 0.2)", "0.30 (0.10 to 0.30)", "yes, by 25 %; stretch: no, by 50 %")


def test_a_goal_without_figures_is_not_met():
    assert table.judged(table.Results(), "cpu", Goal(1.0, "nginx"))[2] == "not measured"


def test_what_both_cores_bring_is_told_round_by_round():
    results = table.Results()
    for key, one, both in (("request.rate", 100.0, 150.0), ("request.cpu", 50.0, 55.0), ("request.core", 99.0, 165.0)):
        results.values[key, "muxd"][0], results.values[key, "muxd-2"][0] = one, both
    (told,) = table.scaling(results)
    assert told.startswith(
        "muxd-2: 1.50 (1.50 to 1.50) times the requests/s of muxd, at 1.10 (1.10 to 1.10) times the CPU"
    )
    assert "165 % of two cores' 200 %" in told
    assert told.endswith("by its CPU: 1.82 times")


def test_what_a_second_process_brings_under_a_quota_is_told_round_by_round():
    results = table.Results()
    for turn, (one, both) in enumerate([(100.0, 190.0), (100.0, 200.0), (100.0, 210.0)]):
        results.values["quota.rate", "muxd"][turn], results.values["quota.rate", "muxd-2"][turn] = one, both
    (told,) = table.scaling(results)
    assert told.startswith("muxd-2: 2.00 (1.90 to 2.10) times the requests/s of muxd where each process")


def test_what_muxd_adds_to_a_router_is_told_round_by_round():
    results = table.Results()
    for turn, both in enumerate((120.0, 130.0, 150.0)):
        results.values["request.cpu", "muxd-router"][turn] = both
        results.values["request.cpu", "sglang-router"][turn] = 100.0
    (told,) = table.scaling(results)
    assert told.startswith("muxd-router: 1.30 (1.20 to 1.50) times the CPU per request of sglang-router alone")


def test_a_quota_is_a_group_of_its_own_and_nothing_of_it_is_left():
    def group() -> str:
        return Path(f"/proc/{child.pid}/cgroup").read_text()

    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        before = group()
        try:
            with quota.capped([child.pid], 0.15):
                name = f"/muxd-bench-{os.getpid()}-0"
                assert name in group()
                root, _ = quota._controller()
                files = (root / name[1:] / file for file in ("cpu.cfs_quota_us", "cpu.max"))
                assert [file.read_text().split()[0] for file in files if file.exists()] == ["3000"]
        except OSError as error:
            pytest.skip(f"no cgroup may be made here: {error}")
        finally:
            child.communicate()
    assert name not in before
    assert not (root / name[1:]).exists()


def test_the_interpreter_is_told_with_what_it_was_built_with(monkeypatch):
    monkeypatch.setattr(interpreter.sysconfig, "get_config_var", {"CONFIG_ARGS": "'--enable-optimizations'"}.get)
    assert interpreter.built().endswith("built with PGO, without LTO")
    monkeypatch.setattr(interpreter.sysconfig, "get_config_var", {}.get)
    assert interpreter.built().endswith("built WITHOUT PGO, without LTO")
    monkeypatch.setattr(interpreter.sysconfig, "get_config_var", {"PGO_PROF_USE_FLAG": ""}.get)
    assert "by a distribution that does not tell its flags" in interpreter.built()


@pytest.mark.thorough
@with_programs
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="a proxy and its load need a core each")
def test_one_row_of_one_round_is_printed_for_muxd_for_a_loop_that_passes_bytes_on_and_without_a_proxy():
    argv = [
        sys.executable,
        "-m",
        "bench.dataplane",
        "--rounds",
        "1",
        "--rows",
        "latency",
        "--targets",
        "muxd",
        "relay",
        "direct",
    ]
    printed = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=True, timeout=100).stdout
    assert "muxd runs in CPython" in printed
    head, _, row = (line.split("|")[1:5] for line in printed.splitlines() if line.startswith("|"))
    assert [cell.strip() for cell in head] == ["figure", "muxd", "relay", "direct"]
    assert all(float(cell) > 0 for cell in row[1:])
