"""muxd is killed while models serve and sleep: the next one takes them over, and nobody notices."""

import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from zlib import crc32

import httpx
import pytest

from .conftest import two_models
from .muxd import Muxd, chat_body, eventually

STREAMS = 32


class Streams:
    """So many streamed chats at once, each in a thread; `texts` are their last lines but one."""

    def __init__(self, muxd: Muxd, model: str, count: int, tokens: int) -> None:
        self._muxd = muxd
        self.ends: list[str] = []
        self.begun = threading.Semaphore(0)
        args = (model, tokens)
        self._threads = [threading.Thread(target=self._one, args=args, daemon=True) for _ in range(count)]
        for thread in self._threads:
            thread.start()
        for _ in range(count):
            assert self.begun.acquire(timeout=30)

    def _one(self, model: str, tokens: int) -> None:
        body = chat_body(model, "hello", stream=True, max_tokens=tokens, ignore_eos=True)
        end = "nothing"
        url = f"{self._muxd.url}/v1/chat/completions"
        with suppress(httpx.HTTPError), httpx.stream("POST", url, json=body, timeout=60, trust_env=False) as answer:
            for line in answer.iter_lines():
                if end == "nothing":
                    self.begun.release()
                end = line or end
        self.ends.append(end)

    def join(self) -> list[str]:
        for thread in self._threads:
            thread.join(60)
        return self.ends


@pytest.fixture
def muxd(start: Callable[..., Muxd]) -> Iterator[Muxd]:
    """Alpha is ready, beta sleeps at level 2; both make 25 tokens a second."""
    muxd = start(two_models(alpha="batch_slots = 32").replace("token_rate = 500", "token_rate = 25"))
    muxd.ask("beta")
    muxd.ask("alpha")
    eventually(lambda: (muxd.state("alpha"), muxd.state("beta")) == ("ready", "asleep"), "alpha serves, beta sleeps")
    return muxd


def pids(muxd: Muxd) -> dict[str, int]:
    status = muxd.status()
    return {"proxy": status["proxy"]["pid"]} | {model["name"]: model["pid"] for model in status["models"]}


def test_every_stream_goes_on_and_nothing_is_started_again(muxd: Muxd) -> None:
    before = pids(muxd)
    streams = Streams(muxd, "alpha", STREAMS, 300)
    muxd.kill()
    began = time.monotonic()
    muxd.start_again()
    print(f"up {time.monotonic() - began:.2f} s after its exec")
    assert pids(muxd) == before
    assert (muxd.state("alpha"), muxd.state("beta")) == ("ready", "asleep")
    eventually(lambda: muxd.status("alpha")["leases"] == 2, "the proxy has re-claimed its lease within the grace")
    assert muxd.status("alpha")["in_flight"] > 1
    assert streams.join() == ["data: [DONE]"] * STREAMS
    eventually(lambda: muxd.status("alpha")["in_flight"] == 0, "and told that they are over")
    assert [muxd.status(name)["restarts"] for name in ("alpha", "beta")] == [0, 0]


@pytest.mark.thorough
def test_models_that_were_taken_over_switch_as_before(muxd: Muxd) -> None:
    before = pids(muxd)
    texts = {name: muxd.ask(name) for name in ("beta", "alpha")}
    muxd.kill()
    muxd.start_again()
    for name in ("beta", "alpha", "beta"):
        assert muxd.ask(name) == texts[name]
    assert pids(muxd) == before
    assert (muxd.state("alpha"), muxd.state("beta")) == ("asleep", "ready")


@pytest.mark.thorough
def test_muxd_is_killed_again_and_again(muxd: Muxd) -> None:
    before = pids(muxd)
    streams = Streams(muxd, "alpha", 4, 150)
    for _ in range(3):
        muxd.kill()
        muxd.start_again()
    assert streams.join() == ["data: [DONE]"] * 4
    assert pids(muxd) == before


@pytest.mark.thorough
def test_muxd_is_killed_while_it_starts(muxd: Muxd) -> None:
    """At some moments of its first second; a busy machine makes them earlier ones."""
    before = pids(muxd)
    streams = Streams(muxd, "alpha", 4, 300)
    muxd.kill()
    for moment in (0.05, 0.15, 0.25, 0.35, 0.5, 0.7):
        muxd.process = muxd._run("start")
        with pytest.raises(subprocess.TimeoutExpired):
            muxd.process.wait(moment)
        muxd.kill()
    muxd.start_again()
    assert pids(muxd) == before
    assert_nothing_is_doubled(muxd, before)
    assert streams.join() == ["data: [DONE]"] * 4
    assert muxd.ask("beta")


