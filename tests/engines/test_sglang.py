"""What is made of SGLang's answers and told to it; the calls themselves run against the simulator and the real one."""

import time
from pathlib import Path

import pytest

from muxd.config import Model
from muxd.engines import EngineCallFailed, LaunchPlan, engine_for
from muxd.engines.sglang import is_idle, is_newer, last_step, server_flags

MODEL = Model("qwen", model_path="Qwen/Qwen3-14B", served_names=("gpt", "qwen"), python="/opt/sglang/bin/python")


def figures(running: int = 0, waiting: int = 0, **more: object) -> dict[str, object]:
    return {"num_running_reqs": running, "num_waiting_reqs": waiting, **more}


@pytest.mark.parametrize(
    ("loads", "idle"),
    [
        ([figures()], True),
        ([figures(running=1)], False),
        ([figures(waiting=1)], False),
        ([figures(), figures(running=1)], False),
    ],
)
def test_idle_is_when_nothing_runs_or_waits_on_any_rank(loads, idle):
    assert is_idle({"loads": loads}) is idle


@pytest.mark.parametrize("answer", [None, [], {}, {"loads": []}, {"loads": 5}, {"loads": [{}]}, {"loads": ["x"]}])
def test_an_answer_without_figures_is_no_proof_and_no_crash(answer):
    with pytest.raises(EngineCallFailed):
        is_idle(answer)
    assert last_step(answer) is None


def test_the_rank_that_is_most_behind_counts():
    assert last_step({"loads": [{"timestamp": 5.0}, {"timestamp": 3}]}) == 3.0


def test_figures_from_before_the_pause_prove_nothing():
    paused = time.time()
    assert is_newer({"loads": [figures(timestamp=paused + 0.001)]}, paused)
    assert not is_newer({"loads": [figures(timestamp=paused + 1), figures(timestamp=paused - 0.001)]}, paused)


@pytest.mark.parametrize(
    ("level", "flags"),
    [
        (1, {"--enable-memory-saver", "--enable-weights-cpu-backup"}),
        (2, {"--enable-memory-saver"}),
        (3, set()),
    ],
)
def test_a_sleep_level_is_a_choice_at_launch(level, flags):
    model = Model("qwen", model_path="m", served_names=("qwen",), sleep_level=level)
    owned = {"--enable-memory-saver", "--enable-weights-cpu-backup"}
    assert set(server_flags(model, 1)) & owned == flags


def test_it_is_told_once_to_count_for_prometheus():
    for args in ((), ("--enable-metrics",), ("--enable-metrics-for-all-schedulers",)):
        model = Model("qwen", model_path="m", served_names=("qwen",), args=args)
        plan = LaunchPlan(31001, Path("/w"), Path("/w/tmp"), "secret", Path("/ledger"), 0)
        assert engine_for(model).launch(model, plan).argv.count("--enable-metrics") == 1


def test_two_gpus_mean_tensor_parallelism_unless_the_user_says_otherwise():
    both = Model("qwen", model_path="m", served_names=("qwen",), gpus=(2, 3))
    assert server_flags(both, 1)[-2:] == ["--tp-size", "2"]
    own = Model("qwen", model_path="m", served_names=("qwen",), gpus=(2, 3), args=("--tp", "1"))
    assert "--tp-size" not in server_flags(own, 1)


def test_the_admin_key_is_in_a_file_and_nowhere_else():
    plan = LaunchPlan(31001, Path("/w"), Path("/w/tmp"), "secret", Path("/ledger"), 0)
    launch = engine_for(MODEL).launch(MODEL, plan)
    assert not [word for word in (*launch.argv, *launch.env.values()) if "secret" in word]
    assert launch.files == {Path("/w/server.yaml"): "admin-api-key: secret\n"}
    assert launch.argv[:5] == ("/opt/sglang/bin/python", "-m", "sglang.launch_server", "--config", "/w/server.yaml")


def test_a_model_sees_its_own_gpus_only():
    model = Model("qwen", model_path="m", served_names=("qwen",), gpus=(2, 3))
    env = engine_for(model).launch(model, LaunchPlan(1, Path("/w"), Path("/t"), "k", Path("/l"), 0)).env
    assert (env["CUDA_VISIBLE_DEVICES"], env["CUDA_DEVICE_ORDER"]) == ("2,3", "PCI_BUS_ID")
