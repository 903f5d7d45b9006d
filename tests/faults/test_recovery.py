"""How long it takes until it serves again, and that no request is lost meanwhile: rows 1 to 4, 6, 8, 21, 24, 25, 27.

Nothing here depends on how long it takes: bench/recovery.py writes that into docs/reliability.md.
"""

import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.end_to_end.conftest import QUICK, two_models
from tests.end_to_end.muxd import Muxd, eventually
from tests.ports import free_port

from .load import Load, Recovery, engine_load
from .oracles import open_files
from .test_shortages import files_of

TIMES = int(os.environ.get("MUXD_RECOVERY_TIMES") or 2)

#: Seconds, in place of 60, that a model waits which has failed too often.
COOL_DOWN = 3

MODELS = two_models(alpha_keys='restart_limit = 999\nstable_after = "0s"\nhang_timeout = "2s"')


def main_process(muxd: Muxd) -> float:
    return killed(muxd.worker("alpha")["main_process"])


def scheduler(muxd: Muxd) -> float:
    return killed(muxd.worker("alpha")["scheduler"])


def killed(pid: int, number: signal.Signals = signal.SIGKILL) -> float:
    """When that was."""
    os.kill(pid, number)
    return time.monotonic()


def stopped(muxd: Muxd) -> float:
    return killed(muxd.worker("alpha")["main_process"], signal.SIGSTOP)


def no_descriptors(muxd: Muxd) -> float:
    """The fault is over, and what is measured begins, when there are descriptors again."""
    with files_of(muxd.process.pid, open_files(muxd.process.pid) + 1):
        main_process = muxd.status("alpha")["pid"]
        os.kill(main_process, signal.SIGKILL)
        eventually(lambda: main_process not in muxd.processes(), "it is gone")
    return time.monotonic()


LOST_WORKERS = [
    pytest.param(1, "a worker's main process is killed", "", main_process, id="1"),
    pytest.param(2, "one of its other processes is killed", "", scheduler, id="2"),
    pytest.param(
        3, "and a descendant has a session of its own", 'faults = ["setsid-grandchild"]', main_process, id="3"
    ),
    pytest.param(4, "a main process is stopped (probes every 0.3 s, at most 1 s each)", "", stopped, id="4"),
    pytest.param(27, "there was no descriptor when a main process was killed", "", no_descriptors, id="27"),
]


@pytest.mark.parametrize(("row", "fault", "simulation", "break_it"), LOST_WORKERS)
def test_when_a_worker_is_lost_every_request_is_answered_or_told(
    start: Callable[..., Muxd],
    row: int,
    fault: str,
    simulation: str,
    break_it: Callable[[Muxd], float],
) -> None:
    models = MODELS.replace(QUICK, f"{QUICK}, {simulation}" if simulation else QUICK)
    muxd = start(models, deadline=90)
    muxd.ask("alpha")
    took, loads = [], []
    with Load(muxd.url, "alpha") as load:
        for _ in range(TIMES):
            load.until_answered(time.monotonic())
            tree = eventually(
                lambda: "scheduler" in (tree := muxd.worker("alpha")) and tree, "all its processes are there"
            )
            at = break_it(muxd)
            loads.append(engine_load(muxd, tree["main_process"]))
            took.append(load.until_answered(at))
    told = load.told("")
    Recovery(row, fault, took, loads, len(load.asked), len(told), len(load.lost())).record()
    assert load.lost() == []
    assert {each.end for each in told} <= {"told worker_died", "told worker_unresponsive", "told worker_crashed"}


def test_once_its_port_is_free_a_model_serves_again(start: Callable[..., Muxd]) -> None:
    port = free_port()
    muxd = start(two_models(alpha_keys=f"port = {port}"))
    took, loads = [], []
    with Load(muxd.url, "alpha") as load:
        for _ in range(TIMES):
            load.until_answered(time.monotonic())
            former = muxd.status("alpha")["pid"]
            muxd.control("POST", "/v1/models/alpha/stop")
            with socket.create_server(("127.0.0.1", port)):
                muxd.control("POST", "/v1/models/alpha/start")
                muxd.until_state("alpha", "failed")
                told = len(load.told("port_taken"))
                eventually(lambda told=told: len(load.told("port_taken")) > told, "somebody is told")
            at = time.monotonic()
            loads.append(engine_load(muxd, former))
            took.append(load.until_answered(at))
    told = load.told("")
    Recovery(6, "its port was taken, and is free", took, loads, len(load.asked), len(told), len(load.lost())).record()
    assert load.lost() == []
    assert {each.end for each in told} <= {"told port_taken", "told model_stopped"}


