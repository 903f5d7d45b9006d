"""llmux's own configuration over real vLLM: `muxd start --llmux`, and its `--validate MODEL --levels 1,2 --verbose`."""

import json
import os
import re
import subprocess
import sys

import pytest

from tests.end_to_end.scripts import Scripts, environ
from tests.ports import free_port
from tests.real.any_engine import DEADLINE

from .vllm_cpu import CPU_ARGS, CPU_ENV


@pytest.fixture
def config(vllm_home, tmp_path, monkeypatch):
    """A config.json of llmux 1 with two models, one that waits in host RAM and one that is read again."""
    models = {
        f"tiny-{letter}": {
            "model_path": str(vllm_home / f"models/tiny-{letter}"),
            "port": free_port(),
            "sleep_level": level,
            "extra_args": list(CPU_ARGS),
        }
        for letter, level in (("a", 1), ("b", 2))
    }
    for name, value in CPU_ENV.items():
        monkeypatch.setenv(name, value)
    file = tmp_path / "config.json"
    program = str(vllm_home / "venv/bin/vllm")
    whole = {"models": models, "port": free_port(), "metrics_port": 0, "vllm_command": program}
    file.write_text(json.dumps({**whole, "policy": {"request_timeout_secs": 300, "policy_type": "fifo"}}, indent=2))
    return file


@pytest.mark.long
def test_two_models_of_llmux_take_turns(config, tmp_path):
    with Scripts(tmp_path, "--llmux", "config.json", deadline=DEADLINE) as muxd:
        for name in ("tiny-a", "tiny-b", "tiny-a"):
            assert muxd.ask(name)
        assert muxd.status("tiny-b")["state"] == "asleep"
        assert [muxd.status(name)["restarts"] for name in ("tiny-a", "tiny-b")] == [0, 0]


def test_its_validate_line_works_as_it_stands(config, tmp_path):
    words = ["start", "--llmux", "config.json", "--validate", "tiny-a", "--levels", "1,2", "--verbose"]
    argv = [sys.executable, "-m", "muxd", *words]
    where = environ(tmp_path) | {"PATH": os.environ["PATH"]}
    said = {"capture_output": True, "text": True, "timeout": 3 * DEADLINE, "check": False}
    ended = subprocess.run(argv, cwd=tmp_path, env=where, **said)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    print(ended.stdout)
    assert re.findall(r"^ +([12]) .* (\w+)$", ended.stdout, re.MULTILINE) == [("1", "ok")] * 2 + [("2", "ok")] * 2
