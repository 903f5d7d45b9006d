"""Several processes of one proxy: what they share, and what the death of one costs."""

import hashlib
import json
import os
import re
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http.client import HTTPConnection

import httpx

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


def more_than(count: int, ends: list[str]) -> None:
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
