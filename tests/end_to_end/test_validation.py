"""A model is validated over the whole of muxd: simulated servers, their memory, clients that wait."""

import json
import signal
import subprocess
import sys
import threading

import pytest

from muxd.saved_state import LearnedRecord

from .conftest import QUICK, two_models
from .muxd import eventually
from .test_depth import models

GiB = 1 << 10  # in MiB


def validated(muxd, model, **body):
    """Return the cycles of a validation, watched to its end, and its last line."""
    lines = [json.loads(line) for line in muxd.control("POST", f"/v1/models/{model}/validate", body).text.splitlines()]
    return [line for line in lines if line["type"] == "cycle"], lines[-1]


@pytest.mark.thorough
def test_every_level_passes_and_the_figures_are_those_of_the_server(start):
    muxd = start(models(alpha=(30, 10)))
    cycles, end = validated(muxd, "alpha", cycles=1)
    assert end["state"] == "ready"
    assert [(cycle["level"], cycle["passed"], cycle["identical"]) for cycle in cycles] == [
        (level, True, True) for level in (0, 2, 1, 3)
    ]
    kept = {cycle["level"]: cycle["gpu_mib"] for cycle in cycles}
    assert kept == {
        level: {"before": 41 * GiB, "asleep": asleep * GiB, "awake": 41 * GiB}
        for level, asleep in ((0, 31), (1, 1), (2, 1), (3, 0))
    }
    assert cycles[-1]["host_mib"]["asleep"] == 0
    assert all(cycle["host_mib"]["before"] > 10 and cycle["host_mib"]["awake"] > 10 for cycle in cycles)
    assert all(cycle[took] > 0 for cycle in cycles for took in ("sleep_s", "wake_s", "first_token_s"))
    found = [
        e for line in muxd.control("GET", "/v1/events?after=0&follow=0").text.splitlines() for e in [json.loads(line)]
    ]
    assert [e["level"] for e in found if e["type"] == "validated"] == [0, 2, 1, 3]
    assert "--enable-weights-cpu-backup" not in muxd.processes()[muxd.status("alpha")["pid"]], "it is as configured"


def test_a_level_that_gives_back_other_weights_fails_and_the_next_is_tried(start):
    muxd = start(two_models(alpha='faults = ["wake-wrong"]', levels=(2, 2)))
    cycles, _ = validated(muxd, "alpha", levels=[2, 3])
    assert [(c["level"], c["cycle"], c["passed"]) for c in cycles] == [(2, 1, False), (3, 1, True), (3, 2, True)]
    assert not cycles[0]["identical"]
    done = muxd.muxctl("validate", "alpha", "--levels", "2")
    assert (done.returncode, done.stderr) == (1, "muxctl: alpha failed at level 2\n")


@pytest.mark.thorough
def test_one_that_slept_and_wakes_without_a_proof_is_held_against_what_one_says_that_was_loaded(start):
    muxd = start(two_models(alpha='faults = ["wake-wrong"]', alpha_keys="wake_proof = false", levels=(2, 2)))
    muxd.ask("alpha")
    assert muxd.muxctl("sleep", "alpha").returncode == 0
    cycles, _ = validated(muxd, "alpha", levels=[2])
    assert [(c["passed"], c["identical"]) for c in cycles] == [(False, False)]


@pytest.mark.thorough
def test_levels_that_the_server_cannot_be_launched_for_fail_and_the_model_serves_on_as_configured(start):
    muxd = start(two_models(alpha='faults = ["lacks=memory-saver"]', levels=(3, 2)))
    text = muxd.ask("alpha")
    cycles, end = validated(muxd, "alpha", cycles=1)
    assert [(c["level"], c["passed"]) for c in cycles] == [(0, False), (1, False), (2, False), (3, True)]
    assert end["state"] == "ready"
    assert muxd.ask("alpha") == text


@pytest.mark.thorough
def test_clients_wait_and_are_answered_and_so_is_a_switch_to_another_model(start):
    muxd = start()
    text = muxd.ask("alpha")
    answers: dict[str, object] = {}

    def ask(model: str) -> None:
        answers[model] = muxd.ask(model)

    command = [sys.executable, "-m", "muxctl", "--socket", str(muxd.socket), "validate", "alpha", "--cycles", "3"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as going_on:
        assert going_on.stdout is not None
        assert going_on.stdout.readline().startswith("LEVEL")
        threads = [threading.Thread(target=ask, args=(model,)) for model in ("alpha", "beta")]
        for thread in threads:
            thread.start()
        eventually(lambda: muxd.status("alpha")["waiting"], "alpha's client waits")
        assert "is validated at level" in muxd.status("alpha")["next"]
        rows = going_on.stdout.read().splitlines()
        assert (going_on.wait(), rows[-1].startswith("alpha is ready after")) == (0, True)
    for thread in threads:
        thread.join()
    assert answers["alpha"] == text
    moves = [move for move in muxd.moves() if move[2] == "starting"]
    assert moves[-1][0] == "beta", "it came when the validation was over"


@pytest.mark.thorough
def test_who_ordered_it_goes_and_the_model_serves_as_configured(start):
    muxd = start(models(alpha=(30, 10)))
    text = muxd.ask("alpha")
    command = [sys.executable, "-m", "muxctl", "--socket", str(muxd.socket), "validate", "alpha", "--levels", "1"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as going_on:
        eventually(lambda: ("alpha", "unloaded", "starting") in muxd.moves()[3:], "it is launched for level 1")
        going_on.send_signal(signal.SIGINT)
        assert going_on.wait() == 130
    assert muxd.ask("alpha") == text
    assert "--enable-weights-cpu-backup" not in muxd.processes()[muxd.status("alpha")["pid"]]


@pytest.mark.thorough
def test_every_replica_is_validated(start):
    table = f"[models.pair]\nengine = 'simulator'\ngpus = [0, 1]\nreplicas = 2\nsimulation = {{ {QUICK} }}\n"
    muxd = start(table)
    cycles, end = validated(muxd, "pair", levels=[2, 3], cycles=1)
    assert end["state"] == "ready"
    assert [(c["worker"], c["level"], c["passed"]) for c in cycles] == [
        (f"pair/{number}", level, True) for level in (2, 3) for number in (0, 1)
    ]


def first_eta(muxd, model):
    """Return the seconds that an operator who switches is told at first."""
    return json.loads(muxd.control("POST", f"/v1/models/{model}/switch").text.splitlines()[0])["eta_s"]


@pytest.mark.thorough
def test_what_was_measured_outlasts_muxd_until_the_model_is_another_one(start):
    muxd = start(models(alpha=(30, 10)), daemon='on_crash = "stop"')
    (cycle,), _ = validated(muxd, "alpha", levels=[2], cycles=1)

    def learned():
        return muxd.saved().learned.get("alpha") or LearnedRecord(model="")

    eventually(lambda: "waking at 2" in learned().seconds, "it is in the state file")
    assert learned().seconds["waking at 2"] == cycle["wake_s"]
    assert learned().kept == {2: GiB << 20}
    muxd.kill()
    muxd.start_again()
    assert first_eta(muxd, "alpha") > 0
    muxd.stop()
    muxd.config.write_text(muxd.config.read_text().replace('kv = "10GiB', 'kv = "11GiB'))
    muxd.start_again()
    assert first_eta(muxd, "alpha") is None
