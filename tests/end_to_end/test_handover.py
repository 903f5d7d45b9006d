"""muxd is upgraded, or ends alone: its models and their clients' streams go on, and nothing is started again."""

import os
import re
import signal
import subprocess
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from muxd import left_behind
from tests.seeds import thorough

from .conftest import two_models
from .muxd import Muxd, chat_body, eventually
from .test_adoption import STREAMS, Streams, pids


@pytest.fixture
def muxd(start: Callable[..., Muxd]) -> Muxd:
    """Alpha is ready, beta sleeps at level 2."""
    muxd = start(two_models(alpha="batch_slots = 32").replace("token_rate = 500", "token_rate = 25"))
    muxd.ask("beta")
    muxd.ask("alpha")
    eventually(lambda: (muxd.state("alpha"), muxd.state("beta")) == ("ready", "asleep"), "alpha serves, beta sleeps")
    return muxd


def test_an_upgrade_keeps_the_pid_every_process_and_every_stream_and_refuses_nobody(muxd: Muxd) -> None:
    before, answers, over = pids(muxd), [], threading.Event()
    streams = Streams(muxd, "alpha", STREAMS, 400)

    def ask_for_status() -> None:
        while not over.is_set():
            with httpx.Client(transport=httpx.HTTPTransport(uds=str(muxd.socket)), timeout=30) as control:
                answers.append(_status_of(control))

    asking = threading.Thread(target=ask_for_status)
    asking.start()
    for _ in range(2):
        said = muxd.muxctl("upgrade")
        assert said.returncode == 0, said.stderr
        assert said.stdout.startswith(f"muxd (pid {muxd.process.pid}) is ")
        assert pids(muxd) == before
    over.set()
    asking.join(30)
    assert set(answers) <= {200, None}, "answered, or cut off by the end of the former muxd; never refused"
    assert streams.join() == ["data: [DONE]"] * STREAMS
    assert muxd.ask("beta")
    assert muxd.ask("alpha")
    assert pids(muxd) == before
    assert muxd.process.poll() is None


def _status_of(control: httpx.Client) -> int | None:
    try:
        return control.get("http://muxd/v1/version").status_code
    except (httpx.ReadError, httpx.RemoteProtocolError, httpx.WriteError):
        return None  # it was connected to the muxd that has just ended


@pytest.mark.thorough
def test_an_upgrade_waits_for_what_loads_and_requests_wait_for_the_next_muxd(start: Callable[..., Muxd]) -> None:
    muxd = start(two_models(alpha='faults = ["load-time=2"]'))
    texts: list[str] = []
    asking = [threading.Thread(target=lambda n=name: texts.append(muxd.ask(n))) for name in ("alpha", "beta")]
    asking[0].start()
    muxd.until_state("alpha", "starting")
    asking[1].start()
    eventually(lambda: muxd.status("beta")["waiting"] == 1, "beta is waited for")
    said = muxd.muxctl("upgrade")
    assert said.returncode == 0, said.stderr
    assert muxd.status("alpha")["restarts"] == 0
    for each in asking:
        each.join(30)
    assert len(texts) == 2
    starts = muxd.log.count("alpha: unloaded -> starting")
    assert starts == 1, "it was not started again"


def upgraded_under(muxd: Muxd, number: signal.Signals) -> subprocess.CompletedProcess[str]:
    """Upgrade, and send the signal once the former muxd is gone and the next one has not begun."""
    with ThreadPoolExecutor(1) as other:
        said = other.submit(muxd.muxctl, "upgrade")
        environment = Path(f"/proc/{muxd.process.pid}/environ")
        eventually(lambda: b"MUXD_LOCKS" in environment.read_bytes(), "it is executed anew")
        muxd.process.send_signal(number)
        return said.result()


@pytest.mark.thorough
def test_a_reload_in_the_middle_of_an_upgrade_is_done_by_the_next_muxd(muxd: Muxd) -> None:
    before = pids(muxd)
    said = upgraded_under(muxd, signal.SIGHUP)
    assert said.returncode == 0, said.stderr
    eventually(lambda: "the configuration was read again" in muxd.log, "it is read again")
    assert pids(muxd) == before


