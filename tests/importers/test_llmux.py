"""llmux's configuration as muxd's: every key of llmux 1, and the three hooks of llmux 2."""

import json
import subprocess
from math import inf

import pytest

from muxd.config.engine_options import VLLMOptions
from muxd.config.server_commands import filled
from muxd.engines.vllm.key_checks import OWNED_FLAGS
from muxd.importers import llmux
from muxd.importers.owned_flags import OWNED, without_owned
from muxd.importers.programs import interpreter_of
from muxd.importers.translations import rows

from .imports import Imports


@pytest.fixture
def llmux_1(tmp_path):
    return Imports("llmux", tmp_path)


def configuration(*, model=None, **top):
    """A configuration of llmux 1 with one model, to which keys are added."""
    return json.dumps({"models": {"qwen": {"model_path": "Qwen/Qwen3-14B", "port": 8001, **(model or {})}}, **top})


def only(config):
    (model,) = config.models
    return model


#: llmux's own example, with other names.
EXAMPLE = """\
{
  "models": {
    "small": {
      "model_path": "org/small-3b",
      "port": 8001,
      "sleep_level": 1
    },
    "Org/Large-12b": {
      "model_path": "org/large-12b",
      "port": 8002,
      "sleep_level": 2,
      "extra_args": ["--gpu-memory-utilization", "0.8", "--tensor-parallel-size", "2"]
    }
  },
  "port": 3000
}
"""


def test_the_example_of_its_readme_becomes_two_vllm_models(llmux_1):
    config = llmux_1.load(EXAMPLE)
    assert str(config.proxy.listen) == "127.0.0.1:3000"
    assert str(config.proxy.metrics_listen) == "127.0.0.1:9090"
    assert [(m.name, m.engine, m.served_names, m.model_path, m.port, m.sleep_level, m.gpus) for m in config.models] == [
        ("small", "vllm", ("small",), "org/small-3b", 8001, 1, ("0",)),
        ("org-large-12b", "vllm", ("Org/Large-12b",), "org/large-12b", 8002, 2, ("0", "1")),
    ]
    assert config.models[1].args == ("--gpu-memory-utilization", "0.8", "--tensor-parallel-size", "2")


def test_what_its_file_leaves_out_is_what_llmux_does(llmux_1):
    config = llmux_1.load(configuration())
    assert (only(config).sleep_level, str(config.proxy.listen), config.proxy.metrics_listen.port) == (
        3,
        "127.0.0.1:3000",
        9090,
    )


@pytest.mark.parametrize(
    ("model", "key", "value"),
    [
        ({"sleep_level": 2}, "sleep_level", 2),
        ({"sleep_level": 4}, "sleep_level", 3),
        ({"dtype": "bfloat16"}, "dtype", "bfloat16"),
        ({"gpu_memory_utilization": 0.85}, "gpu_memory_utilization", 0.85),
        ({"tensor_parallel_size": 4}, "gpus", ("0", "1", "2", "3")),
        ({"extra_args": ["--max-model-len", "4096"]}, "args", ("--max-model-len", "4096")),
        ({"eviction": {"weights": "offload", "process": "keep_running"}}, "sleep_level", 1),
        ({"eviction": {"weights": "discard", "process": "keep_running"}}, "sleep_level", 2),
        ({"eviction": {"weights": "retain", "process": "keep_running"}}, "sleep_level", 0),
        ({"eviction": {"weights": "retain", "process": "cuda_suspend"}}, "sleep_level", 1),
        ({"eviction": {"weights": "offload", "process": "checkpoint"}}, "sleep_level", 2),
        ({"eviction": {"weights": "offload", "process": "stop"}}, "sleep_level", 3),
        ({"eviction": {"weights": "offload"}}, "sleep_level", 3),
    ],
)
def test_a_key_of_a_model_is_one_here(llmux_1, model, key, value):
    found = only(llmux_1.load(configuration(model=model)))
    assert getattr(found if hasattr(found, key) else found.engine_options, key) == value


