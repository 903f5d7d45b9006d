"""muxd is killed while replicas, launch scripts, commands and routers of remote servers run: the next one has them all.

Each has its own test, as each leaves something else to the next muxd: whom a router passes requests to, a port and keys
that a script alone has said, steps of a sleep that left a server frozen, bridges of Unix sockets.
"""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from tests.seeds import thorough

from . import test_any_server, test_remote, test_replicas, test_scripts, test_sglang_router
from .muxd import Muxd, eventually
from .scripts import Scripts
from .test_adoption import STREAMS, Streams


def pids(muxd: Muxd) -> dict[str, int | None]:
    """The first process of every worker, of a group's each, and of the proxy."""
    status = muxd.status()
    found = {"proxy": status["proxy"]["pid"]}
    for model in status["models"]:
        found |= {each["name"]: each["pid"] for each in model.get("workers") or [model]}
    return found


def until_both_are_ready(muxd: Muxd) -> None:
    """The state file says so, too: who is not at rest by that is ended by the next muxd."""

    def are_ready() -> bool:
        are_recorded = all(record.is_at_rest for record in muxd.saved().workers.values())
        return are_recorded and all(worker["state"] == "ready" for worker in muxd.status("pair")["workers"])

    eventually(are_ready, "both replicas are ready, and on record")


def killed_and_started(muxd: Muxd) -> None:
    muxd.kill()
    began = time.monotonic()
    muxd.start_again()
    print(f"the next muxd answers {time.monotonic() - began:.2f} s after its exec")


@pytest.mark.parametrize("kind", [test_replicas, *thorough(test_sglang_router)], ids=["stand-in", "sglang-router"])
def test_replicas_and_their_router_serve_on_beside_a_sleeper(start: Callable[..., Muxd], kind: Any) -> None:
    muxd = start(kind.MODELS.replace("token_rate = 500", "token_rate = 25, batch_slots = 32"))
    texts = {name: muxd.ask(name) for name in ("solo", "pair")}
    until_both_are_ready(muxd)
    eventually(lambda: muxd.status("pair")["in_flight"] == 0, "at rest")
    before = pids(muxd)
    streams = Streams(muxd, "pair", STREAMS, 200)
    killed_and_started(muxd)
    assert pids(muxd) == before
    assert (muxd.state("pair"), muxd.state("solo")) == ("ready", "asleep")
    assert streams.join() == ["data: [DONE]"] * STREAMS
    assert [w["restarts"] for w in muxd.status("pair")["workers"]] == [0, 0, 0]
    for name in ("solo", "pair", "solo"):
        assert muxd.ask(name) == texts[name]
    killed_and_started(muxd)
    assert (muxd.state("pair"), muxd.state("solo")) == ("asleep", "ready")
    assert muxd.ask("pair") == texts["pair"]
    assert pids(muxd) == before


@pytest.mark.thorough
def test_a_replica_that_died_meanwhile_is_started_beside_the_others(start: Callable[..., Muxd]) -> None:
    muxd = start(test_replicas.MODELS)
    muxd.ask("pair")
    until_both_are_ready(muxd)
    before = pids(muxd)
    muxd.kill()
    os.kill(before["pair/0"] or 0, signal.SIGKILL)
    muxd.start_again()
    assert muxd.ask("pair")
    eventually(lambda: all(w["state"] == "ready" for w in muxd.status("pair")["workers"]), "it is back")
    after = pids(muxd)
    assert {name for name in before if after[name] != before[name]} == {"pair/0"}


@pytest.mark.thorough
def test_without_its_router_a_group_gets_another_and_keeps_its_workers(start: Callable[..., Muxd]) -> None:
    muxd = start(test_replicas.MODELS)
    muxd.ask("pair")
    until_both_are_ready(muxd)
    before = pids(muxd)
    muxd.kill()
    os.kill(before["pair/router"] or 0, signal.SIGKILL)
    muxd.start_again()
    assert muxd.ask("pair")
    after = pids(muxd)
    assert {name for name in before if after[name] != before[name]} == {"pair/router"}


