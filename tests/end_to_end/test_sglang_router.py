"""Replicas behind the real sglang-router: no request is lost where a replica is, and the router is told who serves."""

import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from threading import Event

import pytest

from .conftest import QUICK
from .muxd import Muxd, chat_body, eventually
from .pair import all_ready, answered_by, workers

MODELS = f"""\
[defaults]
engine = "simulator"
gpu_release_timeout = "1500ms"
probe_interval = "300ms"
simulation = {{ {QUICK} }}
[models.pair]
replicas = 2
router = {{ policy = "round_robin" }}
gpus = [0, 1]
memory = {{ weights = "28GiB", kv = "20GiB" }}
restart_limit = 99
[models.solo]
gpus = [1]
memory = {{ weights = "40GiB", kv = "16GiB" }}
"""


@pytest.fixture(scope="module")
def muxd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Muxd]:
    with Muxd(tmp_path_factory.mktemp("pair"), MODELS) as muxd:
        yield muxd


def test_both_replicas_answer_and_the_router_runs_beside_them(muxd):
    text = muxd.ask("pair")
    eventually(lambda: all_ready(muxd), "both replicas are ready")
    eventually(
        lambda: muxd.ask("pair") == text and min(answered_by(muxd, "pair/0"), answered_by(muxd, "pair/1")),
        "both answer",
    )
    assert "/sglang_router/" in Path(f"/proc/{workers(muxd)['pair/router']['pid']}/maps").read_text()


def test_a_replica_that_is_killed_under_16_clients_costs_no_request_but_streams_that_had_begun(muxd):
    muxd.ask("pair")
    eventually(lambda: all_ready(muxd), "both replicas are ready")
    text = muxd.ask("pair", max_tokens=40)
    before = workers(muxd)

    def ask(number: int) -> str:
        if number == 40:
            os.kill(before["pair/0"]["pid"], signal.SIGKILL)
        return muxd.ask("pair", max_tokens=40)

    with ThreadPoolExecutor(16) as clients:
        answers = list(clients.map(ask, range(200)))
    assert set(answers) == {text}
    eventually(lambda: all_ready(muxd), "the killed replica is back")
    after = workers(muxd)
    assert (after["pair/0"]["restarts"], after["pair/1"]["restarts"], after["pair/router"]["restarts"]) == (1, 0, 0)
    assert after["pair/router"]["pid"] == before["pair/router"]["pid"], "told, not started again"
    seen = answered_by(muxd, "pair/0")
    eventually(
        lambda: muxd.ask("pair") and answered_by(muxd, "pair/0") > seen, "the router passes requests to it again"
    )


def test_the_group_sleeps_and_wakes_whole_and_answers_as_before(muxd):
    text = muxd.ask("pair")
    muxd.ask("solo")
    assert muxd.state("pair") == "asleep"
    assert muxd.ask("pair") == text


def test_a_router_that_is_killed_is_back_and_no_request_is_lost(muxd):
    muxd.ask("pair")
    eventually(lambda: all_ready(muxd), "both replicas are ready")
    before = workers(muxd)
    text = muxd.ask("pair")
    os.kill(before["pair/router"]["pid"], signal.SIGKILL)
    assert {muxd.ask("pair") for _ in range(4)} == {text}
    assert workers(muxd)["pair/router"]["pid"] != before["pair/router"]["pid"]


def test_the_routers_metrics_are_merged_under_its_name(muxd):
    muxd.ask("pair")
    eventually(lambda: all_ready(muxd), "both replicas are ready")
    page = muxd.control("GET", "/metrics").text
    lines = [line for line in page.splitlines() if line.startswith("smg_router_requests_total{")]
    assert lines
    assert all('model="pair/router"' in line for line in lines), lines


