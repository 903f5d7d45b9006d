"""Models with `standby = true` over the whole of muxd, with real processes of the simulator."""

import os
import signal
from pathlib import Path

import pytest

from .conftest import QUICK
from .muxd import Muxd, eventually

MODELS = f"""\
[defaults]
engine = "simulator"
sleep_level = 3
standby = true
probe_timeout = "1s"
simulation = {{ {QUICK}, import_time = 1.0 }}
[models.alpha]
[models.beta]
"""


def until_at_gate(muxd: Muxd, *models: str) -> None:
    for model in models:
        eventually(lambda model=model: muxd.status(model)["next"] == "starts from its gate at its next request", model)


def policies(pids: list[int]) -> set[int]:
    """The CPU classes of all threads of these processes."""
    return {os.sched_getscheduler(int(tid)) for pid in pids for tid in os.listdir(f"/proc/{pid}/task")}


def tree(muxd: Muxd, model: str) -> list[int]:
    return list(muxd.worker(model).values())


def test_servers_wait_at_their_gates_in_the_background_and_start_from_there(start):
    muxd = start(MODELS)
    until_at_gate(muxd, "alpha", "beta")
    assert policies(tree(muxd, "alpha")) <= {os.SCHED_IDLE, os.SCHED_OTHER}
    assert Path(f"/proc/{muxd.status('alpha')['pid']}/oom_score_adj").read_text().strip() == "1000"
    waited = muxd.status("alpha")["pid"]
    text = muxd.ask("alpha")
    assert muxd.status("alpha")["pid"] == waited, "it is the process that waited"
    assert policies(tree(muxd, "alpha")) == {os.SCHED_OTHER}
    own = Path("/proc/self/oom_score_adj").read_text()
    assert Path(f"/proc/{waited}/oom_score_adj").read_text() == own
    muxd.ask("beta")
    until_at_gate(muxd, "alpha")
    assert muxd.ask("alpha") == text
    moves = [(before, after) for model, before, after in muxd.moves() if model == "alpha"]
    assert moves.count(("standby", "starting")) == 2
    assert "Gated launch waiting for activation" in muxd.muxctl("logs", "alpha").stdout


@pytest.mark.thorough
def test_the_next_muxd_finds_a_waiting_server_and_one_that_is_stopped_there_costs_its_probe_timeout(start):
    muxd = start(MODELS)
    until_at_gate(muxd, "alpha", "beta")
    waited = {model: muxd.status(model)["pid"] for model in ("alpha", "beta")}
    muxd.kill()
    muxd.start_again()
    until_at_gate(muxd, "alpha", "beta")
    assert {model: muxd.status(model)["pid"] for model in waited} == waited
    muxd.ask("alpha")
    assert muxd.status("alpha")["pid"] == waited["alpha"]
    for pid in tree(muxd, "beta"):
        os.kill(pid, signal.SIGSTOP)
    muxd.ask("beta")
    assert muxd.status("beta")["pid"] != waited["beta"]
    assert "its process at the gate did not go on: its gate did" in muxd.log


@pytest.mark.thorough
def test_an_operators_stop_ends_a_waiting_server_and_so_does_a_reload_of_its_flags(start):
    muxd = start(MODELS)
    until_at_gate(muxd, "alpha", "beta")
    assert muxd.muxctl("stop", "beta").returncode == 0
    assert muxd.status("beta")["pid"] is None
    before = muxd.status("alpha")["pid"]
    muxd.config.write_text(muxd.config.read_text().replace("import_time = 1.0", "import_time = 0.5"))
    assert muxd.muxctl("reload").returncode == 0
    eventually(lambda: muxd.status("alpha")["pid"] not in (None, before), "another process waits")
    until_at_gate(muxd, "alpha")
