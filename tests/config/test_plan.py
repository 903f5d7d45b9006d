from dataclasses import MISSING, fields, replace
from math import inf
from pathlib import Path

import pytest

from muxd.config import Config, Memory, Model, Policy, Proxy, Simulation, SimulatorOptions
from muxd.config.declarations import keys_of
from muxd.config.engine_options import OpenAIOptions, RemoteOptions, VLLMOptions
from muxd.config.model_schema import MODEL_KEYS
from muxd.config.plan import Plan, Step, plan_of
from muxd.config.readers import Address
from muxd.config.schema import SECTIONS, Daemon, Key

QWEN = Model("qwen", model_path="Qwen/Qwen3-14B", served_names=("qwen", "gpt"))
LLAMA = Model("llama", model_path="/models/llama", served_names=("llama",))
RUNNING = Config(Daemon(Path("/s"), Path("/state"), Path("/logs")), models=(QWEN, LLAMA), path=Path("/muxd.toml"))


def with_models(*models):
    return replace(RUNNING, models=models)


def another(value):
    """Return a value of the same kind that differs."""
    match value:
        case bool():
            return not value
        case str():
            return value + "x"
        case int() | float():
            return value + 1
        case tuple():
            return (*value, "another")
        case dict():
            return {**value, "A": "1"}
        case Simulation():
            return replace(value, pace=value.pace + 1)
        case None:
            return Memory(weights=1)
    raise AssertionError(f"no other value for {value!r}")


def test_the_same_configuration_is_an_empty_plan():
    plan = plan_of(RUNNING, replace(RUNNING, path=Path("/elsewhere.toml")))
    assert plan == Plan(unchanged=("qwen", "llama"))
    assert not plan


def test_another_order_of_the_models_is_no_change():
    assert not plan_of(RUNNING, with_models(LLAMA, QWEN))


def test_models_that_come_and_go_are_told_first_those_that_go():
    plan = plan_of(RUNNING, with_models(replace(LLAMA, name="lama"), QWEN))
    assert plan.steps == (Step("llama", "remove"), Step("lama", "add", was="llama"))
    assert plan.unchanged == ("qwen",)


def test_several_models_that_go_keep_their_order():
    many = tuple(replace(QWEN, name=f"m{number}") for number in range(20))
    steps = plan_of(with_models(*many), with_models()).steps
    assert [step.model for step in steps] == [model.name for model in many]


LIVE = {name for name, key in MODEL_KEYS.items() if key.live is True}
OF_THE_PROCESS = MODEL_KEYS.keys() - {"served_names"} - LIVE
OTHER = replace(QWEN, engine="openai", engine_options=OpenAIOptions())
MISTRAL = replace(QWEN, engine="vllm", engine_options=VLLMOptions())
ELSEWHERE = replace(QWEN, engine="remote", engine_options=RemoteOptions())
PRETEND = replace(QWEN, engine="simulator", engine_options=SimulatorOptions())


def before_and_after(key):
    """Return a model that has the key, and the same with another value of the key."""
    models = (QWEN, OTHER, PRETEND, MISTRAL, ELSEWHERE)
    model = next((model for model in models if key in keys_of(model.engine_options)), QWEN)
    if key in keys_of(Model):
        return model, replace(model, **{key: another(getattr(model, key))})
    options = model.engine_options
    return model, replace(model, engine_options=replace(options, **{key: another(getattr(options, key))}))


def test_what_the_command_line_the_claim_or_the_log_files_come_from_is_not_taken_over_live():
    assert {"script", "engine", "model_path", "gpus", "memory", "port", "args", "env", "log_backups"} <= OF_THE_PROCESS


@pytest.mark.parametrize("key", sorted(OF_THE_PROCESS))
def test_what_the_process_is_made_from_restarts_it(key):
    model, changed = before_and_after(key)
    assert plan_of(with_models(model), with_models(changed)).steps == (Step("qwen", "restart", (key,)),)


@pytest.mark.parametrize("key", sorted(LIVE))
def test_what_only_muxd_looks_at_is_an_update(key):
    model, changed = before_and_after(key)
    assert plan_of(with_models(model), with_models(changed)).steps == (Step("qwen", "update", (key,)),)


def test_another_engine_has_other_options_which_are_no_changes_of_their_own():
    changed = replace(PRETEND, engine_options=SimulatorOptions(hang_timeout=7.0))
    (step,) = plan_of(RUNNING, with_models(changed, LLAMA)).steps
    assert step == Step("qwen", "restart", ("engine", "hang_timeout"))


def test_one_key_of_the_process_is_enough_to_restart_it():
    changed = replace(QWEN, preload=True, args=("--x",), drain_timeout=inf)
    (step,) = plan_of(RUNNING, with_models(changed, LLAMA)).steps
    assert step == Step("qwen", "restart", ("preload", "args", "drain_timeout"))


