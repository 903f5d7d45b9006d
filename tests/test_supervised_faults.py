"""What breaks is repaired: faults of servers, of their sleep and wake and of GPU memory, on a pretend host.

Whoever waits is served all the same or told why not, nobody comes to a GPU that another still has, and a failure costs
what it must and no more.
"""

import logging
import socket
from math import inf
from signal import SIGKILL

import pytest
import trio
import trio.testing
from prometheus_client.parser import text_string_to_metric_families

from muxd.children import Dropped, ExitRecord
from muxd.config import Memory
from muxd.core.events import Verb
from muxd.core.worker import PORT_RETRY

from .fakes import GiB, a_model
from .one_supervisor import OneSupervisor, assert_never_two_awake, one_supervisor, two_models, type_of

OOM = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 GiB.\n"


def starts(moves: list[tuple[str, str, str]], name: str) -> int:
    return sum((model, after) == (name, "starting") for model, _, after in moves)


# Deaths


async def test_a_worker_that_dies_is_started_again_though_nobody_asks(autojump_clock, tmp_path, caplog):
    async with two_models(tmp_path) as muxd:
        await muxd.switch("a")
        muxd.host.server("a").child.end(ExitRecord(signal=SIGKILL))
        await muxd.next_move("a", "ready")
        status = muxd.status("a")
        assert (status["restarts"], status["last_exit"]["reason"]) == (1, "killed by SIGKILL")
        assert "a: ready -> backoff (killed by SIGKILL)" in caplog.text


async def test_a_lease_of_a_dead_worker_is_taken_at_once_and_the_next_is_granted(autojump_clock, tmp_path):
    async with two_models(tmp_path) as muxd:
        muxd.host.servers["a"].lag = 5.0
        holder = muxd.wants("a")
        await holder.told("granted")
        holder.reports(1)
        died = trio.current_time()
        muxd.host.server("a").child.end(ExitRecord(signal=SIGKILL))
        revoked = await holder.told("revoked")
        assert (revoked.reason, revoked.deadline_s) == ("worker_exited", 0.0)
        assert trio.current_time() == died, "not only when its memory is back"
        assert await muxd.serves("a")


async def test_a_death_while_it_loads_is_answered_by_the_next_worker(autojump_clock, tmp_path):
    async with two_models(tmp_path) as muxd:
        waiting = muxd.wants("a")
        await muxd.until("a", "starting")
        await trio.sleep(0.5)
        muxd.host.server("a").child.end(ExitRecord(signal=SIGKILL))
        assert type_of(await waiting.told("granted", "failed")) == "granted"
        assert muxd.status("a")["restarts"] == 1


async def test_a_model_that_dies_at_every_start_is_failed_with_its_last_words(autojump_clock, tmp_path):
    async with two_models(tmp_path, restart_limit=3) as muxd:
        muxd.host.servers["a"].dies_after, muxd.host.servers["a"].last_words = 0.5, OOM
        refused = await muxd.wants("a").told("failed")
        assert refused.error.code == "out_of_memory"
        assert refused.retry_after_s > 0
        status = muxd.status("a")
        assert (status["state"], status["last_exit"]["code"]) == ("failed", "out_of_memory")
        assert status["last_exit"]["log_tail"][-1] == OOM.strip()
        assert starts(await muxd.moves(), "a") == 3
        assert await muxd.serves("b"), "the other model is not harmed"


