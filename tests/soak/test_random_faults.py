"""A random fault every two seconds under a mixed load: `make soak SECONDS=600 SEED=1`."""

import json
import os
import re
import subprocess
import threading
import time
from collections import Counter, defaultdict
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.end_to_end.muxd import Muxd, assert_never_two_awake, eventually
from tests.faults.oracles import check_moves, memory, zombies

from .clients import Crowd, Outcome, spread, table
from .random_faults import RandomFaults, small_disks

SECONDS = float(os.environ.get("MUXD_SOAK_SECONDS") or 60)
SEED = int(os.environ.get("MUXD_SOAK_SEED") or 1)
EVERY = 2.0
CLIENTS = 16
GRACE = 60.0  # seconds after a fault in which a request may fail of it: it may have waited as long

MODELS = ("a", "b", "c", "d")
LEVELS = {"a": 1, "b": 2, "c": 0, "d": 3}

CONFIG = """\
[policy]
wait_target = "3s"
[defaults]
engine = "simulator"
gpu_release_timeout = "5s"
start_timeout = "20s"
stop_timeout = "2s"
call_timeout = "5s"
probe_interval = "300ms"
probe_timeout = "2s"
hang_timeout = "3s"
restart_limit = 999
stable_after = "0s"
log_max_bytes = "1MiB"
log_backups = 1
memory = { weights = "40GiB", kv = "16GiB", overhead = "512MiB" }
simulation = { load_time = 0.3, sleep_time = 0.02, wake_time = 0.05, token_rate = 200, batch_slots = 32, pace = 0.02 }
""" + "".join(f"[models.{name}]\nsleep_level = {level}\n" for name, level in LEVELS.items())

#: What a request may say that failed of a fault: an error of muxd's own, also as a stream's last event, or a connection
#: that is gone.
FAILED = re.compile(
    r"'(code|type)': '|^APIError [a-z_]+: |APIConnectionError|curl ended with (7|18|22|52|56)|peer closed"
    r"|RemoteProtocolError|ReadError|worker_|the stream told no usage|the stream was cut|InternalServerError"
    r"|Connection error"
)


