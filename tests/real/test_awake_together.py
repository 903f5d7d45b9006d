"""Two real SGLang servers awake at a time on what counts as one GPU: their sizes are said, and fit."""

import threading
from pathlib import Path

from tests.end_to_end.muxd import Muxd

from .sglang_cpu import CPU_ARGS, CPU_ENV
from .test_muxd import DEADLINE, A, B

#: A share of memory among the args would take the place of the sizes in `memory`.
ARGS = [arg for arg in CPU_ARGS if arg not in ("--mem-fraction-static", "0.1")]

CONFIG = """\
[gpus]
memory = {{ 0 = "10GiB" }}
[defaults]
python = "{home}/venv/bin/python"
args = {args}
env = {env}
memory = {{ weights = "3GiB", kv = "1GiB", overhead = "500MiB" }}
[models.tiny-a]
model_path = "{home}/models/tiny-a"
served_names = ["tests/tiny-a"]
[models.tiny-b]
model_path = "{home}/models/tiny-b"
served_names = ["tests/tiny-b"]
"""


def test_two_that_fit_answer_at_the_same_time_and_neither_ever_leaves(sglang_home: Path, tmp_path: Path) -> None:
    env = "{ " + ", ".join(f'{key} = "{value}"' for key, value in CPU_ENV.items()) + " }"
    with Muxd(tmp_path, CONFIG.format(home=sglang_home, args=ARGS, env=env), deadline=DEADLINE) as muxd:
        texts = {model: muxd.ask(model, max_tokens=24) for model in (A, B)}
        assert (muxd.state("tiny-a"), muxd.state("tiny-b")) == ("ready", "ready")
        said: dict[str, str] = {}
        clients = [
            threading.Thread(target=lambda m=model: said.update({m: muxd.ask(m, max_tokens=24)})) for model in (A, B)
        ]
        with muxd.stream(A, max_tokens=400, ignore_eos=True) as lines:
            next(lines)
            for client in clients:
                client.start()
            for client in clients:
                client.join()
        assert said == texts
        assert [move for move in muxd.moves() if move[1] == "ready"] == [], "nobody gave way"
        muxd.stop()