@pytest.fixture
def start_scripts(tmp_path: Path) -> Iterator[Callable[..., Scripts]]:
    with ExitStack() as stack:
        yield lambda *words: stack.enter_context(Scripts(tmp_path, *words))


@pytest.mark.parametrize("shape", ["exec", *thorough("a trap")])
def test_servers_of_launch_scripts_are_controlled_as_before(
    start_scripts: Callable[..., Scripts], tmp_path: Path, shape: str
) -> None:
    muxd = test_scripts.once_loaded(start_scripts(*test_scripts.two(tmp_path, test_scripts.SHAPES[shape])))
    texts = {name: muxd.ask(name) for name in ("alpha", "beta")}
    before = pids(muxd)
    killed_and_started(muxd)
    assert pids(muxd) == before
    assert (muxd.state("alpha"), muxd.state("beta")) == ("asleep", "ready")
    for name in ("alpha", "beta"):
        assert muxd.ask(name) == texts[name]
    assert pids(muxd) == before


@pytest.mark.thorough
def test_a_script_that_was_changed_meanwhile_is_started_anew(
    start_scripts: Callable[..., Scripts], tmp_path: Path
) -> None:
    muxd = test_scripts.once_loaded(start_scripts(*test_scripts.two(tmp_path, test_scripts.SHAPES["exec"])))
    before = pids(muxd)
    muxd.kill()
    with (tmp_path / "alpha.sh").open("a") as script:
        script.write("# changed\n")
    muxd.start_again()
    assert muxd.ask("beta")
    after = pids(muxd)
    assert after["beta"] == before["beta"]
    assert before["alpha"] not in muxd.processes()


@pytest.mark.thorough
def test_commands_that_sleep_by_calls_or_frozen_are_woken_by_the_next_muxd(
    start: Callable[..., Muxd], tmp_path: Path
) -> None:
    muxd = start(test_any_server.models(tmp_path))
    texts = {name: muxd.ask(name) for name in test_any_server.NAMES}
    eventually(lambda: muxd.state("ends") == "ready", "the last one serves")
    before = pids(muxd)
    killed_and_started(muxd)
    assert pids(muxd) == before
    assert [muxd.state(name) for name in test_any_server.NAMES] == ["asleep", "asleep", "ready"]
    for name in test_any_server.NAMES[:2]:
        assert muxd.ask(name) == texts[name]
    after = pids(muxd)
    assert {name for name in before if after[name] != before[name]} == {"ends"}


@pytest.mark.thorough
def test_routers_of_remote_servers_go_on_with_their_bridges(start: Callable[..., Muxd], tmp_path: Path) -> None:
    with ExitStack() as stack:
        far = [stack.enter_context(closing(test_remote.Far(tmp_path, name))) for name in ("one", "two")]
        path = tmp_path / "far.sock"
        stack.enter_context(test_remote.unix_socket(path, far[1].port))
        urls = f'["{far[0].url}", "unix:{path}"]'
        muxd = start(test_remote.REMOTE.format(urls=urls, quick=test_remote.QUICK))
        text = muxd.ask("far")
        eventually(lambda: muxd.ask("far") and min(each.chats() for each in far), "both answer")
        before = pids(muxd)
        streams = Streams(muxd, "far", 4, 1000)
        killed_and_started(muxd)
        assert pids(muxd) == before
        assert streams.join() == ["data: [DONE]"] * 4
        chats = [each.chats() for each in far]
        eventually(
            lambda: muxd.ask("far") == text and all(each.chats() > was for each, was in zip(far, chats, strict=True)),
            "both answer still",
        )
        far[0].stop()
        eventually(lambda: muxd.ask("far") == text, "the other one has its requests, behind its bridge")