@pytest.mark.parametrize(
    ("policy", "key", "value"),
    [
        ({"request_timeout_secs": 60}, "switch_timeout", 60.0),
        ({"request_timeout_secs": None}, "switch_timeout", 600.0),
        ({"drain_before_switch": False}, "drain_timeout", 0.0),
        ({"drain_before_switch": True}, "drain_timeout", 300.0),
        ({"sleep_level": 2}, "sleep_level", 2),
        ({"eviction": {"weights": "discard", "process": "keep_running"}}, "sleep_level", 2),
    ],
)
def test_its_policy_is_the_default_of_every_model(llmux_1, policy, key, value):
    assert getattr(only(llmux_1.load(configuration(policy=policy))), key) == value


def test_a_model_goes_before_the_policy(llmux_1):
    text = configuration(model={"sleep_level": 1}, policy={"sleep_level": 2})
    assert only(llmux_1.load(text)).sleep_level == 1


@pytest.mark.parametrize(
    ("top", "read", "value"),
    [
        ({"port": 8080}, lambda c: c.proxy.port, 8080),
        ({"metrics_port": 9191}, lambda c: c.proxy.metrics_listen.port, 9191),
        ({"metrics_port": 0}, lambda c: c.proxy.metrics_listen, None),
        ({"startup_timeout_secs": 900}, lambda c: only(c).start_timeout, 900.0),
        ({"vllm_logging": True}, lambda c: only(c).drain_timeout < inf, True),
        ({"vllm_command": "/opt/vllm/bin/vllm"}, lambda c: only(c).engine_options.python, "/opt/vllm/bin/python"),
        ({"vllm_command": "vllm"}, lambda c: only(c).engine_options.python, VLLMOptions().python),
        ({"warmup": False}, lambda c: only(c).wake_proof, False),
        ({"warmup": True}, lambda c: only(c).wake_proof, True),
        ({"policy": {"max_wait_secs": 15}}, lambda c: c.policy.wait_target, 15.0),
    ],
)
def test_a_key_of_the_top_is_one_here(llmux_1, top, read, value):
    assert read(llmux_1.load(configuration(**top))) == value


def test_the_interpreter_is_that_of_the_installed_program(tmp_path):
    (tmp_path / "vllm").write_bytes(b"#!/srv/env/bin/python3.11 -u\nimport sys\n")
    (tmp_path / "vllm").chmod(0o755)
    assert interpreter_of("vllm", {"PATH": str(tmp_path)}) == "/srv/env/bin/python3.11"
    assert interpreter_of("vllm", {"PATH": "/nowhere"}) == ""


def test_what_has_no_equal_is_said_by_name_and_line(llmux_1):
    text = """\
{
  "models": {"a": {"model_path": "org/a", "port": 8001,
    "checkpoint_path": "/tmp/a",
    "extra_args": ["--enable-sleep-mode", "--port=1", "--served-model-name", "x", "y", "--seed", "1"]}},
  "admin_port": 3001,
  "policy": {"policy_type": "cost_aware",
    "min_active_secs": 5}
}
"""
    said = llmux_1.remarks(text)
    for start in (
        ":3: models.a.checkpoint_path: no equal: muxd makes no images",
        ":4: models.a.extra_args: --enable-sleep-mode is left out",
        ":4: models.a.extra_args: --port is left out",
        ":4: models.a.extra_args: --served-model-name is left out",
        ":5: admin_port: no equal: muxctl",
        ":6: policy.policy_type: no equal: whose turn it is",
        ":7: policy.min_active_secs: no equal: a turn is kept",
    ):
        assert [remark for remark in said if remark.startswith(start)], start
    assert only(llmux_1.load(text)).args == ("--seed", "1")


def test_every_key_is_there_to_be_said(llmux_1):
    """A file with every key of the table loads, and each key without an equal is said."""
    everything = {
        "sleep_level": 2, "gpu_memory_utilization": 0.8, "tensor_parallel_size": 1, "dtype": "auto", "extra_args": [],
        "eviction": {"weights": "discard", "process": "keep_running"}, "checkpoint_path": "/x",
    }  # fmt: skip
    policy = dict.fromkeys(llmux.KEYS["policy"], 1) | {"policy_type": "fifo", "drain_before_switch": True}
    policy |= {"eviction": {"weights": "offload", "process": "keep_running"}}
    top = {"metrics_port": 1, "admin_port": 2, "vllm_command": "vllm", "vllm_logging": False, "port": 3}
    top |= {"startup_timeout_secs": 9, "warmup": True, "checkpoint": dict.fromkeys(llmux.KEYS["checkpoint"], "x")}
    text = configuration(model=everything, policy=policy, **top)
    said = llmux_1.remarks(text)
    given = {key.replace("NAME", "qwen") for key, _ in rows(llmux.KEYS)} - {
        f"models.qwen.{hook}" for hook in ("wake", "sleep", "alive")
    }
    written = json.loads(text)
    for key, becomes in rows(llmux.KEYS):
        path = key.replace("NAME", "qwen")
        if path in given:
            inner = written
            for part in path.split("."):
                inner = inner[part]
        if becomes.startswith("no equal"):
            assert [remark for remark in said if f" {path}: no equal" in remark], path


