"""Workers that crash again and again take no memory of muxd's, once its histories are full."""

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

from muxd.history.journal import KEPT
from tests.end_to_end.muxd import Muxd, eventually
from tests.faults.oracles import memory

MODELS = ("a", "b", "c", "d")
CRASHES = 300

#: Bytes that muxd may have more after so many crashes: half of what it has where it forgets no event.
MOST = 640 << 10

CONFIG = """\
[defaults]
engine = "simulator"
memory = { weights = "40GiB", kv = "16GiB", overhead = "2GiB" }
simulation = { load_time = 0.02, sleep_time = 0, wake_time = 0 }
restart_limit = 1000
restart_window = "1s"
stable_after = "0s"
""" + "".join(f"[models.{name}]\npreload = true\ngpus = [{number}]\n" for number, name in enumerate(MODELS))


def test_crashes_take_no_memory_once_the_histories_are_full(tmp_path: Path, capsys: Any) -> None:
    with Muxd(tmp_path, CONFIG, deadline=60) as muxd:
        killed: set[int] = set()

        def one() -> bool:
            """Kill what serves and was not killed before; say whether something was."""
            models = [model for model in muxd.status()["models"] if model["state"] == "ready" and model["pid"]]
            fresh = {model["pid"] for model in models} - killed
            for pid in fresh:
                os.kill(pid, signal.SIGKILL)
            killed.update(fresh)
            return bool(fresh)

        def taken_after(crashes: int) -> int:
            """Return how many bytes muxd has after so many more crashes."""
            count = len(killed) + crashes
            while len(killed) < count:
                eventually(one, "a model serves again")
            time.sleep(3)  # what was begun is over, as is whatever muxd does regularly
            return memory(muxd.process.pid)

        sizes = [taken_after(0)]
        while newest_event(muxd) < 1.3 * KEPT:
            sizes.append(taken_after(25))
        filled = len(killed)
        while len(killed) < filled + CRASHES:
            sizes.append(taken_after(25))
        with capsys.disabled():
            print("\nmuxd's MB, every 25 crashes:", *(f"{size / 1e6:.2f}" for size in sizes))
        assert sizes[-1] - sizes[-1 - CRASHES // 25] < MOST


def newest_event(muxd: Muxd) -> int:
    lines = muxd.control("GET", "/v1/events?after=0&follow=0").text.splitlines()
    newest: int = json.loads(lines[-1])["id"]
    return newest
