"""What `muxd check` says of models of vLLM: what their version cannot do, and which share of a GPU they take."""

import pytest

VLLM = "[models.a]\nengine = 'vllm'\npython = './python'\nmodel_path = 'o/a'\n"


@pytest.mark.parametrize(
    ("version", "keys", "told"),
    [
        (
            "0.15.1",
            "sleep_level = 1\n",
            "muxd.toml:7: vLLM 0.15.1 keeps its weights on the GPU asleep at level 1 ",
        ),
        (
            "0.32.0",
            "args = ['--gpu-memory-utilization', '0.9']\nmemory = { weights = '20GiB', kv = '4GiB' }\n",
            "muxd.toml:7: its --gpu-memory-utilization is 72.0 GiB of GPU 0, and memory grants it 24.0 GiB; leave ",
        ),
        (
            "0.32.0",
            "args = ['--gpu-memory-utilization=0.9']\n[gpus]\nmemory = { 0 = '40GiB' }\n",
            "muxd.toml:7: its --gpu-memory-utilization is 72.0 GiB of GPU 0, and [gpus] leaves models 40.0 GiB; lower ",
        ),
        ("0.32.0", "args = ['--port', '5']\n", "muxd.toml:7: models.a.args: --port is muxd's own; use the key port"),
    ],
)
def test_what_vllm_cannot_do_is_wrong_with_its_line(report, interpreter, version, keys, told):
    interpreter(engine="vllm", version=version)
    status, lines = report(VLLM + keys, gpus=(80,))
    wrong = [line for line in lines if line[0] == "WRONG"]
    assert (status, [line[1] for line in wrong]) == (2, ["a"])
    assert wrong[0][2].startswith(told)


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        (
            "args = ['--mem-fraction-static', '0.9']\nmemory = { weights = '20GiB', kv = '4GiB' }\n",
            "its --mem-fraction-static is 72.0 GiB of GPU 0, and memory grants it 24.0 GiB; leave the flag out",
        ),
        (
            "args = ['--mem-fraction-static=0.9']\n[gpus]\nmemory = { 0 = '40GiB' }\n",
            "its --mem-fraction-static is 72.0 GiB of GPU 0, and [gpus] leaves models 40.0 GiB; lower it",
        ),
        (
            "args = ['--mem-fraction-static=1.5']\n",
            "models.a.args: --mem-fraction-static 1.5 is no share of a GPU's memory; write one between 0 and 1",
        ),
        ("args = ['--ssl-keyfile=/k']\n", "models.a.args: --ssl-keyfile: muxd speaks plain HTTP to servers"),
    ],
)
def test_a_share_beyond_what_sglang_is_granted_is_wrong_with_its_line(report, interpreter, keys, told):
    interpreter()
    status, lines = report(VLLM.replace("vllm", "sglang") + keys, gpus=(80,))
    (wrong,) = [line for line in lines if line[0] == "WRONG"]
    assert (status, wrong[1]) == (2, "a")
    assert wrong[2].startswith(f"muxd.toml:7: {told}")


def test_a_share_of_a_model_of_which_only_the_weights_are_known_is_the_users(report, interpreter):
    interpreter()
    keys = "args = ['--mem-fraction-static', '0.9']\nmemory = { weights = '20GiB' }\n"
    assert report(VLLM.replace("vllm", "sglang") + keys, gpus=(80,))[0] == 0


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ("args = ['--gpu-memory-utilization', '0.9']\nmemory = { weights = '10GiB', kv = '5GiB' }\n", "grants it 7.5"),
        ("memory = { weights = '100GiB', kv = '80GiB' }\n", "needs 180.0 GiB on 2 GPUs, GPU 1 has 80.0 GiB: it can"),
    ],
)
def test_one_gpu_of_a_known_size_is_enough_to_judge_by(report, interpreter, keys, told):
    interpreter(engine="vllm", version="0.32.0")
    status, lines = report(f"{VLLM}gpus = [0, 1]\n{keys}[gpus]\nmemory = {{ 1 = '80GiB' }}\n", gpus=())
    (wrong,) = [text for mark, _, text in lines if mark == "WRONG"]
    assert (status, told in wrong) == (2, True), wrong


SIZED = "memory = { weights = '10GiB', kv = '5GiB' }\n"
SHARE = "its --gpu-memory-utilization is 72.0 GiB of GPU 0, and memory grants it 15.0 GiB;"


@pytest.mark.parametrize("gpus", [(), (80,)])
@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ("args = ['--gpu-memory-utilization', '0.9']\n" + SIZED, SHARE),
        ("args = ['--gpu_memory_util=0.9']\n" + SIZED, SHARE),
        ("gpu_memory_utilization = 0.5\n" + SIZED, SHARE.replace("72.0", "40.0")),
        (
            "args = ['--kv-cache-memory-bytes', '60G']\n" + SIZED,
            "--kv-cache-memory-bytes is 60GiB, and memory grants its KV cache 5GiB of each GPU; leave the flag out",
        ),
        ("memory = { weights = '100GiB' }\n", "needs 100.0 GiB, GPU 0 has 80.0 GiB: it can never be loaded"),
    ],
)
def test_a_gpu_that_cannot_be_read_has_what_the_configuration_says(report, interpreter, gpus, keys, told):
    interpreter(engine="vllm", version="0.32.0")
    status, lines = report(f"{VLLM}{keys}[gpus]\nmemory = {{ 0 = '80GiB' }}\n", gpus=gpus)
    (wrong,) = [text for mark, _, text in lines if mark == "WRONG"]
    assert status == 2
    assert wrong.startswith("muxd.toml:")
    assert told in wrong


@pytest.mark.parametrize("size", ["[gpus]\nmemory = { 0 = '80GiB' }\n", "[gpus]\nmemory = { 1 = '1GiB' }\n", ""])
def test_what_fits_a_gpu_that_cannot_be_read_or_is_of_no_known_size_is_ok(report, interpreter, size):
    interpreter(engine="vllm", version="0.32.0")
    keys = "args = ['--kv-cache-memory-bytes', '5g']\n" + SIZED
    assert [mark for mark, subject, _ in report(VLLM + keys + size, gpus=())[1] if subject == "a"] == ["ok"]


def test_a_vllm_that_can_do_it_is_told_with_its_version(report, interpreter):
    interpreter(engine="vllm", version="0.32.0", rejected={"a": "unrecognized arguments: --contxt-length 3"})
    status, lines = report(VLLM + "sleep_level = 2\nargs = ['--contxt-length', '3']\n", gpus=(80,))
    assert ("ok", "python", "python: vLLM 0.32.0, torch 2.9.1 (CUDA 12.9)") in lines
    told = "the vLLM of python does not take args: it knows no --contxt-length; did you mean --context-length?"
    assert (status, lines[-3]) == (2, ("WRONG", "a", f"muxd.toml:8: {told}"))


def test_an_interpreter_without_vllm_is_wrong_with_what_to_install(report, interpreter):
    interpreter(engine="sglang")
    status, lines = report(VLLM, gpus=(80,))
    missing = "muxd.toml:5: python: no vLLM is installed in it (engine_missing); name the python of an environment that"
    (line,) = [line for line in lines if line[1] == "python"]
    assert (status, line[0]) == (2, "WRONG")
    assert line[2] == f"{missing} has vLLM, or install it there: python -m pip install vllm"
