"""The wake proof on real SGLang: it catches a reload that did nothing, and believes every wake that is right."""

from pathlib import Path

from tests.end_to_end.muxd import Muxd

from .any_engine import DEADLINE, A, B
from .test_muxd import config

BROKEN = Path(__file__).with_name("broken_reload")


def test_a_reload_that_did_nothing_is_caught_and_its_level_left_after_two(sglang_home, tmp_path):
    text = config(sglang_home, (2, 1)).replace(
        "[models.tiny-a]", f'[models.tiny-a]\nenv = {{ PYTHONPATH = "{BROKEN}" }}'
    )
    with Muxd(tmp_path, text, deadline=DEADLINE) as muxd:
        said = muxd.ask(A, max_tokens=24)
        for _ in range(2):
            muxd.muxctl("sleep", "tiny-a")
            assert muxd.ask(A, max_tokens=24) == said
            last = muxd.status("tiny-a")["last_exit"]
            assert last["code"] == "woke_wrong"
            assert "its wake from level 2 was wrong: it does not answer as when it was loaded" in last["reason"]
        status = muxd.status("tiny-a")
        assert status["sleep_level"] == 1
        assert status["sleep_trouble"] == "sleeps at 1: 2 wakes in a row from level 2 were wrong"
        muxd.muxctl("sleep", "tiny-a")
        assert muxd.status("tiny-a")["level"] == 1
        assert muxd.ask(A, max_tokens=24) == said
        assert muxd.status("tiny-a")["generation"] == 6, "three starts, and three wakes of which the last was right"


def test_no_right_wake_is_taken_for_a_wrong_one(sglang_home, tmp_path):
    with Muxd(tmp_path, config(sglang_home, (2, 1)), deadline=DEADLINE) as muxd:
        for model, name, levels in ((A, "tiny-a", (2, 0, 2, 2)), (B, "tiny-b", (1, 0, 1, 1))):
            said = muxd.ask(model, max_tokens=24)
            proof = muxd.saved().workers[name].proof
            assert proof is not None
            assert len(proof.prompt) == 31
            for level in levels:
                muxd.muxctl("sleep", name, "--level", str(level))
                assert muxd.ask(model, max_tokens=24) == said
            assert (muxd.status(name)["restarts"], muxd.status(name)["sleep_trouble"]) == (0, None)
