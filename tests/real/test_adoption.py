"""muxd is killed while a real SGLang server streams and another one sleeps; the next muxd goes on with both."""

from pathlib import Path

from tests.end_to_end.muxd import Muxd, eventually
from tests.end_to_end.test_adoption import Streams, pids

from .any_engine import DEADLINE, A, B
from .test_muxd import config


def test_streams_and_sleepers_outlive_muxd(sglang_home: Path, tmp_path: Path) -> None:
    with Muxd(tmp_path, config(sglang_home, (2, 1)), deadline=DEADLINE) as muxd:
        texts = {name: muxd.ask(name, max_tokens=24) for name in (B, A)}
        eventually(lambda: muxd.state("tiny-b") == "asleep", "tiny-b sleeps at level 1")
        before = pids(muxd)
        streams = Streams(muxd, A, 4, 600)
        muxd.kill()
        muxd.start_again()
        assert pids(muxd) == before
        assert streams.join() == ["data: [DONE]"] * 4
        for name in (B, A, B):
            assert muxd.ask(name, max_tokens=24) == texts[name]
        assert pids(muxd) == before, "no server was started again"