def test_a_flag_that_muxd_gives_to_vllm_is_left_out_of_its_args():
    assert OWNED_FLAGS.keys() - OWNED.keys() == {"--config"}, "a --config is refused: its text is not read"


def test_a_flag_of_muxds_own_is_left_out_however_it_is_written():
    args = ["--api_key", "z", "--served_model_name=q", "--por=5", "--no-enable-sleep-mode", "--model-impl", "vllm"]
    kept, left_out = without_owned(args)
    assert kept == ["--model-impl", "vllm"]
    assert left_out == {"--api-key": ["z"], "--served-model-name": ["q"], "--port": ["5"], "--no-enable-sleep-mode": []}


def test_no_key_of_several_stays_in_args_or_is_said(llmux_1):
    args = ["--max-model-len", "8", "--api-key", "first-secret", "second-secret", "--dtype", "half"]
    config = llmux_1.load(configuration(model={"extra_args": args}))
    assert only(config).args == ("--max-model-len", "8", "--dtype", "half")
    assert not [told for told in config.import_remarks if "secret" in told]
    assert "secret" not in (llmux_1.folder / "muxd.toml").read_text()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"models": {}}', "config.json:1: models: no model; write"),
        ('{"port": 1}', "config.json: models: no model; write"),
        ('{"models": []}', "config.json:1: models: no model; write"),
        ('{"models": {"a":\n 3}}', "config.json:1: models.a: not a mapping; write model_path, port"),
        (
            configuration(model={"sleep_levle": 1}),
            "config.json:1: models.qwen.sleep_levle: unknown key; did you mean sleep_level?",
        ),
        (configuration(prot=3), "config.json:1: prot: unknown key; did you mean port?"),
        (
            configuration(model={"port": 70000}),
            "config.json:1: models.qwen.port: 70000 is out of range; use 1 to 65535",
        ),
        (configuration(model={"extra_args": "--x"}), 'config.json:1: models.qwen.extra_args: "--x" is not a list'),
        (configuration(model={"sleep_level": 9}), "config.json:1: models.qwen.sleep_level: 9 is out of range"),
        (configuration(model={"eviction": {"weights": "x"}}), "models.qwen.eviction.weights: "),
        (configuration(model={"eviction": 1}), "models.qwen.eviction: not an eviction; write {"),
        (
            configuration(model={"sleep_level": 2, "eviction": {"weights": "offload", "process": "keep_running"}}),
            "config.json:1: models.qwen.eviction: level 1 here, and 2 by sleep_level; write one of the two",
        ),
        (
            configuration(policy={"eviction": {"process": "stop"}, "sleep_level": 1}),
            "config.json:1: policy.sleep_level: level 1 here, and 3 by eviction; write one of the two",
        ),
        (configuration(policy=1), "config.json:1: policy: not a mapping; write policy_type, request_timeout_secs"),
        (configuration(policy={"drain_before_switch": "no"}), "policy.drain_before_switch: "),
        ('{"models": {"a": {"port": 1}}}', "models.a: has no model_path (llmux 1) nor wake, sleep and alive"),
        ('{"models": {"a": {"model_path": "b/c"}}}', "config.json:1: models.a: port is missing; write it"),
        (
            '{"models": {"a": {"model_path": "b/c",\n"port": 1}, "d": {"model_path": "b/c",\n"port": 1}}}',
            "config.json:3: models.d.port: 1 is already the port of model a; use another",
        ),
    ],
)
def test_what_is_wrong_is_told_with_file_line_and_advice(llmux_1, text, told):
    problems = llmux_1.problems(text)
    assert [problem for problem in problems if told in problem], problems