async def test_while_its_port_is_taken_nothing_is_started_and_once_it_is_free_the_model_comes(autojump_clock, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        async with two_models(tmp_path, port=port, cool_down=3600.0) as muxd:
            refused = await muxd.wants("a").told("failed")
            assert refused.error.code == "port_taken"
            assert f"port {port} cannot be used" in refused.error.message
            assert refused.error.message.endswith("tried again once its port is free")
            assert refused.retry_after_s <= PORT_RETRY
            await trio.sleep(60)
            assert starts(await muxd.moves(), "a") == 1
            other.close()
            await muxd.until("a", "ready")
            assert starts(await muxd.moves(), "a") == 2


async def test_what_no_restart_mends_is_not_tried_again_but_for_an_operator(autojump_clock, tmp_path):
    async with two_models(tmp_path, restart_limit=2, cool_down=3600.0) as muxd:
        muxd.host.servers["a"].dies_after = 0.5
        await muxd.wants("a").told("failed")
        muxd.host.servers["a"].dies_after = inf
        await trio.sleep(60)
        assert starts(await muxd.moves(), "a") == 2
        assert (await muxd.switch("a"))["type"] == "ready"


async def test_a_start_that_takes_too_long_is_counted_as_a_failure(autojump_clock, tmp_path):
    async with two_models(tmp_path, start_timeout=9.0, restart_limit=2) as muxd:
        muxd.host.servers["a"].load_time = 1000
        refused = await muxd.wants("a").told("failed")
        assert refused.error.code == "start_timeout"
        assert starts(await muxd.moves(), "a") == 2


@pytest.mark.parametrize("fault", ["hang", "no step"])
async def test_a_worker_that_stops_answering_is_killed_and_started_again(autojump_clock, tmp_path, fault):
    async with two_models(tmp_path, probe_timeout=2.0, hang_timeout=60.0) as muxd:
        holder = muxd.wants("a")
        await holder.told("granted")
        holder.reports(1)
        behaviour = muxd.host.servers["a"]
        behaviour.faults, behaviour.steps = ({"/v1/loads": "hang"}, True) if fault == "hang" else ({}, False)
        assert (await holder.told("revoked")).reason == "worker_unresponsive"
        behaviour.faults, behaviour.steps = {}, True
        assert await muxd.serves("a")
        moves = await muxd.moves()
        assert ("a", "ready", "unresponsive") in moves
        assert muxd.status("a")["restarts"] == 1


# Sleep and wake


@pytest.mark.parametrize("fault", ["hang", "break", "die", (500, "no"), (404, "")], ids=str)
async def test_a_sleep_that_fails_ends_the_process_and_the_switch_goes_on(autojump_clock, tmp_path, fault):
    async with two_models(tmp_path) as muxd:
        await muxd.serves("a")
        muxd.host.servers["a"].faults["release"] = fault
        await muxd.serves("b")
        assert muxd.states() == {"a": "unloaded", "b": "ready"}
        assert muxd.status("a")["sleep_trouble"].startswith("its sleep failed: ")
        muxd.host.servers["a"].faults.clear()
        await muxd.serves("a")
        assert_never_two_awake(await muxd.moves())


async def test_a_sleep_that_gives_nothing_up_is_a_failed_one(autojump_clock, tmp_path):
    async with two_models(tmp_path) as muxd:
        await muxd.serves("a")
        behaviour = muxd.host.servers["a"]
        behaviour.asleep, behaviour.info = behaviour.awake, {"enable_memory_saver": False}
        await muxd.serves("b")
        assert "started without --enable-memory-saver" in muxd.status("a")["sleep_trouble"]
        assert muxd.host.server("b").started > muxd.host.server("a").child.ends_at, "it came to free memory"


@pytest.mark.parametrize("call", ["resume", "reload", "continue"])
@pytest.mark.parametrize("fault", ["hang", "break", "die", (500, "no")], ids=str)
async def test_a_wake_in_doubt_is_killed_and_started_again_and_the_request_is_answered(
    autojump_clock, tmp_path, call, fault
):
    async with two_models(tmp_path, sleep_level=2) as muxd:
        for name in ("a", "b"):
            await muxd.serves(name)
        before = muxd.status("a")["pid"]
        muxd.host.servers["a"].faults[call] = fault
        assert await muxd.serves("a")
        assert muxd.status("a")["pid"] != before
        assert "its wake failed: " in muxd.status("a")["last_exit"]["reason"]
        assert_never_two_awake(await muxd.moves())


async def test_after_two_wakes_that_fail_it_sleeps_at_level_3(autojump_clock, tmp_path):
    async with two_models(tmp_path, sleep_level=2) as muxd:
        refusal = '{"success": false, "message": "no weight_loader"}'
        muxd.host.servers["a"].faults["reload"] = (400, refusal)
        await muxd.serves("a")
        for _ in range(2):
            assert muxd.status("a")["sleep_level"] == 2
            await muxd.serves("b")
            await muxd.serves("a")
            last = muxd.status("a")["last_exit"]
            assert (last["code"], "no weight_loader" in last["reason"]) == ("reload_refused", True)
        assert muxd.status("a")["sleep_level"] == 3
        await muxd.serves("b")
        assert muxd.states()["a"] == "unloaded"
        await muxd.serves("a")


@pytest.mark.parametrize(("level", "is_left"), [(1, "asleep"), (2, "asleep"), (3, "unloaded")])
async def test_the_next_one_comes_when_memory_is_really_free(autojump_clock, tmp_path, level, is_left):
    async with two_models(tmp_path, sleep_level=level) as muxd:
        muxd.host.servers["a"].lag = muxd.host.servers["b"].lag = 3.0
        for name in ("a", "b", "a", "b"):
            await muxd.serves(name)
        assert muxd.states() == {"a": is_left, "b": "ready"}
        assert [muxd.status(name)["restarts"] for name in ("a", "b")] == [0, 0], "a wake into full memory is a crash"
        assert_never_two_awake(await muxd.moves())


async def test_a_client_that_leaves_during_a_switch_does_not_stop_it(autojump_clock, tmp_path):
    async with two_models(tmp_path) as muxd:
        await muxd.serves("a")
        muxd.host.servers["b"].load_time = 100
        leaves = muxd.wants("b")
        await muxd.until("b", "starting")
        leaves.close()
        await muxd.until("b", "ready")
        assert muxd.states() == {"a": "asleep", "b": "ready"}


# Ends that do not come


async def test_what_survives_sigkill_is_named_and_so_is_who_waits_for_its_gpu(autojump_clock, tmp_path, caplog):
    async with one_supervisor(tmp_path, a_model("a"), a_model("b"), stuck=True) as muxd:
        await muxd.serves("a")
        muxd.host.servers["a"].kill_time = 10_000
        muxd.host.servers["a"].faults["release"] = "break"
        refused = await muxd.wants("b").told("failed")
        assert refused.error.code == "worker_stuck"
        assert muxd.supervisor.stuck == ["a"]
        await trio.testing.wait_all_tasks_blocked()  # whoever waits is told first
        assert [r.levelno for r in caplog.records if "a: stopping -> stuck" in r.message] == [logging.ERROR]


async def test_a_stuck_worker_that_ends_after_all_gives_its_gpu_back(autojump_clock, tmp_path):
    async with two_models(tmp_path) as muxd:
        await muxd.serves("a")
        muxd.host.servers["a"].kill_time = 60
        muxd.host.servers["a"].faults["release"] = "break"
        assert (await muxd.wants("b").told("failed")).error.code == "worker_stuck"
        await muxd.until("a", "unloaded")
        assert await muxd.serves("b")


async def test_a_shutdown_waits_for_requests_and_a_second_one_does_not(autojump_clock, tmp_path):
    async with two_models(tmp_path) as muxd:
        busy = muxd.wants("a")
        await busy.told("granted")
        busy.reports(1)
        muxd.supervisor.shutdown()
        muxd.supervisor.shutdown()  # once more says nothing new
        assert (await busy.told("revoked")).deadline_s == 30.0
        await trio.sleep(3)
        assert muxd.states()["a"] == "draining"
        began = trio.current_time()
        muxd.supervisor.shutdown(hurry=True)
        await muxd.supervisor.finished.wait()
        assert trio.current_time() - began < 5


async def test_a_shutdown_during_a_load_ends_it(autojump_clock, tmp_path):
    async with two_models(tmp_path) as muxd:
        muxd.host.servers["a"].load_time = 1000
        waiting = muxd.wants("a")
        await muxd.until("a", "starting")
        muxd.supervisor.shutdown()
        assert (await waiting.told("failed")).error.code == "shutting_down"
        await muxd.supervisor.finished.wait()


# Several awake


async def test_who_fits_is_loaded_beside_the_others_and_for_one_that_does_not_one_leaves(autojump_clock, tmp_path):
    sizes = {"large": 40, "middle": 30, "small": 30}
    models = [
        a_model(name, memory=Memory(weights=(size - 12) * GiB, kv=12 * GiB), gpu_release_timeout=10.0)
        for name, size in sizes.items()
    ]
    async with one_supervisor(tmp_path, *models) as muxd:
        for name, size in sizes.items():
            muxd.host.servers[name].awake = size * GiB
            await muxd.serves(name)
        states = muxd.states()
        assert sorted(states.values()) == ["asleep", "ready", "ready"], states
        assert states["small"] == "ready"
        for name in sizes:
            await muxd.serves(name)
        assert [muxd.status(name)["restarts"] for name in sizes] == [0, 0, 0]


# What is told of it


class Scrape:
    """One page, as Prometheus reads it."""

    def __init__(self, page: bytes) -> None:
        self.samples = [s for f in text_string_to_metric_families(page.decode()) for s in f.samples]

    def __call__(self, name: str, **labels: str) -> list[float]:
        return [s.value for s in self.samples if s.name == name and labels.items() <= s.labels.items()]


async def scrape(muxd: OneSupervisor) -> Scrape:
    return Scrape(await muxd.service.metrics())


async def test_a_switch_there_and_back_is_counted_with_the_time_of_each_part(autojump_clock, tmp_path):
    async with two_models(tmp_path, sleep_level=2) as muxd:
        assert (await scrape(muxd))("muxd_switches_total") == []
        muxd.host.servers["a"].lag, muxd.host.servers["b"].load_time = 3.0, 20.0
        for name in ("a", "b", "a"):
            await muxd.switch(name)
        page = await scrape(muxd)
        there = {"from": "a", "to": "b", "level": "2"}
        assert page("muxd_switches_total", **there) == [1]
        assert page("muxd_switches_total", **{"from": "b", "to": "a"}) == [1]
        seconds = {part: page("muxd_switch_seconds_sum", part=part, **there)[0] for part in ("sleep", "free", "wake")}
        assert 0 < seconds["sleep"] < 1
        assert 3 <= seconds["free"] < 4
        assert 20 <= seconds["wake"] < 21


async def test_each_worker_is_in_one_state_with_its_memory_and_restarts(autojump_clock, tmp_path):
    async with two_models(tmp_path) as muxd:
        for name in ("a", "b"):
            await muxd.switch(name)
        muxd.host.server("b").child.end(ExitRecord(status=1))
        await muxd.next_move("b", "ready")
        page = await scrape(muxd)
        assert page("muxd_worker_state", model="a", state="asleep") == [1]
        assert sum(page("muxd_worker_state", model="a")) == sum(page("muxd_worker_state", model="b")) == 1
        assert page("muxd_worker_memory_bytes", model="a", kind="asleep") == [2 * GiB]
        assert page("muxd_worker_memory_bytes", model="b", kind="awake") == [50 * GiB]
        assert page("muxd_worker_restarts_total", model="b") == [1]
        assert page("muxd_gpu_memory_bytes", gpu="0", kind="used") == [52 * GiB]


async def test_an_engine_that_does_not_answer_is_left_out_and_one_that_sleeps_is_not_asked(autojump_clock, tmp_path):
    async with one_supervisor(tmp_path, a_model("a"), a_model("b"), a_model("c", gpus=("1",))) as muxd:
        for name in ("a", "b", "c"):
            await muxd.switch(name)
        muxd.host.servers["b"].faults["/metrics"] = "hang"
        page = await scrape(muxd)
        assert len(page("sglang:num_requests_total")) == 1
        assert page("muxd_engine_scrape_failures_total", model="b") == [1]
        assert page("muxd_engine_scrape_failures_total", model="c") == [0]
        assert "/metrics" not in muxd.host.server("a").asked
        muxd.host.servers["b"].faults.clear()
        assert len((await scrape(muxd))("sglang:num_requests_total")) == 2


async def test_output_that_the_disk_refuses_is_told_from_its_begin_to_its_end(autojump_clock, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    async with two_models(tmp_path) as muxd:
        await muxd.switch("a")
        muxd.host.servers["a"].dropped = Dropped(100, "No space left on device", True)
        await trio.sleep(5)
        assert muxd.status("a")["dropped_log_now"]
        assert "a: its log in" in caplog.text
        muxd.host.servers["a"].dropped = Dropped(300, "No space left on device", False)
        await trio.sleep(5)
        assert 3 < muxd.status("a")["dropped_log_ago_s"] <= 5
        assert "a: its log is written again; 300 bytes were lost so far" in caplog.text
        assert muxd.service.log_of("a")[1] == {"bytes": 300, "reason": "No space left on device"}


async def test_an_operators_order_is_in_the_journal_with_the_moves_that_follow(autojump_clock, tmp_path):
    async with two_models(tmp_path) as muxd:
        await muxd.order("a", Verb.START)
        events = [event async for event in muxd.service.events(0, follow=False)]
        told = [(event["type"], event.get("order") or event.get("to")) for event in events]
        assert told == [
            ("muxd_started", None),
            ("operator", "start"),
            ("state", "starting"),
            ("switch", "a"),
            ("state", "ready"),
        ]