@dataclass
class Observer:
    """Reads the events of every muxd that there is, and what it and its proxy take of memory."""

    muxd: Muxd
    faults: RandomFaults
    lives: list[list[dict[str, Any]]] = field(default_factory=list)  # the events of each muxd
    memory: defaultdict[tuple[str, int], list[tuple[float, int]]] = field(default_factory=lambda: defaultdict(list))
    unanswered: list[str] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)
    _pid: int = 0

    def watch(self) -> None:
        transport = httpx.HTTPTransport(uds=str(self.muxd.socket))
        with httpx.Client(transport=transport, base_url="http://muxd", timeout=30) as client:
            while not self.over.wait(0.25):
                began = time.monotonic()
                try:
                    self._look(client)
                except (httpx.HTTPError, OSError) as error:
                    if self.faults.away.acquire(blocking=False):  # muxd is there, or was just now
                        self.faults.away.release()
                        self.unanswered.append(repr(error))
                self.waits.append(time.monotonic() - began)

    def _look(self, client: httpx.Client) -> None:
        status = client.get("/v1/status").json()
        if status["pid"] != self._pid:  # another muxd: it may count on from fewer events than were seen of the last one
            self._pid = status["pid"]
            self.lives.append([])
        seen = self.lives[-1]
        answer = client.get(f"/v1/events?after={seen[-1]['id'] if seen else 0}&follow=0")
        events = [json.loads(line) for line in answer.text.splitlines()]
        if not seen:
            begin = max((at for at, event in enumerate(events) if event["type"] == "muxd_started"), default=0)
            del events[:begin]
        seen += events
        for name, pid in (("muxd", status["pid"]), ("proxy", status["proxy"]["pid"])):
            with suppress(OSError):
                point = time.monotonic(), memory(pid or 0)
                self.memory[name, pid or 0].append(point)

    def moves(self) -> list[list[tuple[str, str, str]]]:
        """Of each life of muxd."""
        return [[(e["model"], e["from"], e["to"]) for e in life if e["type"] == "state"] for life in self.lives]

    def slopes(self) -> dict[str, float]:
        """Bytes per hour of each kind of process, in the second half of the longest life that was seen of one."""
        found = {}
        for kind in ("muxd", "proxy"):
            longest = max((each for (name, _), each in self.memory.items() if name == kind), key=len)
            found[kind] = slope(longest[len(longest) // 2 :]) * 3600
        return found


def slope(points: list[tuple[float, int]]) -> float:
    """Of the straight line with the least squares."""
    middle = sum(x for x, _ in points) / len(points), sum(y for _, y in points) / len(points)
    over = sum((x - middle[0]) ** 2 for x, _ in points)
    return sum((x - middle[0]) * (y - middle[1]) for x, y in points) / over if over else 0.0


def violations(outcomes: list[Outcome], faults: RandomFaults) -> list[str]:
    """Wrong answers, and failures that no fault explains."""
    found = []
    for one in outcomes:
        if one.problem is None:
            continue
        met = any(fault.began <= one.ended and one.began <= fault.ended + GRACE for fault in faults.done)
        if "it said" in one.problem or not met or not FAILED.search(one.problem):
            found.append(f"{one.kind} of {one.model} at {one.began:.1f} to {one.ended:.1f}: {one.problem}")
    return found


# httpx leaves the socket of a connection to its finalizer that a killed muxd has cut.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_under_random_faults_every_request_ends_and_everything_is_well_in_the_end(tmp_path: Path, capsys: Any) -> None:
    disks = small_disks(tmp_path, "state", "logs")
    try:
        soak(tmp_path, RandomFaults, disks, capsys)
    finally:
        for name in disks:
            subprocess.run(["umount", "--lazy", str(tmp_path / name)], check=True)


def soak(folder: Path, make: type[RandomFaults], disks: dict[str, Any], capsys: Any) -> None:
    with Muxd(folder, CONFIG, deadline=60) as muxd, Crowd(muxd.url, CLIENTS) as crowd:
        crowd.learn(MODELS)
        texts = {model: muxd.ask(model) for model in MODELS}
        faults = make(muxd, SEED, disks)
        observer = Observer(muxd, faults)
        watching = threading.Thread(target=observer.watch, daemon=True)  # else a test that fails never ends
        asking = threading.Thread(target=lambda: outcomes.extend(crowd.ask_for(MODELS, SECONDS)), daemon=True)
        outcomes: list[Outcome] = []
        watching.start()
        asking.start()
        end = time.monotonic() + SECONDS
        while time.monotonic() < end - EVERY:
            turn = time.monotonic() + EVERY
            faults.one()
            time.sleep(max(0.0, turn - time.monotonic()))
        asking.join()
        for model in MODELS:
            eventually(lambda model=model: answers(muxd, model) == texts[model], f"{model} answers as at first", 90)
        observer.over.set()
        watching.join()
        eventually(lambda: not zombies(muxd.process.pid), "every child that has ended is waited for")
    kinds = ", ".join(f"{count} {name}" for name, count in faults.counts.items())
    failed = Counter(re.sub(r"[0-9a-f]{6,}|\d+", "#", one.problem)[:110] for one in outcomes if one.problem)
    with capsys.disabled():
        print(f"\n{table(outcomes, f'{SECONDS:g} s, seed {SEED}; faults: {kinds}')}\n{spread(outcomes)}")
        print("\n".join(f"{count:5} failed: {what}" for what, count in failed.most_common(12)))
        for name, bytes_per_hour in observer.slopes().items():
            print(f"memory of {name}: {bytes_per_hour / (1 << 20):+.1f} MiB an hour in its longest life's second half")
        print(f"{len(observer.lives)} lives of muxd; the status took {max(observer.waits):.2f} s at the most")
    assert violations(outcomes, faults) == []
    assert observer.unanswered == []
    assert sum(one.problem is None and not one.left for one in outcomes) > len(outcomes) / 2
    for moves in observer.moves():
        check_moves(moves, adopts=True)
        assert_never_two_awake(moves)
    for (name, _), points in observer.memory.items():
        sizes = [size for _, size in points[len(points) // 2 :]]
        assert max(sizes) - min(sizes) < 64 << 20, name
    assert "Traceback" not in muxd_log(folder)


def answers(muxd: Muxd, model: str) -> str:
    with suppress(AssertionError, httpx.HTTPError):
        return muxd.ask(model)
    return ""


def muxd_log(folder: Path) -> str:
    return (folder / "muxd.log").read_text(errors="replace")