@pytest.mark.parametrize(
    ("served", "action"),
    [
        (("qwen",), "update"),
        (("qwen", "gpt", "another"), "update"),
        (("gpt", "qwen"), "restart"),
        (("another", "gpt"), "restart"),
    ],
)
def test_only_the_first_served_name_is_the_engines(served, action):
    changed = replace(QWEN, served_names=served)
    assert plan_of(RUNNING, with_models(changed, LLAMA)).steps == (Step("qwen", action, ("served_names",)),)


def test_a_name_can_move_from_one_model_to_another():
    plan = plan_of(
        RUNNING, with_models(replace(QWEN, served_names=("qwen",)), replace(LLAMA, served_names=("llama", "gpt")))
    )
    assert [(step.model, step.action) for step in plan.steps] == [("qwen", "update"), ("llama", "update")]


def test_the_settings_that_can_be_taken_over_are_told_from_those_that_cannot():
    wanted = replace(
        RUNNING,
        daemon=replace(RUNNING.daemon, log_level="debug", log_format="json", shutdown_timeout=1.0, socket=Path("/t")),
        proxy=Proxy(Address("::", 1), max_body=2048),
        policy=Policy(wait_target=5.0),
    )
    plan = plan_of(RUNNING, wanted)
    assert plan.settings == ("muxd.log_level", "muxd.log_format", "muxd.shutdown_timeout", "policy.wait_target")
    assert plan.needs_restart == ("muxd.socket", "proxy.listen", "proxy.max_body")
    assert plan.unchanged == ("qwen", "llama")
    assert plan


def test_every_setting_is_named_as_the_user_writes_it():
    written = {f"{section}.{key}" for section, table in SECTIONS.items() for key in keys_of(table)}
    everything = replace(
        RUNNING,
        daemon=replaced(RUNNING.daemon),
        proxy=replaced(RUNNING.proxy),
        policy=replaced(RUNNING.policy),
        gpus=replaced(RUNNING.gpus),
        ui=replaced(RUNNING.ui),
        keys=(Key("alice", "00"),),
    )
    plan = plan_of(RUNNING, everything)
    assert {*plan.settings, *plan.needs_restart} == written | {"keys"}


def replaced(settings):
    """Return an object with all fields different; a plan does not depend on what each of them holds."""
    return type(settings)(**{field.name: object() for field in fields(settings)})


def test_everything_a_configuration_is_made_of_is_looked_at():
    about = {"path", "files", "read_at", "remarks", "import_remarks", "capabilities"}
    assert {field.name for field in fields(Config)} == {
        "daemon",
        "proxy",
        "policy",
        "gpus",
        "ui",
        "models",
        "keys",
    } | about
    assert all(field.default is not MISSING for field in fields(Config) if field.name in about | {"keys"})


def test_a_plan_as_json():
    plan = Plan((Step("a", "restart", ("args",)), Step("b", "add")), ("muxd.log_level",), ("proxy.listen",), ("c",))
    assert plan.as_json() == {
        "plan": [
            {"model": "a", "action": "restart", "changes": ["args"]},
            {"model": "b", "action": "add", "changes": []},
        ],
        "settings": ["muxd.log_level"],
        "needs_restart": ["proxy.listen"],
        "unchanged": ["c"],
    }


@pytest.mark.parametrize("served", [("qwen3",), ("qwen3", "gpt"), ("qwen", "gpt")])
def test_one_that_comes_as_what_goes_is_told_to_be_it_under_another_name(served):
    renamed = replace(QWEN, name="qwen3", served_names=served)
    gone, came = plan_of(RUNNING, with_models(renamed, LLAMA)).steps
    assert (gone, came) == (Step("qwen", "remove"), Step("qwen3", "add", was="qwen"))
    assert came.as_json()["was"] == "qwen"
    _, other = plan_of(RUNNING, with_models(replace(renamed, args=("--x",)), LLAMA)).steps
    assert (other.was, "was" in other.as_json()) == ("", False)
    assert plan_of(RUNNING, with_models(QWEN, LLAMA, renamed)).steps == (Step("qwen3", "add"),)


def former(before, after):
    """Return the former names of added models, by their names, when models of these names and aliases are replaced."""
    models = [
        [replace(LLAMA, name=name, served_names=served) for name, served in each.items()] for each in (before, after)
    ]
    steps = plan_of(with_models(*models[0]), with_models(*models[1])).steps
    return {step.model: step.was for step in steps if step.action == "add"}


def test_models_that_are_alike_are_each_renamed_once():
    assert former({"p1": (), "p2": ()}, {"r2": (), "r1": ()}) == {"r1": "p1", "r2": "p2"}
    assert former({"a": ("x",), "b": ("y",)}, {"aa": ("y",), "bb": ("x",)}) == {"aa": "b", "bb": "a"}, "clients' names"
    assert former({"a": ()}, {"a1": (), "ab": ("a",)}) == {"ab": "a", "a1": ""}
    many = [{f"{letter}{number}": () for number in range(60)} for letter in "ab"]
    assert former(*many) == {f"b{number}": f"a{number}" for number in range(60)}, "in their order, where they are many"
