"""Several models awake on one GPU: whoever fits is loaded beside the others, and for one that does not, one leaves."""

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from .conftest import QUICK
from .muxd import Muxd, chat_body, eventually

HEAD = """\
[defaults]
engine = "simulator"
sleep_level = 1
"""

MODEL = """\
[models.{name}]
memory = {{ weights = "{weights}GiB", kv = "{kv}GiB", overhead = "1GiB" }}
simulation = {{ {quick} }}
"""


def models(**sizes: tuple[int, int]) -> str:
    """Return a configuration of simulated models, by name: GiB of weights and of KV cache."""
    return HEAD + "".join(
        MODEL.format(name=name, weights=weights, kv=kv, quick=QUICK) for name, (weights, kv) in sizes.items()
    )


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Muxd]:
    """A muxd of three models for tests that need none of them to be loaded, or not to be."""
    with Muxd(tmp_path_factory.mktemp("three"), THREE) as muxd:
        yield muxd


THREE = models(large=(28, 11), middle=(18, 11), small=(18, 11))  # 40, 30 and 30 GiB of 80


def states(muxd) -> dict[str, str]:
    return {name: muxd.status(name)["state"] for name in ("large", "middle", "small")}


def test_two_that_fit_together_are_both_awake_and_a_third_takes_the_place_of_one(three):
    muxd = three
    texts = {name: muxd.ask(name) for name in ("large", "middle")}
    before = states(muxd)
    assert (before["large"], before["middle"]) == ("ready", "ready")
    assert before["small"] in ("unloaded", "asleep")
    texts["small"] = muxd.ask("small")
    after = states(muxd)
    assert after["small"] == "ready"
    assert sorted(after.values()) == ["asleep", "ready", "ready"], "exactly one left"
    (left,) = (name for name, state in after.items() if state == "asleep")
    assert f"{left}: ready -> draining ({left} gives way to small)" in muxd.log
    assert {name: muxd.ask(name) for name in texts} == texts, "right answers after every wake"


@contextmanager
def stranger(muxd, gib: int) -> Iterator[int]:
    """A process that is not muxd's and holds so much of GPU 0; its pid."""
    ledger = str(muxd.folder / "state/simulated-gpus.json")
    argv = [sys.executable, "-m", "muxd.simulator.stranger", "--ledger", ledger, "--memory", str(gib << 30)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith(b"holds ")
        yield process.pid
        process.kill()


@pytest.mark.thorough
def test_what_a_stranger_holds_is_named_and_kept_clear_of_until_it_leaves(start):
    muxd = start(models(large=(28, 11), huge=(58, 11)))
    muxd.ask("large")
    with stranger(muxd, 30) as pid:
        eventually(lambda: muxd.status()["gpus"][0]["strangers"], "it is seen")
        (gpu,) = muxd.status()["gpus"]
        (process,) = gpu["strangers"]["processes"]
        assert (process["pid"], process["bytes"], gpu["for_models"]) == (pid, 30 << 30, 50 << 30)
        refused = muxd.post("/v1/chat/completions", chat_body("huge", "hello"))
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "gpu_memory_taken")
        assert f"(pid {pid}), not muxd's" in refused.json()["error"]["message"]
        assert int(refused.headers["retry-after"]) == 30
        assert muxd.status("large")["state"] == "ready", "nobody leaves in vain"
        assert muxd.ask("large")
    eventually(lambda: not muxd.status()["gpus"][0]["strangers"], "it has left")
    assert muxd.ask("huge")