def test_dstacks_recipe_the_router_answers_through_the_gateway_and_from_no_replica_a_request_brings_them_back(muxd):
    text = muxd.ask("pair")
    eventually(lambda: all_ready(muxd), "both replicas are ready")
    assert muxd.get("/health").status_code == 200
    muxd.muxctl("sleep", "pair", "--level", "3")
    assert [worker["pid"] for worker in workers(muxd).values()] == [None] * 3
    assert muxd.ask("pair") == text, "held, not answered by 503"


POLICIES = f"""\
[defaults]
engine = "simulator"
probe_interval = "300ms"
simulation = {{ {QUICK} }}
[models.by_lot]
replicas = 2
gpus = [0, 1]
router = {{ policy = "random" }}
[models.of_two]
replicas = 2
gpus = [2, 3]
router = {{ policy = "power_of_two" }}
[models.halves]
gpus = [4, 5, 6]
prefill = {{ policy = "power_of_two" }}
decode = {{ replicas = 2, policy = "power_of_two" }}
"""


@pytest.mark.thorough
def test_every_policy_serves_from_the_first_replica_or_the_first_of_each_half_on(start: Callable[..., Muxd]):
    muxd = start(POLICIES)
    for model in ("by_lot", "of_two", "halves"):
        text = muxd.ask(model)
        assert {muxd.ask(model) for _ in range(4)} == {text}


def reload(muxd: Muxd, old: str, new: str) -> list[tuple[str, list[str]]]:
    text = muxd.config.read_text()
    assert old in text
    muxd.config.write_text(text.replace(old, new, 1))
    answer = muxd.control("POST", "/v1/reload", {})
    assert answer.status_code == 200, answer.text
    return [(step["action"], step.get("workers", [])) for step in answer.json()["plan"]]


def pids(muxd: Muxd) -> dict[str, int]:
    return {name: worker["pid"] for name, worker in workers(muxd).items()}


@pytest.mark.thorough
def test_a_reload_starts_and_ends_those_workers_alone_that_it_changes_and_no_request_is_lost(tmp_path):
    def all_ready(count: int) -> bool:
        return [worker["state"] for worker in workers(muxd).values()] == ["ready"] * count

    with Muxd(tmp_path, MODELS) as muxd, ThreadPoolExecutor(8) as clients, ExitStack() as stack:
        text = muxd.ask("pair", max_tokens=30)
        eventually(lambda: all_ready(3), "both replicas are ready")
        before, over = pids(muxd), Event()
        stack.callback(over.set)
        answers = [clients.submit(ask_until, muxd, over, text) for _ in range(6)]
        with muxd.stream("pair", max_tokens=400) as lines:
            begun = [next(lines)]
            other = f'{{ policy = "random", log_dir = "{tmp_path}/router" }}'
            plan = reload(muxd, '{ policy = "round_robin" }', other)
            assert plan == [("update", ["restart pair/router"])]
            begun += lines
        assert begun[-2] == "data: [DONE]", "its router ends once it has nothing"
        eventually(lambda: all_ready(3) and pids(muxd)["pair/router"] != before["pair/router"], "another router")
        assert list((tmp_path / "router").iterdir()), "it is what the configuration says now"
        second = pids(muxd)
        assert plan_of_replicas(muxd, "replicas = 2", "replicas = 3", "[0, 1]", "[0, 1, 2]") == ["start pair/2"]
        eventually(lambda: all_ready(4), "the third replica is ready")
        assert plan_of_replicas(muxd, "replicas = 3", "replicas = 2", "[0, 1, 2]", "[0, 1]") == ["stop pair/2"]
        eventually(lambda: len(workers(muxd)) == 3, "the third replica is gone")
        assert pids(muxd) == second
        assert [second[name] for name in ("pair/0", "pair/1")] == [before[name] for name in ("pair/0", "pair/1")]
        over.set()
        asked = [answer.result() for answer in answers]
    assert all(asked)


