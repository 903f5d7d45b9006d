"""Several processes of one proxy: what they share, and what the death of one costs."""

import hashlib
import json
import os
import re
import shutil
import signal
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sized
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http.client import HTTPConnection, HTTPException
from pathlib import Path

import httpx
import pytest

from tests.seeds import thorough

from .conftest import two_models
from .muxd import Muxd, chat_body, eventually

PROCESSES = 3


def started(start: Callable[..., Muxd], models: str = "", *, proxy: str = "", **options: str) -> Muxd:
    """A muxd whose proxy has PROCESSES processes, each of which serves."""
    muxd = start(two_models(**options) + models, proxy=f"processes = {PROCESSES}\n{proxy}")
    eventually(lambda: muxd.health()["muxd"] == "connected", "the proxy is up")
    eventually(lambda: living(muxd) == PROCESSES, "all of them serve")
    return muxd


def living(muxd: Muxd) -> int:
    """How many processes answer at sockets of their own."""
    found = 0
    for number in range(1, PROCESSES + 1):
        with suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
            probe.connect(str(muxd.folder / f"state/proxy/{number}.sock"))
            found += 1
    return found


def pids(muxd: Muxd) -> dict[str, int]:
    return {each["name"]: each["pid"] for each in muxd.status()["proxy"]["processes"]}


def asked(muxd: Muxd, headers: dict[str, str] | None = None) -> int:
    """The status of a chat on a connection of its own, which the kernel gives to any process."""
    connection = HTTPConnection("127.0.0.1", muxd.port, timeout=30)
    try:
        sent = {"content-type": "application/json", **(headers or {})}
        connection.request("POST", "/v1/chat/completions", json.dumps(chat_body("alpha", "hello")), sent)
        answer = connection.getresponse()
        answer.read()
        return answer.status
    finally:
        connection.close()


def more_than(count: int, ends: Sized) -> None:
    enough = len(ends) + count
    eventually(lambda: len(ends) > enough, "requests go on")


def kill(muxd: Muxd, name: str) -> None:
    """SIGKILL one process, and wait until its successor serves."""
    before = pids(muxd)[name]
    os.kill(before, signal.SIGKILL)
    eventually(lambda: pids(muxd)[name] not in (None, before), "it has a successor")
    eventually(lambda: living(muxd) == PROCESSES, "which serves")


def total(page: str, name: str) -> float:
    return sum(float(value) for value in re.findall(rf"^{name}(?:\{{[^}}]*\}})? (\S+)$", page, re.MULTILINE))


def test_each_process_serves_and_whoever_is_scraped_tells_the_sum(start: Callable[..., Muxd]) -> None:
    muxd = started(start)
    assert {asked(muxd) for _ in range(60)} == {200}
    logs = {name: (muxd.folder / f"logs/{name}.stdout.log") for name in pids(muxd)}
    assert list(logs) == ["muxd-proxy-1", "muxd-proxy-2", "muxd-proxy-3"]

    def logged() -> list[int]:
        return [log.read_text().count("/v1/chat/completions alpha 200 ok ") for log in logs.values()]

    eventually(lambda: sum(logged()) == 60, "all are in the logs")
    assert all(logged())
    pages = [httpx.get(f"{muxd.url}/metrics", timeout=30).text for _ in range(8)]
    assert {total(page, "muxd_requests_total") for page in pages} == {60.0}
    assert {total(page, "muxd_proxy_processes") for page in pages} == {PROCESSES}
    assert "(running, 3 processes)" in muxd.muxctl("status").stdout
    said = muxd.muxctl("logs", "proxy", "--stream", "stderr").stdout
    assert set(re.findall(r"^(muxd-proxy-\d): ", said, re.MULTILINE)) == set(logs)


@pytest.mark.thorough
def test_the_count_of_a_killed_process_stays_in_the_sum(start: Callable[..., Muxd]) -> None:
    muxd = started(start)
    assert {asked(muxd) for _ in range(40)} == {200}
    assert total(httpx.get(f"{muxd.url}/metrics", timeout=30).text, "muxd_requests_total") == 40
    before = pids(muxd)
    os.kill(before["muxd-proxy-2"], signal.SIGKILL)
    while pids(muxd)["muxd-proxy-2"] in (None, before["muxd-proxy-2"]):  # what a scrape sees meanwhile
        with suppress(httpx.TransportError):  # it came to the dead one
            assert total(httpx.get(f"{muxd.url}/metrics", timeout=30).text, "muxd_requests_total") == 40
    eventually(lambda: living(muxd) == PROCESSES, "its successor serves")
    assert total(httpx.get(f"{muxd.url}/metrics", timeout=30).text, "muxd_requests_total") == 40