@pytest.mark.thorough
def test_a_switch_waits_for_streams_that_began_under_an_earlier_muxd(muxd: Muxd) -> None:
    streams = Streams(muxd, "alpha", 2, 150)
    muxd.kill()
    muxd.start_again()
    assert muxd.switch("beta")["type"] == "ready"
    assert streams.join() == ["data: [DONE]"] * 2


@pytest.mark.thorough
def test_what_was_on_its_way_is_ended_and_what_was_not_is_kept(start: Callable[..., Muxd]) -> None:
    muxd = start(two_models(alpha='faults = ["hang-on=release"]'))
    muxd.ask("alpha")
    before = pids(muxd)
    with ThreadPoolExecutor(1) as other:
        other.submit(muxd.ask, "beta")  # a request waits for the next muxd, but not for long
        written_ahead(muxd)
        muxd.kill()
        muxd.start_again()
        assert "did not see the end of its call 'release'" in muxd.log
        assert before["alpha"] not in muxd.processes()
        assert pids(muxd)["proxy"] == before["proxy"]
        assert muxd.ask("beta")


def written_ahead(muxd: Muxd) -> None:
    eventually(lambda: muxd.saved().workers["alpha"].call == "release", "written ahead")


def test_a_changed_configuration_restarts_only_what_changed(muxd: Muxd) -> None:
    before = pids(muxd)
    muxd.kill()
    changed = muxd.config.read_text().replace('weights = "40GiB"', 'weights = "41GiB"')
    muxd.config.write_text(changed)
    muxd.start_again()
    assert "beta is not taken over from an earlier muxd: its configuration has changed" in muxd.log
    after = pids(muxd)
    assert after == {**before, "beta": None}
    assert before["beta"] not in muxd.processes()
    assert muxd.ask("beta")


@pytest.mark.thorough
def test_one_that_died_meanwhile_is_started_anew(muxd: Muxd) -> None:
    before, tree = pids(muxd), muxd.worker("alpha")
    muxd.kill()
    for pid in tree.values():
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    eventually(lambda: not set(tree.values()) & muxd.processes().keys(), "it is gone")
    muxd.start_again()
    assert muxd.ask("alpha")
    assert pids(muxd)["alpha"] != before["alpha"]


@pytest.mark.thorough
def test_one_that_does_not_answer_is_ended(muxd: Muxd) -> None:
    before = pids(muxd)
    muxd.kill()
    os.kill(before["alpha"], signal.SIGSTOP)
    muxd.start_again()
    assert "alpha was left running by an earlier muxd, and is not as that one left it: ended" in muxd.log
    assert before["alpha"] not in muxd.processes()
    assert muxd.ask("alpha")


@pytest.mark.thorough
def test_with_on_crash_stop_nothing_is_taken_over(start: Callable[..., Muxd]) -> None:
    muxd = start(two_models(), daemon='on_crash = "stop"')
    muxd.ask("alpha")
    before = pids(muxd)
    muxd.kill()
    muxd.start_again()
    assert not {pid for pid in before.values() if pid} & muxd.processes().keys()
    assert muxd.ask("alpha")


# Damaged records


def damaged(muxd: Muxd, change: Callable[[list[bytes]], list[bytes]]) -> None:
    """Kill muxd, change the lines of its state file, and start it again."""
    muxd.kill()
    path = muxd.folder / "state" / "state.json"
    path.write_bytes(b"".join(change(path.read_bytes().splitlines(keepends=True))))
    muxd.start_again()


def assert_nothing_is_doubled(muxd: Muxd, before: dict[str, int]) -> None:
    """Whoever runs is the one that muxd has."""
    after = pids(muxd)
    gone = {pid for name, pid in before.items() if pid and pid != after[name]}
    assert not gone & muxd.processes().keys()
    servers = {os.getsid(pid) for pid, line in muxd.processes().items() if "-m muxd.simulator --" in line}
    assert servers == {pid for name in ("alpha", "beta") if (pid := after[name])}