def test_a_stop_in_the_middle_of_an_upgrade_is_done_by_the_next_muxd(muxd: Muxd) -> None:
    upgraded_under(muxd, signal.SIGTERM)
    assert muxd.process.wait(30) == 0, muxd.log
    assert not muxd.left_behind()


@pytest.mark.thorough
def test_a_muxd_that_would_not_start_is_not_gone_to(muxd: Muxd) -> None:
    before, version = pids(muxd), muxd.control("GET", "/v1/version").json()
    good = muxd.config.read_text()
    muxd.config.write_text(good + "\n[nonsense]\n")
    said = muxd.muxctl("upgrade")
    assert said.returncode == 1
    assert "the muxd that is installed now would not start" in said.stderr
    assert "nonsense" in said.stderr
    muxd.config.write_text(good)
    assert pids(muxd) == before
    assert abs(muxd.control("GET", "/v1/version").json()["started"] - version["started"]) < 0.05
    assert muxd.ask("beta")


@pytest.mark.parametrize("place", ["state", *thorough("muxd.sock")])
def test_an_upgrade_to_where_it_would_not_find_what_runs_is_refused(muxd: Muxd, place: str) -> None:
    """It would start every model a second time beside the first."""
    before = pids(muxd)
    muxd.config.write_text(muxd.config.read_text().replace(f'/{place}"', f'/other-{place}"'))
    said = muxd.muxctl("upgrade")
    assert said.returncode == 1
    assert "state_dir and socket cannot be changed by an upgrade" in said.stderr
    assert pids(muxd) == before
    assert muxd.ask("beta")


@pytest.mark.thorough
def test_it_ends_alone_and_the_next_one_takes_over_what_served_on(muxd: Muxd) -> None:
    before = pids(muxd)
    streams = Streams(muxd, "alpha", 8, 150)
    said = muxd.muxctl("shutdown", "--leave-workers")
    assert (said.returncode, said.stdout) == (0, "muxd has stopped; models and proxy run on: muxd start\n")
    assert muxd.process.wait(30) == 0
    assert not muxd.socket.exists()
    assert muxd.post("/v1/chat/completions", chat_body("alpha", "hello")).status_code == 200, "without a muxd"
    muxd.start_again()
    assert pids(muxd) == before
    assert streams.join() == ["data: [DONE]"] * 8
    assert muxd.ask("beta")
    assert pids(muxd) == before


@pytest.mark.parametrize("order", ["shutdown --leave-workers", *thorough("upgrade")])
def test_where_a_crash_would_stop_everything_a_handover_does_not(start: Callable[..., Muxd], order: str) -> None:
    muxd = start(two_models(), daemon='on_crash = "stop"')
    muxd.ask("alpha")
    before = pids(muxd)
    assert muxd.muxctl(*order.split()).returncode == 0
    if order != "upgrade":
        assert muxd.process.wait(30) == 0
        muxd.start_again()
    assert pids(muxd) == before
    muxd.kill()
    muxd.start_again()
    assert not {pid for pid in before.values() if pid} & muxd.processes().keys(), "what followed was a crash"


@pytest.mark.thorough
def test_with_another_state_dir_muxd_says_what_was_left_and_how_that_is_ended(muxd: Muxd) -> None:
    before, folder = set(pids(muxd).values()), muxd.folder / "state"
    assert folder not in left_behind._left_elsewhere(), "this muxd lives"
    assert muxd.muxctl("shutdown", "--leave-workers").returncode == 0
    assert muxd.process.wait(30) == 0
    muxd.config.write_text(muxd.config.read_text().replace('/state"', '/other-state"'))
    muxd.start_again()
    warning = rf"WARNING.* still run, .*state_dir, {re.escape(str(folder))}:.*; kill ([0-9 ]+) ends them"
    told = eventually(lambda: re.search(warning, muxd.log), "it is told")
    assert all(re.search(rf"{name} \(pid [0-9]+\)", told[0]) for name in ("alpha", "beta", "proxy"))
    for pid in told[1].split():
        os.kill(int(pid), signal.SIGTERM)
    eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in before), "what was left has ended")
    eventually(lambda: muxd.status()["proxy"]["pid"] not in (None, *before), "muxd has a proxy of its own")
    assert muxd.ask("alpha")
    assert muxd.ask("beta")