@pytest.mark.thorough
def test_a_keys_rate_is_exact_over_all_processes(start: Callable[..., Muxd]) -> None:
    secret = "sk-limited"
    digest = hashlib.sha256(secret.encode()).hexdigest()
    keys = f'[[keys]]\nname = "limited"\nsecret_sha256 = "{digest}"\nrequests_per_minute = 12\n'
    muxd = started(start, keys)
    began, statuses = time.monotonic(), Counter[int]()
    lock = threading.Lock()

    def ask() -> None:
        for _ in range(10):
            status = asked(muxd, {"authorization": f"Bearer {secret}"})
            with lock:
                statuses[status] += 1

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    earned = int((time.monotonic() - began) / 5)  # one more for each twelfth of a minute
    assert statuses[200] + statuses[429] == 60
    assert 12 <= statuses[200] <= 12 + earned


@pytest.mark.thorough
def test_the_death_of_one_refuses_nobody_and_loses_only_what_it_had(start: Callable[..., Muxd]) -> None:
    muxd = started(start)
    muxd.ask("alpha")
    over = threading.Event()
    ends: list[str] = []

    def ask() -> None:
        while not over.is_set():
            try:
                ends.append(str(asked(muxd)))
            except ConnectionRefusedError:
                ends.append("refused")
            except OSError as error:  # a connection that the dead one had taken
                ends.append(type(error).__name__)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    killed = ("muxd-proxy-1", "muxd-proxy-3")
    for name in killed:
        more_than(100, ends)
        kill(muxd, name)
    more_than(100, ends)
    over.set()
    for thread in threads:
        thread.join()
    found = Counter(ends)
    print(found)
    assert found["refused"] == 0
    broken = sum(count for end, count in found.items() if end != "200")
    assert broken <= len(killed) * len(threads)  # at most one request of each client was with the process that died
    assert found["200"] > 300


@pytest.mark.thorough
def test_where_their_folder_is_removed_they_go_on_and_one_that_dies_has_a_successor(start: Callable[..., Muxd]) -> None:
    muxd = started(start)
    muxd.ask("alpha")
    before, folder = pids(muxd), muxd.folder / "state" / "proxy"
    shutil.rmtree(folder)
    sockets = [folder / f"{number}.sock" for number in range(1, PROCESSES + 1)]
    eventually(lambda: all(socket.exists() for socket in sockets), "each has made its socket again")
    eventually(lambda: muxd.status()["proxy"]["state"] == "running", "and muxd finds it")
    assert pids(muxd) == before
    shutil.rmtree(folder)
    kill(muxd, "muxd-proxy-2")
    assert {asked(muxd) for _ in range(30)} == {200}


@pytest.mark.thorough
def test_all_are_taken_over_from_a_killed_muxd(start: Callable[..., Muxd]) -> None:
    muxd = started(start)
    muxd.ask("alpha")
    before = pids(muxd)
    muxd.kill()
    with ThreadPoolExecutor(12) as clients:  # also of a process that holds no lease: it waits for the next muxd
        statuses = [clients.submit(asked, muxd) for _ in range(12)]
        muxd.start_again()
        assert {status.result() for status in statuses} == {200}
    assert pids(muxd) == before
    assert {asked(muxd) for _ in range(30)} == {200}


@pytest.mark.thorough
def test_one_that_died_with_muxd_is_started_beside_the_others(start: Callable[..., Muxd]) -> None:
    muxd = started(start)
    muxd.ask("alpha")
    before = pids(muxd)
    muxd.kill()
    os.kill(before["muxd-proxy-2"], signal.SIGKILL)
    muxd.start_again()
    eventually(lambda: None not in pids(muxd).values(), "all run")
    after = pids(muxd)
    assert {name for name in after if after[name] == before[name]} == {"muxd-proxy-1", "muxd-proxy-3"}
    eventually(lambda: living(muxd) == PROCESSES, "all of them serve")
    assert {asked(muxd) for _ in range(30)} == {200}


#: A server that says with each answer how many requests it had at most at once, so far.
COUNTING = """\
import http.server, sys, threading, time
lock, now, most = threading.Lock(), 0, 0
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        self.answer(b"{}")
    def do_POST(self):
        global now, most
        self.rfile.read(int(self.headers["content-length"]))
        with lock:
            now += 1
            most = max(most, now)
        time.sleep(0.03)
        with lock:
            now -= 1
        self.answer(b'{"most": %d}' % most)
    def answer(self, body):
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *args):
        pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler)
server.daemon_threads = True
server.serve_forever()
"""

LIMITED = """\
[models.alpha]
engine = "openai"
command = ["{python}", "{script}", "{{port}}"]
ready_path = "/ready"
wake_proof = false
gpus = [0]
concurrency_limit = {limit}
"""


