"""Wakes after which a simulated model answers otherwise than when it was loaded: no client ever sees such an answer."""

import json
from collections.abc import Callable

import pytest

from tests.seeds import seeds, thorough

from .conftest import two_models
from .muxd import Muxd, assert_never_two_awake

WRONG = '"wake-wrong"'


def faulty(fault: str = WRONG, levels: tuple[int, int] = (1, 2), keys: str = "") -> str:
    """Alpha wakes wrong, by the fault; beta is well."""
    return two_models(alpha=f"faults = [{fault}]", levels=levels, alpha_keys=keys)


def codes(muxd: Muxd, model: str) -> list[str]:
    """The causes that the journal has of a model's moves, in order."""
    lines = muxd._control.get("/v1/events?after=0&follow=0").text.splitlines()
    return [each["code"] for each in map(json.loads, lines) if each.get("model") == model and "code" in each]


@pytest.mark.parametrize(("level", "instead"), [(2, 1), *thorough((1, 3), (0, 3))])
def test_no_client_gets_a_wrong_answer_and_after_two_wrong_wakes_it_sleeps_otherwise(
    start: Callable[..., Muxd], level: int, instead: int
) -> None:
    muxd = start(faulty(levels=(level, 2)))
    loaded = muxd.ask("alpha")
    assert loaded.startswith("org/alpha")
    for wrong in (1, 2):
        assert muxd.muxctl("sleep", "alpha", "--level", str(level)).returncode == 0
        assert muxd.ask("alpha") == loaded
        status = muxd.status("alpha")
        assert status["last_exit"]["code"] == "woke_wrong"
        assert f"its wake from level {level} was wrong: it does not answer" in status["last_exit"]["reason"]
        assert codes(muxd, "alpha").count("woke_wrong") == 2 * wrong, "stopping, and backoff"
        assert f'muxd_worker_woke_wrong_total{{model="alpha"}} {wrong}.0' in muxd.get("/metrics").text
    status = muxd.status("alpha")
    said = f"sleeps at {instead}: 2 wakes in a row from level {level} were wrong"
    assert (status["sleep_level"], said in status["sleep_trouble"]) == (instead, True)
    assert said in muxd.muxctl("status").stdout
    muxd.muxctl("sleep", "alpha")
    assert muxd.state("alpha") == ("asleep" if instead < 3 else "unloaded")
    assert muxd.ask("alpha") == loaded


@pytest.mark.thorough
def test_a_single_wrong_wake_costs_one_cold_start(start: Callable[..., Muxd], tmp_path) -> None:
    muxd = start(faulty(f'"wake-wrong,once={tmp_path}/marker"'))
    text = muxd.ask("alpha")
    for _ in range(3):
        muxd.ask("beta")
        assert muxd.ask("alpha") == text
    assert muxd.status("alpha")["sleep_level"] == 1
    assert codes(muxd, "alpha") == ["woke_wrong", "woke_wrong"]
    assert_never_two_awake(muxd.moves())


@pytest.mark.thorough
def test_without_the_proof_a_wrong_wake_is_served(start: Callable[..., Muxd]) -> None:
    muxd = start(faulty(keys="wake_proof = false"))
    text = muxd.ask("alpha")
    muxd.muxctl("sleep", "alpha")
    assert muxd.ask("alpha") != text
    assert codes(muxd, "alpha") == []


@pytest.mark.thorough
def test_fifty_wakes_of_each_are_believed_and_counted_for_nobody(start: Callable[..., Muxd]) -> None:
    """No false alarm, and no request, token or lease of a proof's in what is told of clients; see tests/seeds."""
    wakes = len(seeds(0, 50))
    muxd = start(two_models())
    texts = {model: muxd.ask(model) for model in ("alpha", "beta")}
    for _ in range(wakes):
        for model, text in texts.items():
            assert muxd.ask(model) == text
    moves = muxd.moves()
    assert sum((before, after) == ("waking", "ready") for _, before, after in moves) == 2 * wakes
    assert "stopping" not in {after for _, _, after in moves}
    page = muxd.get("/metrics").text
    counts = [line.rpartition(" ")[2] for line in page.splitlines() if line.startswith("muxd_requests_total{")]
    assert sorted(counts) == [f"{wakes + 1}.0"] * 2
    assert all(muxd.status(model)["sleep_trouble"] is None for model in texts)
    assert muxd.health()["muxd"] == "connected"
