"""Standby on real SGLang: its process waits at the gate without a model, and serves from there."""

from tests.end_to_end.muxd import Muxd, eventually

from .any_engine import DEADLINE
from .sglang_cpu import CPU_ARGS, CPU_ENV

CONFIG = """\
[models.tiny-a]
python = "{home}/venv/bin/python"
args = {args}
env = {env}
model_path = "{home}/models/tiny-a"
sleep_level = 3
standby = true
"""

GiB = 1 << 30


def test_sglang_waits_at_its_gate_serves_from_there_and_is_found_again_by_the_next_muxd(sglang_home, tmp_path):
    env = "{ " + ", ".join(f'{key} = "{value}"' for key, value in CPU_ENV.items()) + " }"
    with Muxd(tmp_path, CONFIG.format(home=sglang_home, args=list(CPU_ARGS), env=env), deadline=DEADLINE) as muxd:

        def is_at_gate() -> bool:
            return muxd.status("tiny-a")["next"] == "starts from its gate at its next request"

        eventually(is_at_gate, "it waits at its gate", DEADLINE)
        eventually(lambda: muxd.saved().workers["tiny-a"].waits, "its record is written in a moment")
        waits = muxd.saved().workers["tiny-a"]
        assert waits.is_at_rest
        assert waits.gate_size is not None
        assert 0.5 * GiB < waits.gate_size < 4 * GiB
        assert muxd.status()["host_memory"]["standby"] == waits.gate_size
        assert "Load weight begin" not in muxd.muxctl("logs", "tiny-a", "-n", "500").stdout
        pid = muxd.status("tiny-a")["pid"]
        muxd.kill()
        muxd.start_again()
        eventually(is_at_gate, "the next muxd finds it there", DEADLINE)
        assert muxd.status("tiny-a")["pid"] == pid
        assert muxd.ask("tiny-a", max_tokens=8)
        assert muxd.status("tiny-a")["pid"] == pid, "it is the process that waited"
        assert muxd.status("tiny-a")["restarts"] == 0
        assert muxd.status()["host_memory"]["standby"] == 0
