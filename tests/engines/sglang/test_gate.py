"""Which installed SGLang has a gate, and what is said of one that has none."""

from dataclasses import replace
from pathlib import Path

import pytest

from muxd.config import Model
from muxd.engines.engine_packages import Interpreter
from muxd.engines.sglang.checks import unfit
from muxd.engines.sglang.gate import has_gate

MODEL = Model("a", model_path="org/a", sleep_level=3, standby=True)


def package(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


@pytest.mark.parametrize(
    ("files", "has"),
    [
        ({"srt/arg_groups/fields/parallel.py": "    gated_launch_port: A[\n"}, True),
        ({"srt/server_args.py": "gated_launch_port: Optional[int] = None"}, True),
        ({"srt/server_args.py": "dist_init_addr: Optional[str] = None"}, False),
        ({}, True),  # where it says that is not known: its own parser will tell
    ],
)
def test_an_sglang_has_a_gate_if_it_declares_the_flag(tmp_path, files, has):
    folder = package(tmp_path, files)
    assert has_gate(folder) is has
    told = list(unfit(MODEL, Interpreter("python3", "0.5.16", folder=str(folder))))
    assert [path for path, _ in told] == ([] if has else [("standby",)])
    assert (
        has or "SGLang 0.5.16 has no gate at which a process could wait: it knows no --gated-launch-port" in told[0][1]
    )
    assert not list(unfit(replace(MODEL, standby=False), Interpreter("python3", "0.5.16", folder=str(folder))))
