"""Replicas that come and go behind the real sglang-router: by load and by order, with no request refused."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import Any

import pytest

from .conftest import QUICK
from .muxd import Muxd, eventually

MODELS = f"""\
[defaults]
engine = "simulator"
gpu_release_timeout = "1500ms"
probe_interval = "300ms"
memory = {{ weights = "28GiB", kv = "20GiB" }}
[models.pool]
min_replicas = 0
max_replicas = 2
scaling = {{ load = 4, up_after = "300ms", down_after = "1500ms" }}
router = {{ policy = "round_robin" }}
gpus = [0, 1]
simulation = {{ {QUICK} }}
[models.fixed]
replicas = 3
router = {{ policy = "round_robin" }}
gpus = [2, 3, 4]
simulation = {{ {QUICK} }}
[models.packed]
replicas = 2
gpus = [5, 5]
memory = {{ weights = "14GiB", kv = "10GiB" }}
simulation = {{ {QUICK} }}
[models.solo]
gpus = [4]
memory = {{ weights = "40GiB", kv = "16GiB" }}
simulation = {{ {QUICK} }}
"""


@pytest.fixture(scope="module")
def muxd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Muxd]:
    with Muxd(tmp_path_factory.mktemp("pool"), MODELS) as muxd:
        yield muxd


def replicas(muxd: Muxd, model: str) -> dict[str, Any]:
    return dict(muxd.status(model)["replicas"])


def muxctl(muxd: Muxd, *words: str, expect: int = 0) -> str:
    """What muxctl said, once it has ended as expected."""
    done = muxd.muxctl(*words)
    assert done.returncode == expect, (done.returncode, done.stdout, done.stderr)
    return done.stdout + done.stderr


def router_pid(muxd: Muxd, model: str) -> int | None:
    pids = {worker["name"]: worker["pid"] for worker in muxd.status(model)["workers"]}
    return pids[f"{model}/router"]


def steps(muxd: Muxd, model: str) -> list[dict[str, Any]]:
    lines = muxd.control("GET", "/v1/events?after=0&follow=0").text.splitlines()
    events = [json.loads(line) for line in lines]
    return [event for event in events if event["type"] == "scaled" and event["model"] == model]


@pytest.mark.thorough
def test_from_none_to_two_and_to_none_again_by_load_with_no_request_refused(muxd):
    text = muxd.ask("pool", max_tokens=40)  # an answer at temperature 0 is the same from every replica
    first = router_pid(muxd, "pool")
    is_enough = Event()

    def ask_on(_: int) -> set[str]:
        said = set()
        while not is_enough.is_set():
            said.add(muxd.ask("pool", max_tokens=40))
        return said

    with ThreadPoolExecutor(12) as clients:
        answers = [clients.submit(ask_on, number) for number in range(12)]
        try:
            eventually(lambda: replicas(muxd, "pool")["ready"] == 2, "12 requests at once bring a second replica")
            eventually(lambda: (muxd.folder / "logs/pool@1.stdout.log").read_text().count("/chat/") > 20, "it serves")
            muxctl(muxd, "scale", "pool", "1")  # under load
            assert replicas(muxd, "pool") | {"lacks": None} == {
                "wanted": 1, "ready": 1, "min": 0, "max": 2, "automatic": True, "lacks": None
            }  # fmt: skip
            eventually(lambda: replicas(muxd, "pool")["ready"] == 2, "the load brings it back")
        finally:
            is_enough.set()
    assert set.union(*(answer.result() for answer in answers)) == {text}
    assert router_pid(muxd, "pool") == first, "told, never started again"
    eventually(lambda: muxd.state("pool") == "asleep", "without requests none is left")
    assert muxd.ask("pool", max_tokens=40) == text, "held, not answered by 503"
    assert replicas(muxd, "pool")["wanted"] == 1
    said = steps(muxd, "pool")
    ways = [(step["from"], step["to"]) for step in said]
    assert {(1, 2), (2, 1)} <= set(ways)
    assert (1, 0) in ways or (2, 0) in ways
    assert all(step["reason"] for step in said), said
    assert any("are for each replica" in step["reason"] for step in said)


def test_an_order_scales_a_group_of_fixed_size_down_to_none_and_a_request_brings_one_back(muxd):
    said = muxctl(muxd, "scale", "fixed", "3").splitlines()
    assert said[0].startswith("fixed: 0 of 3 replicas ready, fixed/0 is starting"), said
    assert said[-1].startswith("fixed: 3 replicas are ready after "), said
    assert replicas(muxd, "fixed")["ready"] == 3
    assert muxctl(muxd, "scale", "fixed", "3") == "fixed: 3 replicas are ready already\n"
    muxctl(muxd, "scale", "fixed", "1")
    assert replicas(muxd, "fixed") == {
        "wanted": 1, "ready": 1, "min": 0, "max": 3, "automatic": False, "lacks": None
    }  # fmt: skip
    text = muxd.ask("fixed")
    assert "fixed is asleep, with no replica on a GPU" in muxctl(muxd, "scale", "fixed", "0")
    assert muxd.state("fixed") == "asleep"
    assert muxd.ask("fixed") == text
    assert replicas(muxd, "fixed")["ready"] == 1
    page = muxd.control("GET", "/metrics").text
    assert 'muxd_replicas{kind="ready",model="fixed"} 1.0' in page
    assert 'muxd_scalings_total{direction="down",model="fixed"}' in page


def test_more_than_memory_has_room_for_are_refused_with_how_many_fit_and_who_is_there(muxd):
    muxctl(muxd, "scale", "fixed", "1")
    muxd.ask("solo")
    refused = muxctl(muxd, "scale", "fixed", "3", expect=3)
    assert "2 of 3 replicas of fixed fit now" in refused
    assert "GPU 4 has no room: solo (ready)" in refused
    muxctl(muxd, "scale", "fixed", "2")
    assert replicas(muxd, "fixed")["ready"] == 2


@pytest.mark.thorough
def test_two_replicas_are_packed_on_one_gpu_and_leave_it_together(muxd):
    muxctl(muxd, "scale", "packed", "2")
    assert replicas(muxd, "packed")["ready"] == 2
    assert [worker["gpus"] for worker in muxd.status("packed")["workers"]] == [[5], [5], []]
    text = muxd.ask("packed")
    muxctl(muxd, "sleep", "packed")
    assert muxd.ask("packed") == text


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("pool", "3"), "pool has at most 2 replicas, not 3: see its max_replicas"),
        (("solo", "2"), "solo has one worker, and no replicas; give it max_replicas, and reload"),
        (("fixed", "-1"), "replicas"),
        (("nobody", "2"), "nobody"),
    ],
)
def test_what_cannot_be_is_refused_and_loses_nothing(muxd, words, said):
    before = muxd.status(words[0])["state"] if words[0] != "nobody" else None
    assert said in muxctl(muxd, "scale", *words, expect={"nobody": 4}.get(words[0], 2))
    assert before is None or muxd.status(words[0])["state"] == before
