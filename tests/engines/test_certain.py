"""What a model certainly needs, by its files and its arguments."""

import json

import pytest

from muxd.config import Model
from muxd.engines.registry import ENGINES
from tests.host.hub import Hub

MiB = 1 << 20


def need(folder, config, file="model.safetensors", args=(), engine="sglang"):
    """Of 100 MiB of weights."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    with open(folder / file, "wb") as out:
        out.truncate(100 * MiB)
    return ENGINES[engine].certain_need(Model("a", model_path=str(folder), args=args), {}) // MiB


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"torch_dtype": "bfloat16"}, 95),
        ({"dtype": "float16"}, 95),
        ({"text_config": {"dtype": "bfloat16"}}, 95),
        ({"torch_dtype": "float32"}, 47),
        ({"text_config": {"dtype": "float32"}}, 47),
        ({}, 95),
    ],
)
def test_all_weights_but_for_draft_layers_as_16_bits(tmp_path, config, expected):
    assert need(tmp_path / "m", config) == expected


def test_files_of_torch_may_be_of_32_bits(tmp_path):
    assert need(tmp_path / "m", {}, "pytorch_model.bin") == 47


@pytest.mark.parametrize(
    "args",
    [
        ("--quantization", "fp8"),
        ("--quant=fp8",),
        ("--cpu-offload-gb", "10"),
        ("--load-format", "dummy"),
        ("--nnodes", "2"),
        ("--device", "cpu"),
        ("--json-model-override-args", "{}"),
        ("--kt-method", "X"),
    ],
)
def test_nothing_is_certain_with_arguments_that_spare_the_gpus(tmp_path, args):
    assert need(tmp_path / "m", {}, args=args) == 0
    assert need(tmp_path / "m", {}, args=("--tp", "2")) == 95


@pytest.mark.parametrize(
    "args",
    [
        ("-q", "fp8"),
        ("--quantization=fp8",),
        ("--cpu-offload-gb", "10"),
        ("--offload-backend", "x"),
        ("--load-format", "dummy"),
        ("--nnodes", "2"),
        ("--runner", "pooling"),
        ("--hf-overrides", "{}"),
        ("--language-model-only",),
        ("--model-loader-extra-config", "{}"),
    ],
)
def test_nor_with_those_of_vllm(tmp_path, args):
    assert need(tmp_path / "m", {}, args=args, engine="vllm") == 0
    assert need(tmp_path / "m", {"dtype": "float32"}, args=("-tp", "2", "--seed", "0"), engine="vllm") == 47


def test_nothing_is_certain_of_what_is_not_there_or_not_whole(tmp_path):
    assert ENGINES["sglang"].certain_need(Model("a", model_path="/nowhere"), {}) == 0
    assert ENGINES["sglang"].certain_need(Model("a", model_path="s3://bucket/a"), {}) == 0
    assert ENGINES["sglang"].certain_need(Model("a", model_path="o/a"), {"HF_HUB_CACHE": str(tmp_path)}) == 0
    (tmp_path / "config.json").write_text("{}")
    assert ENGINES["sglang"].certain_need(Model("a", model_path=str(tmp_path)), {}) == 0


def test_a_model_of_the_hub_is_looked_up_where_its_worker_will(tmp_path):
    hub = Hub(tmp_path / "hub")
    hub.add("org/whole", {"model.safetensors": 100 * MiB}, {"architectures": ["X"]})
    assert (
        ENGINES["sglang"].certain_need(Model("a", model_path="org/whole"), {"HF_HUB_CACHE": str(hub.cache)}) // MiB
        == 95
    )