@pytest.mark.thorough
def test_models_that_any_gpu_will_do_for_are_spread_and_shown_where_they_are(start):
    text = models(large=(28, 11), huge=(58, 11), small=(18, 11)) + 'gpus = "auto:2"\n'  # of the last table
    text = text.replace('engine = "simulator"\n', 'engine = "simulator"\ngpus = "auto"\n')
    muxd = start(text, daemon="simulated_gpus = 2")
    assert [muxd.status(name)["gpus"] for name in ("large", "huge", "small")] == [[], [], []]
    assert "any 2" in muxd.muxctl("status").stdout
    for name in ("large", "huge"):
        muxd.ask(name)
    assert [muxd.status(name)["gpus"] for name in ("large", "huge")] == [[0], [1]], "nobody left for anybody"
    assert [gpu["used"] >> 30 for gpu in muxd.status()["gpus"]] == [40, 70], "each where muxd says"
    muxd.ask("small")  # 15 GiB on both: huge has to leave neither
    assert muxd.status("small")["gpus"] == [0, 1]
    assert [gpu["used"] >> 30 for gpu in muxd.status()["gpus"]] == [55, 16]
    assert {name: muxd.status(name)["state"] for name in ("large", "huge")} == {"large": "ready", "huge": "asleep"}


@pytest.mark.thorough
def test_a_reload_takes_another_budget_over(start):
    muxd = start(models(large=(28, 11), small=(18, 11)))
    for name in ("large", "small"):
        muxd.ask(name)
    muxd.config.write_text(muxd.config.read_text() + '[gpus]\nmemory = { 0 = "50GiB" }\nreserve = "1GiB"\n')
    assert muxd.muxctl("reload").returncode == 0
    eventually(lambda: muxd.status()["gpus"][0]["for_models"] == 50 << 30, "it holds")
    assert {muxd.status(name)["state"] for name in ("large", "small")} == {"ready"}, "nobody is driven out"
    muxd.switch("large")
    muxd.muxctl("sleep", "small")
    muxd.ask("small")
    assert muxd.status("large")["state"] == "asleep"


def test_a_stream_of_one_that_stays_is_not_disturbed_by_a_switch_beside_it(three):
    muxd = three
    muxd.ask("middle")
    muxd.ask("large")
    undisturbed = muxd.ask("large", max_tokens=200, stream=True)
    with ThreadPoolExecutor(1) as client:
        stream = client.submit(muxd.ask, "large", max_tokens=200, stream=True)
        eventually(lambda: muxd.status("large")["in_flight"] == 1, "it runs")
        muxd.ask("small")
        assert stream.result() == undisturbed
    assert states(muxd) == {"large": "ready", "middle": "asleep", "small": "ready"}


def test_who_does_not_fit_beside_a_pinned_model_is_told_so_at_once(start):
    muxd = start(models(large=(28, 11), middle=(38, 11)))
    muxd.config.write_text(muxd.config.read_text().replace("[models.large]", "[models.large]\npinned = true"))
    assert muxd.control("POST", "/v1/reload").json()["plan"][0]["action"] == "update"
    muxd.ask("large")
    refused = muxd.post("/v1/chat/completions", chat_body("middle", "hi"))
    error = refused.json()["error"]
    assert (refused.status_code, error["code"]) == (503, "pinned_in_the_way")
    assert "large is pinned, and middle does not fit beside it; `muxctl stop large` makes room" in error["message"]
    assert (muxd.state("large"), muxd.state("middle")) == ("ready", "unloaded")


@pytest.mark.thorough
def test_models_without_sizes_that_were_measured_to_fit_wake_beside_each_other(start):
    """Each is loaded alone, as nobody knows what it takes; once it has served and slept, muxd knows."""
    tables = (
        f'[models.{name}]\nmemory = {{ weights = "{size}GiB" }}\nsimulation = {{ {QUICK} }}\n'
        for name, size in (("large", 40), ("middle", 30), ("small", 20))
    )
    muxd = start(HEAD + "".join(tables))
    texts = {name: muxd.ask(name) for name in ("large", "middle", "small")}
    assert states(muxd) == {"large": "asleep", "middle": "asleep", "small": "ready"}
    assert muxd.ask("middle") == texts["middle"]
    assert states(muxd) == {"large": "asleep", "middle": "ready", "small": "asleep"}
    assert muxd.ask("large") == texts["large"]
    assert states(muxd) == {"large": "ready", "middle": "ready", "small": "asleep"}
    assert muxd.ask("small") == texts["small"]
    assert sorted(states(muxd).values()) == ["asleep", "ready", "ready"]