def test_once_a_start_can_succeed_again_a_failed_model_serves(start: Callable[..., Muxd], tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    keys = f'restart_limit = 2\ncool_down = "{COOL_DOWN}s"'
    muxd = start(two_models(alpha=f'faults = ["die-while-loading=0,while={broken}"]', alpha_keys=keys))
    took, loads = [], []
    with Load(muxd.url, "alpha") as load:
        for _ in range(TIMES):
            load.until_answered(time.monotonic())
            broken.touch()
            former = muxd.status("alpha")["pid"]
            os.kill(former, signal.SIGKILL)
            muxd.until_state("alpha", "failed")
            broken.unlink()
            at = time.monotonic()
            loads.append(engine_load(muxd, former))
            took.append(load.until_answered(at))
    fault = f"no start succeeded, and each would again (cool_down = {COOL_DOWN} s)"
    Recovery(8, fault, took, loads, len(load.asked), len(load.told("")), len(load.lost())).record()
    assert load.lost() == []


def test_when_the_proxy_is_killed_only_what_it_had_in_hand_is_lost(start: Callable[..., Muxd]) -> None:
    muxd = start(MODELS)
    muxd.ask("alpha")
    took, deaths = [], []
    with Load(muxd.url, "alpha") as load:
        for _ in range(TIMES):
            load.until_answered(time.monotonic())
            proxy = eventually(lambda: muxd.status()["proxy"]["pid"], "there is a proxy")
            deaths.append(killed(proxy))
            took.append(load.until_answered(deaths[-1]))
            eventually(lambda proxy=proxy: muxd.status()["proxy"]["pid"] not in (None, proxy), "there is another")
            eventually(lambda: muxd.status("alpha")["leases"] == 1, "which has the lease")
            muxd.kill()
            muxd.start_again()  # for which the next death is the first one: there is no back-off yet
    in_hand = [each for each in load.lost() if any(each.began <= death <= each.ended for death in deaths)]
    lost = [each for each in load.lost() if each not in in_hand]
    told = load.told("")
    asked = len(load.asked)
    Recovery(24, "the proxy is killed", took, [0] * TIMES, asked, len(told), len(lost), len(in_hand)).record()
    assert lost == []
    assert told == []


@pytest.mark.parametrize("managed", [True, False], ids=["21", "25"])
def test_when_muxd_is_killed_and_comes_again_every_request_is_answered(
    start: Callable[..., Muxd], managed: bool
) -> None:
    """From the exec of the next muxd until a model that sleeps is being switched to: what needs muxd."""
    muxd = start(MODELS, proxy="" if managed else "managed = false")
    proxy = None if managed else muxd.start_proxy()
    try:
        muxd.ask("beta")
        muxd.ask("alpha")
        before, took = muxd.status("alpha")["pid"], []
        with Load(muxd.url, "alpha") as load:
            for _ in range(TIMES):
                load.until_answered(time.monotonic())
                muxd.kill()
                load.until_answered(time.monotonic())
                began = time.monotonic()
                muxd.start_again()
                eventually(lambda: muxd.health()["muxd"] == "connected", "the proxy has muxd again")
                took.append(time.monotonic() - began)
                eventually(lambda: muxd.status("alpha")["leases"] == 1, "and its lease")
        assert muxd.status("alpha")["pid"] == before
        fault = "muxd is killed, and started again" if managed else "and the proxy is a service of its own"
        Recovery(21 if managed else 25, fault, took, [0] * TIMES, len(load.asked), 0, len(load.lost())).record()
        assert {each.end for each in load.asked} == {"answered"}
    finally:
        if proxy is not None:
            proxy.terminate()
            proxy.wait()
