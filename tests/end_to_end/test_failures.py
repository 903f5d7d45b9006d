"""What breaks is repaired: every fault here hits real processes."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import httpx
import pytest

from tests.ports import free_port

from .conftest import two_models
from .muxd import chat_body, eventually


def test_a_killed_process_is_swept_with_all_its_kin_and_the_model_comes_back(shared):
    muxd = shared
    text, restarts = muxd.ask("alpha"), muxd.status("alpha")["restarts"]
    before = muxd.worker("alpha")
    os.kill(before["scheduler"], signal.SIGKILL)
    assert muxd.ask("alpha") == text
    assert muxd.status("alpha")["restarts"] == restarts + 1
    assert not set(before.values()) & set(muxd.processes())
    assert "SIGKILL" in muxd.status("alpha")["last_exit"]["reason"]


@pytest.mark.thorough
def test_a_port_that_somebody_took_between_two_muxds_is_told_with_who_and_waited_for(start):
    """Without a service manager that keeps it."""
    muxd = start()
    muxd.stop()
    with socket.create_server(("127.0.0.1", muxd.port)):
        muxd.start_again()
        assert f"process {os.getpid()} listens on it" in muxd.status()["proxy"]["reason"]
        assert "NO PROXY: the proxy cannot listen at " in muxd.muxctl("status").stdout
        assert muxd.log.count("address already in use") == 1
        assert muxd.switch("alpha")["type"] == "ready", "control goes on"
    eventually(lambda: muxd.health()["muxd"] == "connected", "the proxy has its port")
    assert muxd.ask("alpha")
    assert muxd.status()["proxy"]["reason"] is None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may take a descriptor out of any process of its own")
def test_nobody_takes_the_ports_or_is_refused_when_muxd_is_killed_and_started_again(start):
    metrics = free_port()
    muxd = start(two_models(), proxy=f'metrics_listen = "127.0.0.1:{metrics}"')
    muxd.ask("alpha")
    muxd.kill()
    with squatting(muxd.port, metrics) as seen:
        muxd.start_again()
        eventually(lambda: muxd.health()["muxd"] == "connected", "the proxy is up")
    assert (seen["taken"], seen["refused"]) == (0, 0), seen
    assert seen["attempts"] > 0
    assert "muxd_up 1.0" in httpx.get(f"http://127.0.0.1:{metrics}/metrics", trust_env=False).text
    assert muxd.ask("alpha")


@contextmanager
def squatting(*ports: int) -> Iterator[Counter[str]]:
    """Meanwhile somebody tries to take the ports, and connects to them."""
    seen, over = Counter(), threading.Event()

    def squat() -> None:
        while not over.wait(0.001):
            for port in ports:
                seen["attempts"] += 1
                with socket.socket() as thief, suppress(OSError):
                    thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    thief.bind(("127.0.0.1", port))
                    thief.listen()
                    seen["taken"] += 1
                with socket.socket() as client:
                    seen["refused"] += client.connect_ex(("127.0.0.1", port)) != 0

    thread = threading.Thread(target=squat)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()


# muxd itself


@pytest.mark.thorough
def test_a_killed_muxd_leaves_streams_running_and_its_successor_never_makes_a_second_copy(start):
    muxd = start(proxy="managed = false", daemon='on_crash = "stop"')
    proxy = muxd.start_proxy()
    muxd.ask("alpha")
    old = muxd.worker("alpha")
    with muxd.stream("alpha", max_tokens=300, ignore_eos=True) as lines:
        next(lines)
        muxd.kill()
        assert list(lines)[-2] == "data: [DONE]"
    assert muxd.ask("alpha"), "the lease that was held goes on"
    refused = muxd.post("/v1/chat/completions", chat_body("beta", "x"))
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "muxd_unreachable")
    assert int(refused.headers["retry-after"]) > 0
    muxd.start_again()
    assert not set(old.values()) & set(muxd.processes()), "what the old muxd left was swept"
    eventually(lambda: muxd.health()["muxd"] == "connected", "the proxy has found the new muxd")
    assert muxd.ask("beta")
    assert muxd.ask("alpha")
    proxy.terminate()
    assert proxy.wait(10) == 0


@pytest.mark.thorough
def test_a_call_under_way_is_in_the_state_file_before_it_is_answered(start):
    muxd = start(two_models(alpha='faults = ["hang-on=release"]'))
    muxd.ask("alpha")
    assert muxd.saved().workers["alpha"].call is None
    with suppress(httpx.HTTPError):
        httpx.post(f"{muxd.url}/v1/chat/completions", json=chat_body("beta", "x"), timeout=1.5)
    eventually(lambda: muxd.saved().workers["alpha"].call == "release", "written ahead")
    muxd.kill()
    muxd.start_again()
    assert "did not see the end of its call 'release'" in muxd.log
    assert muxd.ask("beta")


@pytest.mark.thorough
def test_a_managed_proxy_that_dies_is_replaced_and_no_connection_is_refused(start):
    muxd = start()
    muxd.ask("alpha")
    with muxd.config.open("a") as file:
        file.write("[half a")  # somebody is just editing it
    os.kill(muxd.status()["proxy"]["pid"], signal.SIGKILL)
    assert httpx.post(f"{muxd.url}/v1/chat/completions", json=chat_body("alpha", "x")).status_code == 200


def test_what_a_dead_proxy_had_not_accepted_is_answered_by_its_successor(start):
    """Requests are sent whole while the proxy is stopped: they wait in the queue of a socket that muxd keeps."""
    muxd = start()
    muxd.ask("alpha")
    proxy = muxd.status()["proxy"]["pid"]
    body = json.dumps(chat_body("alpha", "x"))
    headers = ("Host: 127.0.0.1", "Content-Type: application/json", "Connection: close", f"Content-Length: {len(body)}")
    head = "\r\n".join(("POST /v1/chat/completions HTTP/1.1", *headers, "", ""))
    with ExitStack() as stack:
        os.kill(proxy, signal.SIGSTOP)
        asked = [stack.enter_context(socket.create_connection(("127.0.0.1", muxd.port), 30)) for _ in range(20)]
        for each in asked:
            each.sendall((head + body).encode())
        os.kill(proxy, signal.SIGKILL)
        assert {each.makefile("rb").readline() for each in asked} == {b"HTTP/1.1 200 OK\r\n"}


@pytest.mark.thorough
@pytest.mark.parametrize("how", ["SIGKILL", "SIGTERM", "upgrade"])
def test_at_20_requests_a_second_another_proxy_refuses_nobody_and_a_killed_one_loses_only_what_it_had(start, how):
    muxd = start()
    muxd.ask("alpha")
    said, over = Counter(), threading.Event()

    def ask_on(turn):
        while not over.wait(0.2):  # four of them: 20 a second
            try:
                answer = httpx.post(
                    f"{muxd.url}/v1/chat/completions", json=chat_body("alpha", "x"), timeout=30, trust_env=False
                )
                said[answer.status_code] += 1
            except httpx.ConnectError:
                said["refused"] += 1
            except httpx.HTTPError:
                said["cut"] += 1

    def replace(proxy, turn):
        if how == "upgrade":
            setting = f'[proxy]\ndrain_timeout = "{50 + turn}s"\n'
            muxd.config.write_text(re.sub(r"\[proxy\]\n(drain_timeout.*\n)?", setting, muxd.config.read_text()))
            assert muxd.muxctl("upgrade").returncode == 0
        else:
            os.kill(proxy, signal.Signals[how])

    with ThreadPoolExecutor(4) as clients:
        asking = [clients.submit(ask_on, turn) for turn in range(4)]
        try:
            for turn in range(3):
                answered, proxy = said[200], muxd.status()["proxy"]["pid"]
                eventually(lambda seen=answered: said[200] > seen + 8, "requests are answered")
                replace(proxy, turn)
                eventually(lambda old=proxy: muxd.status()["proxy"]["pid"] not in (None, old), "there is another one")
                eventually(lambda old=proxy: old not in muxd.processes(), "and the former one is gone")
        finally:
            over.set()
        for each in asking:
            each.result(30)
    assert said.keys() <= {200, "cut"}
    assert said["cut"] <= (3 * 4 if how == "SIGKILL" else 0), "at most what each client had under way at each death"


def test_a_second_muxd_with_another_socket_does_not_touch_the_workers_of_the_first(shared):
    muxd = shared
    muxd.ask("alpha")
    before = muxd.worker("alpha")
    config = muxd.config.read_text()
    muxd.config.write_text(config.replace("muxd.sock", "other.sock").replace(str(muxd.port), "1"))
    assert muxd._run("start").wait(20) == 1
    assert "already running with the state in" in muxd.log
    assert muxd.worker("alpha") == before
    muxd.config.write_text(config)
    assert muxd.ask("alpha")


def test_a_signal_during_a_load_ends_everything_with_status_0(start):
    muxd = start(two_models(alpha="load_time = 30.0").replace("load_time = 0.3, sl", "sl"))
    refused: list[httpx.Response] = []
    client = threading.Thread(target=lambda: refused.append(muxd.post("/v1/chat/completions", chat_body("alpha", "x"))))
    client.start()
    muxd.until_state("alpha", "starting")
    muxd.process.terminate()
    assert muxd.process.wait(20) == 0
    client.join()
    assert (refused[0].status_code, refused[0].json()["error"]["code"]) == (503, "shutting_down")
    assert not muxd.left_behind()


def test_requests_in_flight_finish_before_a_shutdown(start):
    muxd = start()
    muxd.ask("alpha")
    with muxd.stream("alpha", max_tokens=500, ignore_eos=True) as lines:
        next(lines)
        assert muxd.muxctl("shutdown", "--no-wait").returncode == 0
        assert list(lines)[-2] == "data: [DONE]"
    assert muxd.process.wait(20) == 0


def test_a_second_muxd_is_refused_and_told_who_is_first(shared):
    muxd = shared
    second = muxd._run("start")
    assert second.wait(20) == 1
    assert f"pid {muxd.process.pid}" in muxd.log
    assert muxd.ask("alpha"), "the first is not disturbed"


@pytest.mark.thorough
def test_muxctl_says_that_muxd_is_not_running_and_shows_its_logs_all_the_same(start):
    muxd = start()
    muxd.ask("alpha")
    muxd.stop()
    gone = muxd.muxctl("status")
    assert gone.returncode == 7
    assert "muxd is not running" in gone.stderr
    shown = muxd.muxctl("logs", "alpha", "--log-dir", str(muxd.folder / "logs"))
    assert "/v1/chat/completions" in shown.stdout


STUCK = """
import sys
from muxd.__main__ import main
from muxd.supervisor import Supervisor
Supervisor.stuck = property(lambda _: ["alpha"])
sys.argv[0] = "muxd"
main()
"""


@pytest.mark.thorough
def test_an_exit_with_living_processes_is_no_success(start):
    muxd = start()
    muxd.stop()
    ended = subprocess.Popen([sys.executable, "-c", STUCK, "start", "--config", str(muxd.config)],
                             stderr=subprocess.PIPE, text=True)  # fmt: skip
    muxd.process = ended  # type: ignore[assignment]
    muxd.until_up()
    ended.terminate()
    _, said = ended.communicate(timeout=muxd.deadline)
    assert ended.returncode == 1
    assert "not all of alpha did" in said
    assert "stopped" not in said


@pytest.mark.thorough
def test_a_script_that_begins_with_pkill_python_does_not_end_muxd_or_its_proxy(start):
    muxd = start()
    eventually(lambda: muxd.health()["muxd"] == "connected", "the proxy is up")
    names = {line: Path(f"/proc/{pid}/comm").read_text().strip() for pid, line in muxd.processes().items()}
    assert sorted(names.values()) == ["muxd", "muxd-proxy"], names