@pytest.mark.thorough
@pytest.mark.parametrize("hit", [0.1, 0.5, 0.99])
def test_of_a_damaged_record_only_that_worker_is_ended(muxd: Muxd, hit: float) -> None:
    before = pids(muxd)

    def change(lines: list[bytes]) -> list[bytes]:
        (number,) = (number for number, line in enumerate(lines) if b'"workers","beta"' in line)
        line = bytearray(lines[number])
        line[int(hit * len(line))] ^= 0x80  # not UTF-8 any more
        return [*lines[:number], bytes(line), *lines[number + 1 :]]

    damaged(muxd, change)
    assert "records are damaged or missing): put aside as state.unreadable" in muxd.log
    assert pids(muxd) == {**before, "beta": None}
    assert_nothing_is_doubled(muxd, before)
    assert muxd.ask("beta")
    assert muxd.ask("alpha")
    assert pids(muxd)["alpha"] == before["alpha"]


@pytest.mark.thorough
@pytest.mark.parametrize("left", [0.3, 0.0, 0.7], ids=["a third", "nothing", "two thirds"])
def test_of_a_file_that_was_cut_the_rest_is_taken_over_and_nothing_is_doubled(muxd: Muxd, left: float) -> None:
    before = pids(muxd)

    def cut(lines: list[bytes]) -> list[bytes]:
        whole = b"".join(lines)
        return [whole[: int(left * len(whole))]]

    damaged(muxd, cut)
    assert "put aside as state.unreadable" in muxd.log
    assert_nothing_is_doubled(muxd, before)
    for name in ("alpha", "beta"):
        assert muxd.ask(name)


@pytest.mark.thorough
@pytest.mark.parametrize("how", ["SIGKILL", "upgrade"])
def test_where_its_state_was_removed_whole_what_ran_is_ended_and_nothing_is_doubled(muxd: Muxd, how: str) -> None:
    before = pids(muxd)
    if how == "SIGKILL":
        muxd.kill()
    shutil.rmtree(muxd.folder / "state")
    if how == "SIGKILL":
        muxd.start_again()
    else:
        assert muxd.muxctl("upgrade").returncode == 0
    assert muxd.log.count("which no record names was left running by an earlier muxd: ended") >= len(before)
    assert_nothing_is_doubled(muxd, before)
    assert not {pid for pid in before.values() if pid} & muxd.processes().keys()
    for name in ("alpha", "beta"):
        assert muxd.ask(name)


@pytest.mark.thorough
def test_what_a_later_muxd_wrote_is_put_aside_and_all_that_runs_is_ended(muxd: Muxd) -> None:
    before = pids(muxd)
    damaged(muxd, lambda lines: [later_form(lines[0]), *lines[1:]])
    assert "it is of form 3, and this muxd reads 1 and 2" in muxd.log
    assert_nothing_is_doubled(muxd, before)
    assert not {pid for pid in before.values() if pid} & muxd.processes().keys()
    assert muxd.ask("alpha")


def later_form(line: bytes) -> bytes:
    text = line.rstrip()[9:].replace(b",2,", b",3,")
    return b"%08x %b\n" % (crc32(text), text)


@pytest.mark.thorough
def test_one_that_keeps_dying_gets_no_new_beginning_and_a_stopped_one_stays_stopped(
    start: Callable[..., Muxd],
) -> None:
    muxd = start(two_models(alpha='faults = ["die-while-loading"]', alpha_keys="restart_limit = 2"))
    assert muxd.control("POST", "/v1/models/beta/stop").status_code == 200
    assert muxd.post("/v1/chat/completions", chat_body("alpha", "hello")).status_code == 503
    assert muxd.state("alpha") == "failed"
    reason, restarts = muxd.status("alpha")["reason"], muxd.status("alpha")["restarts"]
    muxd.kill()
    muxd.start_again()
    assert (muxd.state("alpha"), muxd.state("beta")) == ("failed", "stopped")
    assert (muxd.status("alpha")["reason"], muxd.status("alpha")["restarts"]) == (reason, restarts)
    assert muxd.post("/v1/chat/completions", chat_body("alpha", "hello")).status_code == 503
    assert muxd.status("alpha")["restarts"] == restarts, "nothing was started"
    muxd.stop()
    muxd.start_again()
    assert muxd.state("alpha") == "unloaded", "after a stop in order all begins anew"
