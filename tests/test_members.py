"""The workers of a model, and what the core is told of them."""

from dataclasses import replace
from pathlib import Path

import pytest

from muxd.config import Daemon, Memory, Model, SimulatorOptions
from muxd.config.engine_options import OpenAIOptions
from muxd.config.half_options import HalfOptions
from muxd.config.model_schema import Script
from muxd.config.plan import Step
from muxd.config.router_options import RouterOptions
from muxd.config.schema import Policy
from muxd.config.server_commands import HookStep
from muxd.core.spec import DefaultGroup, Role, Rung, Scaling, group_of
from muxd.members import by_worker, default_group, members_of, spec_of

GiB = 1 << 30
DAEMON = Daemon(Path("/s"), Path("/s"), Path("/s"))


def model(**keys) -> Model:
    return Model("qwen", engine="simulator", engine_options=SimulatorOptions(), served_names=("org/qwen",), **keys)


def test_a_server_of_any_kind_sleeps_only_by_steps_and_never_at_level_0():
    def levels(**options):
        other = replace(model(), engine="openai", engine_options=OpenAIOptions(**options))
        made = [spec_of(replace(other, sleep_level=level), DAEMON).workers[0] for level in (1, 3)]
        return [(sorted(worker.levels), sorted(worker.launchable), worker.copy) for worker in made]

    assert levels() == [([3], [3], None)] * 2
    steps = (HookStep("POST", "/sleep"),)
    assert levels(sleep=steps, wake=steps) == [([1, 3], [1, 3], None), ([3], [3], None)]


def test_what_becomes_of_an_idle_model_is_told_in_seconds_and_levels():
    spec = spec_of(model(idle=((300.0, 0), (3600.0, 3)), evict=900.0, priority=2), DAEMON)
    assert (spec.ladder, spec.sheltered_for, spec.priority) == ((Rung(300.0, 0), Rung(3600.0, 3)), 900.0, 2)
    assert spec_of(model(idle_timeout=60.0), DAEMON).ladder == (Rung(60.0, None),)
    assert default_group(Policy(default_model="qwen", default_after=5.0)) == DefaultGroup("qwen", 5.0)


def test_a_model_with_one_worker_is_served_by_that_alone_under_its_own_name():
    alone = model()
    assert members_of(alone) == ((Role.SERVE, alone),)
    assert [worker.name for worker in spec_of(alone, DAEMON).workers] == ["qwen"]


def test_replicas_part_the_gpus_among_them_and_their_router_has_the_port():
    members = members_of(model(replicas=2, gpus=("0", "1", "4", "5"), port=30001))
    assert [(m.model.name, m.role, m.model.gpus, m.model.port) for m in members] == [
        ("qwen/0", "serve", ("0", "1"), 0),
        ("qwen/1", "serve", ("4", "5"), 0),
        ("qwen/router", "router", (), 30001),
    ]
    assert {group_of(member.model.name) for member in members} == {"qwen"}
    assert {member.model.served_names for member in members} == {("org/qwen",)}


def test_a_model_that_is_scaled_has_a_worker_for_each_replica_that_there_may_be():
    scaled = model(replicas=2, max_replicas=4, min_replicas=0, gpus=("0", "1", "2", "3"))
    spec = spec_of(scaled, DAEMON)
    assert [worker.name for worker in spec.workers] == ["qwen/0", "qwen/1", "qwen/2", "qwen/3", "qwen/router"]
    assert spec.replicas == 2
    assert spec.scaling == Scaling(least=0, load=8, queue_wait=5, up_after=3, down_after=120)
    assert members_of(scaled)[0].model == members_of(replace(scaled, min_replicas=1))[0].model, "no other process"


def test_replicas_are_packed_on_gpus_that_are_named_again():
    spec = spec_of(model(replicas=4, gpus=("0", "0", "1", "1"), memory=Memory(weights=10 * GiB, kv=GiB)), DAEMON)
    assert [sorted(worker.gpus) for worker in spec.workers[:-1]] == [["0"], ["0"], ["1"], ["1"]]


