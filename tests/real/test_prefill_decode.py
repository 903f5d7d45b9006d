"""Two halves of real SGLang, one that prefills and one that decodes, behind the real router: healthy, and they answer.

They pass a KV cache on by the real mooncake, over TCP (see `mooncake`; MUXD_REAL_MOONCAKE names another folder that has
it).  A CPU needs two things more, both for this test's model alone: SGLang's flag by which a half that decodes keeps no
pinned memory, and `stand_ins/cuda_calls`, which stands in for pinned memory and for CUDA's events.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.end_to_end.muxd import Muxd, eventually

from . import mooncake
from .sglang_cpu import CPU_ARGS, CPU_ENV
from .test_muxd import DEADLINE

CONFIG = """\
[models.split]
python = "{home}/venv/bin/python"
args = {args}
env = {env}
model_path = "{home}/models/tiny-a"
gpus = [0, 1]
prefill = {{ policy = "cache_aware" }}
decode = {{ policy = "round_robin", args = ["--disaggregation-decode-retraction-backup", "cpu_tensor"] }}

[models.whole]
python = "{home}/venv/bin/python"
args = {whole_args}
env = {env}
model_path = "{home}/models/tiny-a"
gpus = [0]
"""

STAND_IN = Path(__file__).parent / "stand_ins/cuda_calls"


@pytest.fixture(scope="module")
def muxd(sglang_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Muxd]:
    folder = Path(os.environ.get("MUXD_REAL_MOONCAKE") or sglang_home / "mooncake")
    if not folder.exists():
        pytest.skip(f"no mooncake in {folder}, by which halves pass a KV cache on: run python tests/real/install.py")
    env = CPU_ENV | mooncake.environment(folder)
    env["PYTHONPATH"] = f"{STAND_IN}:{env['PYTHONPATH']}"
    text = CONFIG.format(
        home=sglang_home,
        args=[*CPU_ARGS, "--disaggregation-transfer-backend", "mooncake_tcp"],
        whole_args=[*CPU_ARGS],
        env="{ " + ", ".join(f'{key} = "{value}"' for key, value in env.items()) + " }",
    )
    with Muxd(tmp_path_factory.mktemp("split"), text, deadline=DEADLINE) as muxd:
        yield muxd


def test_both_halves_are_healthy_and_the_router_knows_them(muxd):
    done = muxd.muxctl("start", "split")
    assert done.returncode == 0, done.stderr

    def healthy() -> bool:
        workers = {worker["name"]: worker["state"] for worker in muxd.status("split")["workers"]}
        assert list(workers) == ["split/prefill-0", "split/decode-0", "split/router"]
        return list(workers.values()) == ["ready"] * 3 and muxd.state("split") == "ready"

    eventually(healthy, "both halves are healthy, and their router knows it", DEADLINE)
    listed = httpx.get(f"{muxd.status('split')['url']}/workers").json()["workers"]
    assert sorted((worker["worker_type"], worker["is_healthy"]) for worker in listed) == [
        ("decode", True),
        ("prefill", True),
    ]


def test_what_one_has_read_the_other_goes_on_with(muxd):
    """The answer is that of a server that does both, and the half that decodes has been asked for it."""
    prompts = ("The cache of this prompt", "Another prompt, a longer one, of which the KV cache is passed on, too")
    split = [muxd.ask("split", prompt, max_tokens=12) for prompt in prompts]
    whole = [muxd.ask("whole", prompt, max_tokens=12) for prompt in prompts]
    assert split == whole
    assert len(set(split)) == 2
