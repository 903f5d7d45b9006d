"""muxd is upgraded, or ends alone: its models and their clients' streams go on, and nothing is started again."""

import threading
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from .conftest import two_models
from .muxd import Muxd, chat_body, eventually
from .test_adoption import STREAMS, Streams, pids


@pytest.fixture
def muxd(start: Callable[..., Muxd]) -> Muxd:
    """Alpha is ready, beta sleeps at level 2."""
    muxd = start(two_models())
    muxd.ask("beta")
    muxd.ask("alpha")
    eventually(lambda: (muxd.state("alpha"), muxd.state("beta")) == ("ready", "asleep"), "alpha serves, beta sleeps")
    return muxd


def test_an_upgrade_keeps_the_pid_every_process_and_every_stream_and_refuses_nobody(muxd: Muxd) -> None:
    before, answers, over = pids(muxd), [], threading.Event()
    streams = Streams(muxd, "alpha", STREAMS, 4000)

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


def test_it_ends_alone_and_the_next_one_takes_over_what_served_on(muxd: Muxd) -> None:
    before = pids(muxd)
    streams = Streams(muxd, "alpha", 8, 3000)
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