#: llmux 2's own example, with other names: the three hooks of a model, in YAML.
HOOKS = """\
models:
  owl:
    port: 8001
    wake: |
      podman container restore owl && exit 0
      podman run -d --name owl -p 8001:8000 owls:latest
    sleep: podman container checkpoint owl
    alive: curl -sf http://localhost:8001/v1/health
  Birds/Hawk:
    port: 8002
    wake: ./hawk.sh "$LLMUX_MODEL"
    sleep: ./sleep.sh
    alive: test -e /tmp/hawk
policy:
  request_timeout_secs: null
  min_active_secs: 5
port: 3001
"""


def test_the_hooks_of_llmux_2_are_commands_and_steps(llmux_1):
    config = llmux_1.load(HOOKS, "config.yaml")
    owl, hawk = config.models
    assert str(config.proxy.listen) == "127.0.0.1:3001"
    assert config.proxy.metrics_listen is None
    options = owl.engine_options
    run = ("env", "LLMUX_MODEL=owl", "sh", "-c")
    wake = "podman container restore owl && exit 0\npodman run -d --name owl -p 8001:8000 owls:latest\n"
    assert options.command == (*run, llmux._HOLD, wake)
    assert [step.command for step in options.wake] == [(*run, wake)]
    assert [step.command for step in options.sleep] == [(*run, "podman container checkpoint owl")]
    assert options.stop_command == (*run, "podman container checkpoint owl")
    assert (owl.engine, owl.port, owl.sleep_level, options.ready_path) == ("openai", 8001, 1, "/v1/health")
    assert (hawk.name, hawk.served_names, hawk.engine_options.ready_path) == ("birds-hawk", ("Birds/Hawk",), "/health")
    assert hawk.switch_timeout == 600.0


def test_a_hook_reaches_its_shell_as_it_is_written(llmux_1):
    hooks = {
        "wake": "echo ${LLMUX_MODEL} {model} {port} | awk '{print}' > ${HOME}/{lbrace}",
        "sleep": "pid=$(cat x); kill ${pid} {pid} {gpus}",
    }
    table = {**hooks, "port": 8001, "alive": "curl http://localhost:8001/health"}
    options = only(llmux_1.load(json.dumps({"models": {"owl": table}}))).engine_options
    values = dict.fromkeys(("model", "port", "gpus", "pid", "pids", "host"), ("WRONG",))
    assert filled(options.command, values)[-1] == hooks["wake"]
    assert filled(options.wake[0].command, values)[-1] == hooks["wake"]
    assert filled(options.sleep[0].command, values)[-1] == hooks["sleep"]
    assert filled(options.stop_command, values)[-1] == hooks["sleep"]


def test_of_hooks_is_said_what_has_no_equal(llmux_1):
    said = llmux_1.remarks(HOOKS, "config.yaml")
    assert (
        ":13: models.Birds/Hawk.alive: the script is not run: ready_path and health_path of the server are asked"
        in said
    )
    assert not [remark for remark in said if "owl" in remark]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "models:\n  a:\n    port: 1\n    wake: x\n    sleep: y\n",
            "config.yaml:2: models.a: alive is missing; write it",
        ),
        (
            "models:\n  a:\n    port: 1\n    wake: x\n    model_path: y\n",
            "models.a: has model_path (llmux 1) as well as",
        ),
        (
            "models:\n  a: {port: 1, wake: [x], sleep: y, alive: z}\n",
            'config.yaml:2: models.a.wake: ["x"] is no script;',
        ),
        ("models:\n  a: {port: 1, wake: '', sleep: y, alive: z}\n", 'config.yaml:2: models.a.wake: "" is no script;'),
    ],
)
def test_a_wrong_hook_is_told_with_file_line_and_advice(llmux_1, text, told):
    problems = llmux_1.problems(text, "config.yaml")
    assert [problem for problem in problems if told in problem], problems


def test_the_command_holds_while_its_hook_came_back_and_fails_where_it_failed():
    hold = subprocess.Popen(["sh", "-c", llmux._HOLD.replace("infinity", "0"), "exit 0"])
    assert hold.wait(10) == 0
    assert subprocess.run(["sh", "-c", llmux._HOLD, "exit 3"], check=False).returncode == 3
