"""Replicas of one model behind a router: real processes, which live and die by themselves."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import QUICK
from .muxd import Muxd, eventually
from .pair import all_ready, answered_by, states, workers

MODELS = f"""\
[defaults]
engine = "simulator"
gpu_release_timeout = "1500ms"
probe_interval = "300ms"
simulation = {{ {QUICK} }}
[models.pair]
replicas = 2
gpus = [0, 1]
memory = {{ weights = "28GiB", kv = "20GiB" }}
[models.solo]
gpus = [1]
memory = {{ weights = "40GiB", kv = "16GiB" }}
"""


@pytest.fixture(scope="module")
def muxd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Muxd]:
    """For tests that leave the pair able to serve."""
    with Muxd(tmp_path_factory.mktemp("pair"), MODELS) as muxd:
        yield muxd


def test_both_replicas_answer_and_one_that_is_killed_comes_back_while_the_other_serves_on(muxd):
    text = muxd.ask("pair")
    eventually(lambda: all_ready(muxd), "both replicas are ready")
    generation = muxd.status("pair")["generation"]
    eventually(
        lambda: muxd.ask("pair") and min(answered_by(muxd, "pair/0"), answered_by(muxd, "pair/1")), "both answer"
    )
    before, moved = workers(muxd), len(muxd.moves())
    os.kill(before["pair/0"]["pid"], signal.SIGKILL)
    assert {muxd.ask("pair") for _ in range(8)} == {text}
    assert muxd.state("pair") == "ready"
    eventually(lambda: all_ready(muxd), "the killed replica is back")
    after = workers(muxd)
    restarts = {name: after[name]["restarts"] - before[name]["restarts"] for name in before}
    assert restarts == {"pair/0": 1, "pair/1": 0, "pair/router": 0}
    assert after["pair/1"]["pid"] == before["pair/1"]["pid"]
    assert "SIGKILL" in after["pair/0"]["last_exit"]["reason"]
    assert muxd.status("pair")["generation"] == generation + 1
    seen = answered_by(muxd, "pair/0")
    eventually(
        lambda: muxd.ask("pair") and answered_by(muxd, "pair/0") > seen, "the router passes requests to it again"
    )
    assert ("pair", "ready", "starting") not in muxd.moves()[moved:], "no request ever waited"


def test_a_group_gives_way_and_wakes_whole(muxd):
    text = muxd.ask("pair")
    eventually(lambda: all_ready(muxd), "both replicas are ready")
    pids = [worker["pid"] for worker in workers(muxd).values()]
    muxd.ask("solo")
    assert states(muxd) == ["asleep", "asleep", "ready"]
    assert muxd.state("pair") == "asleep"
    assert muxd.ask("pair") == text
    eventually(lambda: all_ready(muxd), "both replicas are awake")
    assert [worker["pid"] for worker in workers(muxd).values()] == pids
    assert muxd.state("solo") == "asleep"


def test_a_router_that_is_killed_is_back_at_once_and_the_replicas_stay(muxd):
    muxd.ask("pair")
    eventually(lambda: all_ready(muxd), "both replicas are ready")
    before = workers(muxd)
    os.kill(before["pair/router"]["pid"], signal.SIGKILL)
    eventually(lambda: workers(muxd)["pair/router"]["pid"] not in (None, before["pair/router"]["pid"]), "a new router")
    assert muxd.ask("pair")
    after = workers(muxd)
    assert [after[name]["pid"] for name in ("pair/0", "pair/1")] == [
        before[name]["pid"] for name in ("pair/0", "pair/1")
    ]


def test_logs_are_those_of_each_worker_or_of_all_with_their_names(muxd):
    muxd.ask("pair")
    one = muxd.muxctl("logs", "pair/1", "-n", "9999").stdout
    assert "loading" in one
    assert "pair/1:" not in one
    everything = muxd.muxctl("logs", "pair", "-n", "9999").stdout.splitlines()
    assert {line.partition(":")[0] for line in everything} == {"pair/0", "pair/1", "pair/router"}
    muxd.stop()
    argv = ("logs", "pair/1", "-n", "9999", "--log-dir", str(Path(muxd.folder / "logs")))
    assert "loading" in muxd.muxctl(*argv).stdout
    muxd.start_again()


@pytest.mark.thorough
def test_a_reload_changes_the_number_of_replicas(start):
    muxd = start(MODELS)
    muxd.ask("pair")
    muxd.config.write_text(muxd.config.read_text().replace("replicas = 2\ngpus = [0, 1]", "gpus = [0]"))
    assert muxd.control("POST", "/v1/reload").status_code == 200
    eventually(lambda: muxd.state("pair") == "ready" and "workers" not in muxd.status("pair"), "one worker serves")
    assert muxd.ask("pair")
    muxd.config.write_text(muxd.config.read_text().replace("gpus = [0]", "replicas = 3\ngpus = [0, 1, 2]"))
    assert muxd.control("POST", "/v1/reload").status_code == 200
    eventually(lambda: states(muxd) == ["ready"] * 4 if "workers" in muxd.status("pair") else False, "three serve")
    assert muxd.ask("pair")


@pytest.mark.thorough
def test_the_next_muxd_goes_on_with_every_worker_that_a_killed_one_has_left(start):
    muxd = start(MODELS)
    muxd.ask("pair")
    eventually(lambda: all_ready(muxd), "both replicas are ready")
    before = {worker["pid"] for worker in workers(muxd).values()}
    muxd.kill()
    muxd.start_again()
    assert muxd.ask("pair")
    assert {worker["pid"] for worker in workers(muxd).values()} == before


ANYWHERE = f"""\
[defaults]
engine = "simulator"
gpu_release_timeout = "1500ms"
probe_interval = "300ms"
simulation = {{ {QUICK} }}
[models.solo]
gpus = [1]
memory = {{ weights = "40GiB", kv = "16GiB" }}
[models.pair]
max_replicas = 3
gpus = "auto"
memory = {{ weights = "28GiB", kv = "20GiB" }}
"""


@pytest.mark.thorough
def test_replicas_come_to_whatever_gpus_have_room_and_are_found_there_by_the_next_muxd(tmp_path):
    def places() -> dict[str, list[int]]:
        return {name: worker["gpus"] for name, worker in workers(muxd).items() if worker["state"] == "ready"}

    with Muxd(tmp_path, ANYWHERE, daemon="simulated_gpus = 3") as muxd:
        assert muxd.ask("solo")
        text = muxd.ask("pair")
        assert places() == {"pair/0": [0], "pair/router": []}
        assert muxd.muxctl("scale", "pair", "2").returncode == 0
        assert places() == {"pair/0": [0], "pair/1": [2], "pair/router": []}
        assert muxd.status("pair")["gpus"] == [0, 2]
        refused = muxd.muxctl("scale", "pair", "3")
        assert refused.returncode == 3
        assert "2 of 3 replicas of pair fit now; there is no room for 3: GPU 0 has no room: pair/0" in refused.stderr
        pids = [worker["pid"] for worker in workers(muxd).values()][:2]
        muxd.kill()
        muxd.start_again()
        eventually(lambda: muxd.state("pair") == "ready", "the replicas are taken over")
        assert places() == {"pair/0": [0], "pair/1": [2], "pair/router": []}
        assert [worker["pid"] for worker in workers(muxd).values()][:2] == pids
        assert muxd.ask("pair") == text
        assert muxd.muxctl("stop", "solo").returncode == 0
        assert muxd.muxctl("scale", "pair", "3").returncode == 0
        assert places() == {"pair/0": [0], "pair/1": [2], "pair/2": [1], "pair/router": []}