@pytest.mark.parametrize("limit", [2, *thorough(5)])  # fewer places than processes, and more
def test_a_concurrency_limit_is_exact_over_all_processes_also_when_one_dies(
    start: Callable[..., Muxd], tmp_path: Path, limit: int
) -> None:
    script = tmp_path / "counting.py"
    script.write_text(COUNTING)
    models = LIMITED.format(python=sys.executable, script=script, limit=limit)
    muxd = start(models, proxy=f"processes = {PROCESSES}")
    eventually(lambda: living(muxd) == PROCESSES, "all of them serve")
    most: list[int] = []
    ends: Counter[str] = Counter()

    def ask() -> None:
        for _ in range(12):
            connection = HTTPConnection("127.0.0.1", muxd.port, timeout=30)
            try:
                sent = {"content-type": "application/json"}
                connection.request("POST", "/v1/chat/completions", json.dumps(chat_body("alpha", "hello")), sent)
                answer = connection.getresponse()
                body = json.loads(answer.read())
                ends[str(answer.status)] += 1
                most.append(body.get("most", 0))
            except (OSError, HTTPException) as error:
                ends[type(error).__name__] += 1
            finally:
                connection.close()

    threads = [threading.Thread(target=ask) for _ in range(16)]
    for thread in threads:
        thread.start()
    eventually(lambda: len(most) > 60, "requests go on")
    kill(muxd, "muxd-proxy-2")
    for thread in threads:
        thread.join()
    print(ends, max(most))
    assert max(most) == limit
    assert ends["200"] >= 16 * 12 - 16
    shares = [log.read_text().count(" 200 ok ") for log in (muxd.folder / "logs").glob("muxd-proxy-*.stdout.log")]
    assert min(shares) > 10, "each has had its turns"


def children_of(pid: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.thorough
def test_a_proxy_that_is_a_service_of_its_own_has_several_processes_too(start: Callable[..., Muxd]) -> None:
    muxd = start(two_models(), proxy="managed = false\nprocesses = 2")
    proxy = muxd.start_proxy()
    eventually(lambda: len(children_of(proxy.pid)) == 2, "both run")
    muxd.ask("alpha")

    def told() -> tuple[float, float]:
        page = httpx.get(f"{muxd.url}/metrics", timeout=30).text
        return total(page, "muxd_requests_total"), total(page, "muxd_proxy_processes")

    eventually(lambda: told() == (1, 2), "both tell what they have counted")
    first, second = children_of(proxy.pid)
    os.kill(second, signal.SIGKILL)
    assert {asked(muxd) for _ in range(40)} == {200}, "what was dealt to the dead one waits for the next"
    assert first in children_of(proxy.pid)
    assert second not in children_of(proxy.pid)
    eventually(lambda: told() == (41, 2), "whoever is scraped tells the sum")
    os.kill(first, signal.SIGSTOP)
    eventually(lambda: first not in children_of(proxy.pid), "one that was stopped is ended")
    assert {asked(muxd) for _ in range(40)} == {200}, "and what was dealt to it meanwhile waits for the next as well"
    proxy.terminate()
    assert proxy.wait(20) == 0
    assert "muxd-proxy-2 was killed by SIGKILL: starting it again" in muxd.log


@pytest.mark.thorough
def test_one_that_is_told_to_stop_loses_nothing(start: Callable[..., Muxd]) -> None:
    """As when it is to be replaced: it finishes what it has, and what comes meanwhile waits for its successor."""
    muxd = started(start)
    assert {asked(muxd) for _ in range(40)} == {200}  # each holds a lease
    before = pids(muxd)["muxd-proxy-1"]
    with ThreadPoolExecutor(8) as clients:
        ends = [clients.submit(asked, muxd) for _ in range(100)]
        os.kill(before, signal.SIGTERM)
        ends += [clients.submit(asked, muxd) for _ in range(200)]
        assert Counter(end.result() for end in ends) == {200: 300}
    eventually(lambda: pids(muxd)["muxd-proxy-1"] not in (None, before), "it has a successor")
    eventually(lambda: living(muxd) == PROCESSES, "all of them serve")


@pytest.mark.thorough
def test_an_upgrade_of_muxd_keeps_every_process_and_refuses_nobody(start: Callable[..., Muxd]) -> None:
    muxd = started(start)
    assert {asked(muxd) for _ in range(40)} == {200}
    before, over = pids(muxd), threading.Event()
    ends: list[int] = []

    def ask() -> None:
        while not over.is_set():
            ends.append(asked(muxd))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    said = muxd.muxctl("upgrade")
    more_than(50, ends)
    over.set()
    for thread in threads:
        thread.join()
    assert said.returncode == 0, said.stderr
    assert pids(muxd) == before
    assert set(ends) == {200}


@pytest.mark.thorough
def test_replaced_processes_are_taken_over_from_a_killed_muxd_with_their_sockets(start: Callable[..., Muxd]) -> None:
    """Their children have other names than the first ones had; clients would hang at a socket that is in no process."""
    muxd = started(start)
    muxd.ask("alpha")
    before = pids(muxd)
    muxd.config.write_text(muxd.config.read_text().replace("[proxy]", '[proxy]\ndrain_timeout = "50s"'))
    assert muxd.muxctl("upgrade").returncode == 0
    eventually(lambda: not {*before.values()} & {*muxd.processes()}, "the former ones are gone")
    replaced = pids(muxd)
    muxd.kill()
    muxd.start_again()
    assert {asked(muxd) for _ in range(60)} == {200}
    assert pids(muxd) == replaced
