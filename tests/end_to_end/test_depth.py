"""Sleep levels over the whole of muxd: level 0 leaves weights on the GPU, until another one needs their room."""

import os
import signal

import pytest

from .conftest import QUICK
from .muxd import eventually
from .test_orders import order

GiB = 1 << 30

MODEL = """\
[models.{name}]
engine = "simulator"
sleep_level = 0
memory = {{ weights = "{weights}GiB", kv = "{kv}GiB", overhead = "1GiB" }}
simulation = {{ {quick} }}
"""


def models(**sizes: tuple[int, int]) -> str:
    """Return a configuration of simulated models at level 0, by name: GiB of weights and of KV cache."""
    return "".join(
        MODEL.format(name=name, weights=weights, kv=kv, quick=QUICK) for name, (weights, kv) in sizes.items()
    )


def levels(muxd) -> dict[str, int | None]:
    return {name: muxd.status(name)["level"] for name in ("alpha", "beta")}


@pytest.mark.thorough
def test_two_whose_weights_fit_share_the_room_of_their_caches_in_turn(start):
    muxd = start(models(alpha=(20, 40), beta=(15, 40)))
    texts = {name: muxd.ask(name) for name in ("alpha", "beta")}
    assert levels(muxd) == {"alpha": 0, "beta": None}
    assert muxd.status("alpha")["memory"]["asleep"] == 21 * GiB
    for name in ("alpha", "beta", "alpha"):
        assert muxd.ask(name) == texts[name]
    assert levels(muxd) == {"alpha": None, "beta": 0}
    assert muxd.status("alpha")["generation"] == 3
    counted = [line for line in muxd.control("GET", "/metrics").text.splitlines() if "muxd_switches_total{" in line]
    assert 'muxd_switches_total{from="alpha",level="0",to="beta"} 2.0' in counted


@pytest.mark.thorough
def test_a_sleeper_whose_weights_are_in_the_way_goes_deeper_and_answers_right_from_there(start):
    muxd = start(models(alpha=(30, 10), beta=(40, 30)))
    texts = {"alpha": muxd.ask("alpha")}
    assert order(muxd, "alpha", "sleep")["state"] == "asleep"
    assert levels(muxd) == {"alpha": 0, "beta": None}
    texts["beta"] = muxd.ask("beta")
    assert levels(muxd) == {"alpha": 2, "beta": None}
    assert "alpha: asleep -> falling_asleep (the memory that alpha keeps asleep goes to beta)" in muxd.log
    assert {name: muxd.ask(name) for name in texts} == texts


@pytest.mark.thorough
def test_an_operator_puts_a_sleeper_deeper_step_by_step_and_never_back(start):
    muxd = start(models(alpha=(30, 10)))
    text = muxd.ask("alpha")
    for level, kept in ((0, 31), (0, 31), (2, 1)):
        assert order(muxd, "alpha", "sleep", level=level)["state"] == "asleep"
        assert (muxd.status("alpha")["level"], muxd.status("alpha")["memory"]["asleep"]) == (level, kept * GiB)
    refused = order(muxd, "alpha", "sleep", level=0)
    assert refused["error"]["code"] == "level_refused"
    assert muxd.ask("alpha") == text
    assert order(muxd, "alpha", "sleep", level=0)["state"] == "asleep"
    assert order(muxd, "alpha", "sleep", level=3)["state"] == "unloaded"
    assert muxd.ask("alpha") == text


@pytest.mark.thorough
def test_a_sleeper_at_level_0_that_is_killed_gives_its_weights_back_before_another_one_comes(start):
    muxd = start(models(alpha=(30, 10), beta=(60, 15)))
    muxd.ask("alpha")
    order(muxd, "alpha", "sleep", level=0)
    os.kill(muxd.worker("alpha")["scheduler"], signal.SIGKILL)
    assert muxd.ask("beta")
    eventually(lambda: muxd.state("alpha") == "unloaded", "it stays down until it is asked for")
    assert not [line for line in muxd.log.splitlines() if "out_of_memory" in line]


LEVEL_1 = """\
[defaults]
engine = "simulator"
sleep_level = 1
memory = { weights = "30GiB", kv = "40GiB", overhead = "1GiB" }
"""


def test_of_three_at_level_1_the_third_sleeps_at_2_where_host_ram_has_room_for_two_and_says_why(start):
    names = ("alpha", "beta", "gamma")
    tables = (f"[models.{name}]\nsimulation = {{ {QUICK} }}\n" for name in names)
    muxd = start(LEVEL_1 + "".join(tables), daemon='host_memory = "70GiB"')
    texts = {name: muxd.ask(name) for name in names}
    order(muxd, "gamma", "sleep")
    assert [muxd.status(name)["level"] for name in names] == [1, 1, 2]
    why = "sleeps at 2: host RAM has 10.0 of 30.0 GiB"
    assert [muxd.status(name)["sleep_trouble"] for name in names] == [None, None, why]
    assert f"gamma: unloaded -> starting ({why})" in muxd.log
    told = muxd.control("GET", "/v1/status").json()["host_memory"]
    assert told == {"for_weights": 70 * GiB, "weights": 60 * GiB, "standby": 0}
    assert f'"reason":"{why}"' in muxd.control("GET", "/v1/events?after=0&follow=0").text
    assert "--enable-weights-cpu-backup" in muxd.processes()[muxd.status("beta")["pid"]]
    assert "--enable-weights-cpu-backup" not in muxd.processes()[muxd.status("gamma")["pid"]]
    assert {name: muxd.ask(name) for name in names} == texts
