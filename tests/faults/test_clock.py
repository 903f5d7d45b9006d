"""The wall clock jumps a day, either way: row 26."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.end_to_end.conftest import two_models
from tests.end_to_end.muxd import Muxd, eventually

from .oracles import judged

DAY = 86_400

#: What every Python process of muxd's runs first: its wall clock is off by as much as a file says.
CLOCK = """\
import os, time
true = time.time
def wrong():
    try:
        return true() + float(open({path!r}).read() or 0)
    except OSError:
        return true()
time.time = wrong
"""


@pytest.mark.parametrize("jump", [DAY, -DAY])
def test_a_clock_that_jumps_ends_restarts_and_times_out_nothing(
    start: Callable[..., Muxd], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jump: int
) -> None:
    clock = tmp_path / "clock"
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(CLOCK.format(path=str(clock)))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    muxd = start(two_models())
    text = muxd.ask("alpha")
    muxd.ask("beta")
    before = {name: muxd.status(name)["pid"] for name in ("alpha", "beta")}
    with judged(muxd):
        with muxd.stream("beta", max_tokens=1500, ignore_eos=True) as lines:
            next(lines)
            clock.write_text(str(jump))
            assert list(lines)[-2] == "data: [DONE]"
        assert muxd.ask("alpha") == text
        assert muxd.ask("beta")
        eventually(lambda: muxd.state("alpha") == "asleep", "they switch as before")
        after = {name: muxd.status(name) for name in before}
        assert {name: each["pid"] for name, each in after.items()} == before
        assert all(each["restarts"] == 0 and 0 <= each["since_s"] < 600 for each in after.values())
    times = [line[:10] for line in muxd.log.splitlines() if line[:2] == "20"]
    assert len(set(times)) > 1, "the log has the wrong clock's time: the jump was seen"
