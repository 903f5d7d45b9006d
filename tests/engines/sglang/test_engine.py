"""What is made of SGLang's answers and told to it; the calls themselves run against the simulator and the real one."""

from pathlib import Path

import pytest

from muxd.config import Daemon, Model, SGLangOptions
from muxd.engines.engine import LaunchContext
from muxd.engines.openai_api import length_in
from muxd.engines.registry import engine_for
from muxd.engines.sglang.engine import are_news, is_idle, server_flags, stamps_in
from muxd.launchers.launcher import launcher_for

SGLANG = SGLangOptions(python="/opt/sglang/bin/python")
DAEMON = Daemon(Path("/s"), Path("/state"), Path("/logs"))
MODEL = Model("qwen", model_path="Qwen/Qwen3-14B", served_names=("gpt", "qwen"), engine_options=SGLANG)


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
    assert not is_idle(answer)
    assert stamps_in(answer) == ()


def test_the_context_length_is_the_servers_own_and_not_an_adapters():
    assert length_in({"data": [{"max_model_len": 4096}, {"max_model_len": 8}]}) == 4096
    assert length_in({"data": [{"id": "a", "meta": {"n_ctx": 512, "n_ctx_train": 2048}}]}) == 512, "llama.cpp's"


@pytest.mark.parametrize("length", [None, 0, -1, True, 4096.0, "4096", 1 << 40])
def test_what_is_no_length_is_none(length):
    assert length_in({"data": [{"max_model_len": length}]}) is None


@pytest.mark.parametrize("answer", [None, [], {}, {"data": None}, {"data": []}, {"data": ["x"]}, {"data": [{}]}])
def test_a_server_need_not_tell_its_context_length(answer):
    assert length_in(answer) is None


def test_every_rank_has_a_stamp():
    assert stamps_in({"loads": [{"timestamp": 5.0}, {"timestamp": 3}, {"timestamp": "x"}]}) == (5.0, 3.0)


@pytest.mark.parametrize(
    ("now", "news"),
    [((6.0, 4.0), True), ((5.0, 4.0), False), ((6.0, 3.0), False), ((1.0, 2.0), True), ((6.0,), False), ((), False)],
)
def test_only_a_stamp_of_every_rank_that_has_changed_is_news_whatever_the_clock_was_set_to(now, news):
    assert are_news(now, before=(5.0, 3.0)) is news


def test_an_idle_server_waits_for_requests_and_is_told_so_once():
    assert server_flags(MODEL, 1).count("--sleep-on-idle") == 1
    told = Model("qwen", model_path="m", served_names=("qwen",), args=("--sleep-on-idle",))
    assert "--sleep-on-idle" not in server_flags(told, 1)


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
        plan = LaunchContext(31001, Path("/w"), Path("/w/tmp"), "secret", DAEMON)
        assert engine_for(model).command(model, plan).argv.count("--enable-metrics") == 1


def test_two_gpus_mean_tensor_parallelism_unless_the_user_says_otherwise():
    both = Model("qwen", model_path="m", served_names=("qwen",), gpus=("2", "3"))
    assert server_flags(both, 1)[-2:] == ["--tp-size", "2"]
    own = Model("qwen", model_path="m", served_names=("qwen",), gpus=("2", "3"), args=("--tp", "1"))
    assert "--tp-size" not in server_flags(own, 1)


def test_the_admin_key_is_in_a_file_and_nowhere_else():
    plan = LaunchContext(31001, Path("/w"), Path("/w/tmp"), "secret", DAEMON)
    launch = launcher_for(MODEL).launch(MODEL, engine_for(MODEL), plan)
    assert not [word for word in (*launch.argv, *launch.env.values()) if "secret" in word]
    assert launch.files == {Path("/w/server.yaml"): "admin-api-key: secret\n"}
    assert launch.argv[:5] == ("/opt/sglang/bin/python", "-m", "sglang.launch_server", "--config", "/w/server.yaml")


def test_a_model_sees_its_own_gpus_only():
    model = Model("qwen", model_path="m", served_names=("qwen",), gpus=("2", "3"))
    env = (
        launcher_for(model).launch(model, engine_for(model), LaunchContext(1, Path("/w"), Path("/t"), "k", DAEMON)).env
    )
    assert (env["CUDA_VISIBLE_DEVICES"], env["CUDA_DEVICE_ORDER"]) == ("2,3", "PCI_BUS_ID")