@pytest.mark.thorough
def test_a_worker_that_ends_after_an_upgrade_is_reaped_and_started_again(muxd: Muxd) -> None:
    assert muxd.muxctl("upgrade").returncode == 0
    before = pids(muxd)
    muxd.control("POST", "/v1/models/alpha/restart")
    muxd.ask("alpha")
    assert pids(muxd)["alpha"] != before["alpha"]

    def zombies() -> list[str]:
        found = [path.read_text() for path in Path("/proc").glob("[0-9]*/stat") if path.exists()]
        return [stat for stat in found if f" Z {muxd.process.pid} " in stat]

    eventually(lambda: not zombies(), "no zombie is left of it")


@pytest.mark.thorough
def test_an_upgrade_to_another_proxy_refuses_nobody_and_cuts_no_stream(muxd: Muxd) -> None:
    """Its settings differ here, as its version would: new processes serve while the old ones finish."""
    before, over, said = pids(muxd), threading.Event(), []
    streams = Streams(muxd, "alpha", 8, 200)

    def ask_on() -> None:
        with httpx.Client(timeout=30, trust_env=False) as client:
            while not over.wait(0.05):
                headers = {"connection": "close"}  # each has a connection of its own
                answer = client.post(f"{muxd.url}/v1/chat/completions", json=chat_body("alpha", "x"), headers=headers)
                said.append(answer.status_code)

    asking = threading.Thread(target=ask_on)
    asking.start()
    muxd.config.write_text(muxd.config.read_text().replace("[proxy]", '[proxy]\ndrain_timeout = "50s"'))
    assert muxd.muxctl("upgrade").returncode == 0
    assert streams.join() == ["data: [DONE]"] * 8
    eventually(lambda: before["proxy"] not in muxd.processes(), "the former proxy is gone")
    asked = len(said)
    eventually(lambda: len(said) > asked + 3, "the new one serves")
    over.set()
    asking.join(30)
    assert set(said) == {200}
    after = pids(muxd)
    assert after["proxy"] not in (None, before["proxy"])
    assert {name: pid for name, pid in after.items() if name != "proxy"} == {
        name: pid for name, pid in before.items() if name != "proxy"
    }
    assert muxd.muxctl("upgrade").returncode == 0
    assert pids(muxd) == after, "it goes on by its other name"


@pytest.mark.thorough
def test_streams_of_replaced_proxies_go_on_over_further_upgrades_and_a_kill(muxd: Muxd) -> None:
    """Two former proxies have streams at the same time, beside the one that serves."""
    muxd.config.write_text(muxd.config.read_text().replace('shutdown_timeout = "5s"', 'shutdown_timeout = "60s"'))
    _replace_proxy(muxd, "[proxy]", '[proxy]\ndrain_timeout = "49s"')  # from now on that is the time to finish
    eventually(lambda: not muxd.saved().outgoing, "the one that would finish within 5 s is gone, and takes nobody")
    streams = []
    for former, setting in (('"49s"', '"50s"'), ('"50s"', '"51s"')):
        streams.append(Streams(muxd, "alpha", 2, 300))
        _replace_proxy(muxd, former, setting)
    assert len(muxd.saved().outgoing) >= 2
    muxd.kill()
    muxd.start_again()
    assert [each.join() for each in streams] == [["data: [DONE]"] * 2] * 2
    eventually(lambda: not muxd.saved().outgoing, "and then the former ones are gone")
    assert muxd.ask("beta")


def _replace_proxy(muxd: Muxd, old: str, new: str) -> None:
    """Change a setting of the proxy, and upgrade."""
    before = pids(muxd)["proxy"]
    muxd.config.write_text(muxd.config.read_text().replace(old, new, 1))
    assert muxd.muxctl("upgrade").returncode == 0
    eventually(lambda: pids(muxd)["proxy"] not in (None, before), "there is another one")
