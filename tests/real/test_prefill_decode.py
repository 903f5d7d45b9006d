"""Two halves of real SGLang, one that prefills and one that decodes, behind the real router: registered and healthy.

They need mooncake (`mooncake-transfer-engine-non-cuda`, and the system's libibverbs1), in SGLang's environment or in
the folder that MUXD_REAL_MOONCAKE names.  A CPU has no way to pass a KV cache on, so nothing is asked of them:
tests/end_to_end/test_prefill_decode asks stand-ins.
"""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.end_to_end.muxd import Muxd, eventually

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
decode = {{ policy = "round_robin" }}
"""


@pytest.fixture(scope="module")
def muxd(sglang_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Muxd]:
    folder = os.environ.get("MUXD_REAL_MOONCAKE", "")
    env = CPU_ENV | ({"PYTHONPATH": folder} if folder else {})
    argv = [f"{sglang_home}/venv/bin/python", "-c", "import mooncake.engine"]
    if subprocess.run(argv, env={**os.environ, **env}, capture_output=True, check=False).returncode:
        pytest.skip("SGLang's environment has no mooncake, by which halves pass a KV cache on")
    written = "{ " + ", ".join(f'{key} = "{value}"' for key, value in env.items()) + " }"
    args = [*CPU_ARGS, "--disaggregation-transfer-backend", "mooncake_tcp"]
    text = CONFIG.format(home=sglang_home, args=args, env=written)
    with Muxd(tmp_path_factory.mktemp("split"), text, deadline=DEADLINE) as muxd:
        yield muxd


def test_both_halves_are_ready_and_the_router_passes_requests_to_them(muxd):
    done = muxd.muxctl("start", "split")
    assert done.returncode == 0, done.stderr
    states = {worker["name"]: worker["state"] for worker in muxd.status("split")["workers"]}
    assert states["split/router"] == "ready"

    def healthy() -> bool:
        workers = {worker["name"]: worker["state"] for worker in muxd.status("split")["workers"]}
        return list(workers.values()) == ["ready"] * 3 and muxd.state("split") == "ready"

    eventually(healthy, "both halves are healthy, and their router knows it", DEADLINE)
    done = muxd.muxctl("stop", "split")
    assert done.returncode == 0, done.stderr