@pytest.mark.parametrize(
    ("added", "said"),
    [
        ('args = ["--nonsense", "1"]', "does not take router.args: it knows no --nonsense"),
        ('python = "/bin/false"', "models.pair.router.python: /bin/false: "),
    ],
)
def test_a_reload_whose_router_could_not_start_is_refused_and_the_one_that_serves_stays(muxd, added, said):
    muxd.ask("pair")
    eventually(lambda: all_ready(muxd), "both replicas are ready")
    before, text = pids(muxd), muxd.config.read_text()
    muxd.config.write_text(text.replace('{ policy = "round_robin" }', f'{{ policy = "round_robin", {added} }}', 1))
    refused = muxd.control("POST", "/v1/reload", {})
    muxd.config.write_text(text)
    assert refused.status_code == 400
    assert said in refused.json()["error"]["message"]
    assert "; nothing was changed" in refused.json()["error"]["message"]
    assert muxd.ask("pair")
    assert pids(muxd) == before


def plan_of_replicas(muxd: Muxd, old: str, new: str, gpus: str, new_gpus: str) -> list[str]:
    text = muxd.config.read_text()
    muxd.config.write_text(text.replace(f"gpus = {gpus}", f"gpus = {new_gpus}", 1))
    ((action, said),) = reload(muxd, old, new)
    assert action == "update"
    return said


def ask_until(muxd: Muxd, over: Event, text: str) -> int:
    """Ask again and again; return how many were answered, each as it should be."""
    count = 0
    while not over.is_set():
        assert muxd.ask("pair", max_tokens=30) == text
        count += 1
    return count


@pytest.mark.thorough
def test_the_policy_manual_keeps_a_clients_key_with_one_replica(tmp_path):
    def answered() -> tuple[int, int]:
        return answered_by(muxd, "pair/0"), answered_by(muxd, "pair/1")

    def ask_with(key: str) -> tuple[int, int]:
        before = answered()
        for _ in range(4):
            assert muxd.post("/v1/chat/completions", body, headers={"X-SMG-Routing-Key": key}).status_code == 200
        eventually(lambda: sum(answered()) == sum(before) + 4, "the logs have all of them")
        return tuple(now - then for now, then in zip(answered(), before, strict=True))

    body = chat_body("pair", "hello", max_tokens=4)
    with Muxd(tmp_path, MODELS.replace('{ policy = "round_robin" }', '{ policy = "manual" }')) as muxd:
        muxd.ask("pair")
        eventually(lambda: all_ready(muxd), "both replicas are ready")
        eventually(lambda: muxd.ask("pair") and min(answered()), "the router knows both")
        assert {ask_with(f"key {number}") for number in range(12)} == {(0, 4), (4, 0)}


RANKS = f"""\
[defaults]
engine = "simulator"
probe_interval = "300ms"
simulation = {{ {QUICK} }}
[models.pair]
replicas = 2
gpus = [0, 1, 2, 3]
args = ["--dp-size", "2"]
router = {{ policy = "round_robin", args = ["--dp-aware"] }}
"""


@pytest.mark.thorough
def test_replicas_of_several_data_parallel_ranks_come_and_go_as_others_do(start: Callable[..., Muxd]):
    muxd = start(RANKS)
    text = muxd.ask("pair")
    eventually(lambda: all_ready(muxd), "both replicas are ready")
    eventually(
        lambda: muxd.ask("pair") == text and min(answered_by(muxd, "pair/0"), answered_by(muxd, "pair/1")),
        "both answer",
    )
    router = workers(muxd)["pair/router"]["pid"]
    for serving in (1, 2, 1):
        muxd.muxctl("scale", "pair", str(serving))
        assert {muxd.ask("pair") for _ in range(4)} == {text}
    eventually(lambda: workers(muxd)["pair/1"]["state"] == "asleep", "the one that is spare has left the router")
    assert {muxd.ask("pair") for _ in range(4)} == {text}
    muxd.muxctl("sleep", "pair")
    assert muxd.ask("pair") == text
    assert workers(muxd)["pair/router"]["pid"] == router
