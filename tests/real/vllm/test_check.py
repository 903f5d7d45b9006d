"""`muxd check` asks real vLLM what it is, and which arguments it does not take."""

import os
from pathlib import Path

import pytest

from muxd.check.verb import check
from muxd.engines.vllm.installation import PACKAGE, RELEASE_HOST_MEMORY, folder_of, lacking

CONFIG = """\
[muxd]
socket = "{folder}/muxd.sock"
[models.a]
engine = "vllm"
python = "{home}/venv/bin/python"
model_path = "{home}/models/tiny-a"
max_model_len = 2048
sleep_level = 2
args = ["--max-num-seqs", "4", "--no-such-flag"]
"""


def test_it_says_its_version_and_what_it_lacks(vllm_home: Path):
    python = str(vllm_home / "venv/bin/python")
    found = PACKAGE.look(python, os.environ)
    assert str(found).startswith("vLLM 0.32.0, torch ")
    assert lacking(Path(found.folder)) == lacking(folder_of(python, {})) == {RELEASE_HOST_MEMORY}


def test_it_says_which_arguments_it_does_not_take(vllm_home: Path):
    asked = {
        "good": [
            "--model",
            "x",
            "--middleware",
            "a.b",
            "--no-log-error-stack",
            "-tp",
            "2",
            "--kv-cache-memory-bytes",
            "5",
        ],
        "unknown": ["--model", "x", "--max-modle-len", "5"],
        "stray": ["--model", "x", "--dtype", "auto", "stray"],
        "three": ["--dtype", "bfloat61", "--seed=x", "--no-such-flag", "5"],
    }
    rejected = PACKAGE.rejected_args(str(vllm_home / "venv/bin/python"), os.environ, asked)
    texts = {name: [fault.text for fault in faults] for name, faults in rejected.items()}
    assert texts["unknown"] == ["it knows no --max-modle-len; did you mean --max-model-len?"]
    dtype, seed, unknown = texts["three"]
    assert dtype.startswith("--dtype: bfloat61 is no value of it; did you mean bfloat16? There are auto, ")
    assert "--seed" in seed
    assert unknown == "it knows no --no-such-flag; remove it"
    assert texts["stray"] == ["stray belongs to no flag; remove it, or write its flag first"]
    assert set(texts) == {"unknown", "three", "stray"}


def test_a_configuration_is_checked_against_it(vllm_home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "muxd.toml").write_text(CONFIG.format(folder=tmp_path, home=vllm_home))
    assert check(tmp_path / "muxd.toml", dict(os.environ)) == 2
    wrong = [line for line in capsys.readouterr().out.splitlines() if line.lstrip().startswith("WRONG")]
    assert len(wrong) == 1
    assert "muxd.toml:9: the vLLM of " in wrong[0]
    assert "it knows no --no-such-flag; remove it" in wrong[0]
