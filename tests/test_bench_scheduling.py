"""What bench.scheduling rests on: runs follow from their seeds, no request is lost, and nobody beats the optimum."""

import random
import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest

from bench.scheduling import goals, pages
from bench.scheduling.goals import HOSTS
from bench.scheduling.optimum import least_mean_wait
from bench.scheduling.workloads import WORKLOADS, balanced, crashes, small
from bench.scheduling.world import DRAIN_TIMEOUT, End, Request, Workload, World


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("workload", WORKLOADS)
def test_every_request_ends_once_and_none_begins_before_it_came(workload, host):
    load = workload(150.0, random.Random(1))
    run = World(load, HOSTS[host](), 2.0).run()
    count = len(load.requests) + sum(len(session.turns) for session in load.sessions)
    assert len(run.requests) == count > 0
    assert all(request.end is not None for request in run.requests)
    assert all(request.wait >= 0 for request in run.requests)
    assert all(request.started is not None for request in run.requests if request.end is End.SERVED)


@pytest.mark.parametrize("host", HOSTS)
def test_a_run_is_a_function_of_its_seed(host):
    def waits(seed: int) -> list[float]:
        return World(balanced(150.0, random.Random(seed)), HOSTS[host](), 8.0).run().all_waits

    assert waits(1) == waits(1)
    assert len(waits(1)) != len(waits(2))


@pytest.mark.parametrize("cost", [0.2, 8.0])
@pytest.mark.parametrize("seed", range(6))
def test_nobody_waits_less_than_under_the_optimum(seed, cost):
    load = small(2 + seed % 2, 9, 40.0, random.Random(seed))
    least = least_mean_wait(load, cost)
    assert least <= least_mean_wait(load, cost, on_demand=True)
    for name, host in HOSTS.items():
        if name != "a GPU each":
            assert least <= World(load, host(), cost).run().mean + 1e-9, name


def test_the_optimum_lets_one_wait_for_whom_a_switch_would_cost_more():
    """b's switch begins before it comes, and a's last request waits until both are served."""
    load = Workload("three", ("a", "b"), (Request("a", 0, 1), Request("b", 5, 1), Request("a", 5.5, 1)))
    assert least_mean_wait(load, 4.0) == pytest.approx((0 + 0 + 4.5) / 3)
    assert least_mean_wait(load, 4.0, on_demand=True) == pytest.approx((0 + 5.5 + 0) / 3)


@pytest.mark.parametrize("host", [name for name in HOSTS if name != "a GPU each"])
def test_every_drain_is_bounded(host):
    endless = Workload("endless", ("a", "b"), (Request("a", 0, 10_000), Request("b", 1, 1)))
    first, second = World(endless, HOSTS[host](), 2.0).run().requests
    if host == "collate":  # it never drains: who waits for it waits for the answer
        assert second.wait > 9_000
    else:
        assert first.end is End.CUT
        assert second.wait < 3 * DRAIN_TIMEOUT


def test_a_load_that_crashes_is_made_again_as_a_cold_start():
    load = crashes(400.0, random.Random(1))
    without = replace(load, crashes=())
    crashed, smooth = (World(each, HOSTS["muxd"](), 8.0).run() for each in (load, without))
    assert crashed.mean > smooth.mean
    assert all(request.end is End.SERVED for request in crashed.requests)


def test_the_page_has_a_row_for_each_setting_and_the_picture_a_bar_for_each_host():
    found = list(goals.settings(60.0, 1, costs=(8.0,)))
    text = pages.page(found, [goals.Row("a goal", "1.0 x", met=False, why="because")], 60.0, 1)
    assert "| a goal | 1.0 x | **missed** | because |" in text
    assert sum(line.startswith(f"| {each.name} | 8 s |") for each in found for line in text.splitlines()) == len(found)
    titles = ET.fromstring(pages.picture(found)).iter("{http://www.w3.org/2000/svg}title")
    assert len(list(titles)) == len(found) * len(HOSTS)
