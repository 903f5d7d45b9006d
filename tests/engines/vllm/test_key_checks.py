"""What the keys of a model for vLLM may not say, as vLLM's own parser would take it: with "_", and in short."""

from typing import Any

import pytest

from muxd.config.engine_options import VLLMOptions
from muxd.config.model_schema import Memory, Model
from muxd.engines.vllm.engine import VLLM
from muxd.engines.vllm.key_checks import OWNED_FLAGS, findings

#: Flags of vLLM 0.32.0 that look like muxd's own.
ALLOWED = [
    *("--model-impl", "--model-class-overrides", "--model-loader-extra-config", "--model_impl", "--max-model-len"),
    *("--api-server-count", "--config-format", "--enable-chunked-prefill", "--no-enable-prefix-caching"),
    *("--no-enable-chunked-prefill", "--pooler-config", "--enforce-eager", "-O3", "--ssl-ciphers", "--portal", "--"),
]


def told(*args: str, **keys: Any) -> list[tuple[str, ...]]:
    keys = {"engine_options": VLLMOptions(), **keys}
    model = Model("qwen", engine="vllm", model_path="/m", args=args, **keys)
    return [(".".join(map(str, key)), why) for key, why in findings(model, None)]


@pytest.mark.parametrize(
    ("written", "owned"),
    [
        *((flag, flag) for flag in OWNED_FLAGS),
        *((flag.replace("-", "_").replace("__", "--", 1), flag) for flag in OWNED_FLAGS),
        *(("--api-k", "--api-key"), ("--por", "--port"), ("--ho", "--host"), ("--ud", "--uds")),
        *(("--middlewar", "--middleware"), ("--served_model", "--served-model-name")),
        *(("--enable_sl", "--enable-sleep-mode"), ("--no-enable-sl", "--no-enable-sleep-mode")),
    ],
)
def test_a_flag_of_muxds_own_is_refused_however_it_is_written(written, owned):
    for arg in (written, f"{written}=5"):
        ((key, why),) = told(arg)
        assert key == "args"
        assert why == f"{written} is muxd's own{'' if written == owned else ' ' + owned}; {OWNED_FLAGS[owned]}"


@pytest.mark.parametrize("arg", ["--api-key.x=1", "--middleware.x", "--api_k.x.y=1"])
def test_a_part_of_a_value_is_the_flags(arg):
    ((key, why),) = told(arg)
    assert (key, why.startswith(f"{arg.partition('.')[0]} is muxd's own")) == ("args", True)
    assert told("--compilation-config.mode=3", "--speculative-config.method", "ngram") == []


@pytest.mark.parametrize("flag", ALLOWED)
def test_a_flag_that_begins_like_one_of_muxds_own_is_the_users(flag):
    assert told(flag) == []


@pytest.mark.parametrize("flag", ["--headless", "--grpc", "--ssl-keyfile", "--ssl_certfile", "--ssl-key"])
def test_a_server_that_muxd_cannot_drive_is_refused(flag):
    for arg in (flag, f"{flag}=5"):
        ((key, why),) = told(arg)
        assert (key, why.startswith(f"{flag}: "), why.endswith("; leave it out")) == ("args", True, True)


@pytest.mark.parametrize("share", ["1.5", "0", "-1", "much", "nan"])
def test_a_share_of_a_gpu_that_is_none_is_refused(share):
    ((key, why),) = told("--gpu-memory-utilization", share)
    assert (key, f"{share} is no share of a GPU's memory; write one between 0 and 1" in why) == ("args", True)
    ((key, why),) = told(f"--device_memory_util={share}")
    assert f"{share} is no share" in why


def test_the_routes_for_sleep_and_wake_stay_as_muxd_needs_them():
    ((key, why),) = told(env={"VLLM_SERVER_DEV_MODE": "0"})
    assert (key, why.endswith("; leave it out")) == ("env.VLLM_SERVER_DEV_MODE", True)


def test_a_key_for_vllm_itself_is_refused_and_none_of_muxds_environment_gets_there():
    ((key, why),) = told(env={"VLLM_API_KEY": "z"})
    assert (key, "clients show keys to the proxy" in why, "z" in why.split()) == ("env.VLLM_API_KEY", True, False)
    assert VLLM.environment["VLLM_API_KEY"] == ""


@pytest.mark.parametrize(
    ("args", "options", "key"),
    [
        (("--tensor-parallel-size", "3"), {}, "args"),
        (("-tp", "3"), {}, "args"),
        (("-tp=2", "-pp", "2"), {}, "args"),
        ((), {"tensor_parallel_size": 3}, "tensor_parallel_size"),
        (("-dp", "2"), {"tensor_parallel_size": 2}, "tensor_parallel_size"),
    ],
)
def test_more_gpus_than_the_model_has_are_refused(args, options, key):
    ((where, why),) = told(*args, gpus=("0", "1"), engine_options=VLLMOptions(**options))
    assert (where, "and gpus names 2; name as many there, or correct " + key in why) == (key, True)


@pytest.mark.parametrize(
    "args",
    [
        ("-tp", "2"),
        ("-tp", "many"),
        ("-tp", "4", "--nnodes", "2"),
        ("-tp", "4", "--distributed-executor-backend", "ray"),
        ("-dp", "4", "-dpl", "2"),
    ],
)
def test_gpus_that_may_be_enough_are_taken(args):
    assert told(*args, gpus=("0", "1")) == []


@pytest.mark.parametrize(
    ("options", "flag"),
    [
        ({"tensor_parallel_size": 2}, "-tp"),
        ({"tensor_parallel_size": 2}, "--tensor-par"),
        ({"gpu_memory_utilization": 0.5}, "--device-memory-utilization"),
    ],
)
def test_a_flag_that_a_key_says_already_is_refused_by_every_name_of_it(options, flag):
    (said,) = VLLMOptions(**options).flags.items()
    ((key, why),) = told(flag, said[1], gpus=("0", "1"), engine_options=VLLMOptions(**options))
    assert (key, why) == (
        "args",
        f"{said[0]} is said by the key {said[0][2:].replace('-', '_')} already; leave one of them out",
    )


def test_a_kv_cache_beyond_what_memory_grants_is_refused_though_the_whole_would_fit():
    memory = Memory(weights=10 << 30, kv=5 << 30)
    ((key, why),) = told("--kv-cache-memory-bytes", "6G", memory=memory)
    assert (key, "--kv-cache-memory-bytes is 6GiB, and memory grants its KV cache 5GiB of each GPU" in why) == (
        "args",
        True,
    )
    ((key, why),) = told("--kv-cache-mem=3G", memory=memory, gpus=("0", "1"))
    assert "is 3GiB, and memory grants its KV cache 2560MiB of each GPU" in why
    assert told("--kv-cache-memory-bytes", "5G", memory=memory) == []