def test_a_fixed_number_of_replicas_is_scaled_by_orders_alone():
    spec = spec_of(model(replicas=2, gpus=("0", "1")), DAEMON)
    assert (spec.replicas, spec.scaling) == (2, None)


def test_halves_have_the_gpus_in_their_order_and_flags_of_their_own():
    halves = {"prefill": HalfOptions(args=("--a",)), "decode": HalfOptions(replicas=2, args=("--b",))}
    split = model(gpus=("0", "1", "2"), args=("--all",), sleep_level=3, **halves)
    members = members_of(split)
    assert [(m.model.name, m.role, m.model.half, m.model.gpus, m.model.args) for m in members[:-1]] == [
        ("qwen/prefill-0", "prefill", "prefill", ("0",), ("--all", "--a")),
        ("qwen/decode-0", "decode", "decode", ("1",), ("--all", "--b")),
        ("qwen/decode-1", "decode", "decode", ("2",), ("--all", "--b")),
    ]
    assert members[-1].role is Role.ROUTER
    assert members[-1].model.prefill == HalfOptions(), "how many there are, and their flags, are nothing to the router"
    spec = spec_of(split, DAEMON)
    assert (spec.replicas, spec.scaling) == (0, None)


def test_each_replica_claims_its_own_memory_and_the_router_none():
    pair = model(replicas=2, gpus=("0", "1"), memory=Memory(weights=10 * GiB), preload=True, drain_timeout=7.0)
    spec = spec_of(pair, DAEMON)
    assert [(worker.memory, sorted(worker.gpus)) for worker in spec.workers] == [
        (10 * GiB, ["0"]),
        (10 * GiB, ["1"]),
        (0, []),
    ]
    assert (spec.name, spec.preload, spec.drain_timeout) == ("qwen", True, 7.0)


def test_a_process_can_be_launched_for_every_level_of_its_engine_but_not_one_of_a_script():
    each = [set(worker.launchable) for worker in spec_of(model(replicas=2, gpus=("0", "1")), DAEMON).workers]
    assert each == [{0, 1, 2, 3}, {0, 1, 2, 3}, set()]
    legacy = model(script=Script(("bash", "a.sh"), digest="digest"))
    assert [set(worker.launchable) for worker in spec_of(legacy, DAEMON).workers] == [set()]


def stepped(before: Model, after: Model) -> Step:
    return by_worker(Step(before.name, "restart", ("a key",)), before, after)


def test_a_step_of_a_reload_is_about_those_workers_alone_that_change():
    two = model(replicas=2, gpus=("0", "1"))
    three = model(replicas=3, gpus=("0", "1", "2"))
    random = model(replicas=2, gpus=("0", "1"), router=RouterOptions(policy="random"))
    assert stepped(two, three) == Step("qwen", "update", ("a key",), workers=(("start", "qwen/2"),))
    assert stepped(three, two).workers == (("stop", "qwen/2"),)
    assert stepped(two, random).workers == (("restart", "qwen/router"),)
    assert stepped(two, replace(two, max_replicas=2)) == Step("qwen", "update", ("a key",))


@pytest.mark.parametrize(
    "after",
    [
        {"replicas": 2, "gpus": ("1", "0")},
        {"replicas": 2, "gpus": ("0", "1"), "args": ("--x",)},
        {"gpus": ("0",)},
    ],
)
def test_where_workers_that_stay_change_all_are_restarted(after):
    step = stepped(model(replicas=2, gpus=("0", "1")), model(**after))
    assert (step.action, step.workers) == ("restart", ())


def test_halves_change_by_themselves_too():
    split = {"gpus": ("0", "1", "2"), "sleep_level": 3, "prefill": HalfOptions()}
    before, after = (model(**split, decode=HalfOptions(2, policy)) for policy in ("random", "round_robin"))
    assert stepped(before, after).workers == (("restart", "qwen/router"),)
    fewer = model(**split | {"gpus": ("0", "1")}, decode=HalfOptions(1, "random"))
    assert stepped(before, fewer).workers == (("stop", "qwen/decode-1"),)
