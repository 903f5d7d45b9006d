import signal

import pytest

from tests.muxctl.display.test_overview import twenty
from tests.muxctl.fake_muxd import FakeMuxd
from tests.muxctl.test_status import READY, STATUS

ON, OFF = "\x1b[?1049h", "\x1b[?1049l"  # the alternate screen


@pytest.fixture
def watched(muxd, terminal):
    """`muxctl status --watch` on a terminal, once it has shown what there is."""

    def watched(*argv, status=STATUS, **options):
        muxd.scripts["GET /v1/status"] = lambda talk: talk.json(status)
        muxd.scripts["GET /v1/models/qwen"] = lambda talk: talk.json(READY)
        shown = terminal("--socket", str(muxd.path), "status", "--watch", *argv, **options)
        shown.until("Ctrl-C ends")
        return shown

    return watched


def test_it_is_redrawn_in_place_and_the_last_view_is_left_for_reading(watched):
    shown = watched("0.1", columns=120)
    assert ON in shown.text
    assert "mistral-small" in shown.until("every 0.1s; Ctrl-C ends")
    shown.process.send_signal(signal.SIGINT)
    assert shown.ended() == 0
    after = shown.text.rpartition(OFF)[2]
    assert after.count("mistral-small") == 2  # the switch to it, and its row
    assert "Ctrl-C" not in after


def test_one_model_is_watched_too(watched):
    assert "state:         " in watched("qwen").text


def test_a_restart_of_muxd_is_waited_for(watched, muxd, short_dir):
    shown = watched("0.1", columns=120)
    muxd.close()
    muxd.path.unlink()
    shown.until("muxd is not running")
    shown.until("waiting for it, 0s so far")
    again = FakeMuxd(short_dir / "muxd.sock")
    try:
        again.scripts["GET /v1/status"] = lambda talk: talk.json(STATUS | {"version": "0.2.0"})
        shown.until("muxd 0.2.0")
    finally:
        shown.process.send_signal(signal.SIGINT)
        assert shown.ended() == 0
        again.close()


def test_a_window_that_becomes_lower_is_filled_anew_at_once(watched):
    shown = watched("3600", status=twenty(), lines=50)
    assert "more at rest" not in shown.text
    shown.resize(20, 80)
    shown.until("more at rest")
    shown.until("every 1h; Ctrl-C ends")


def test_a_pause_gives_the_shell_its_screen_back(watched):
    shown = watched("3600")
    shown.process.send_signal(signal.SIGTSTP)
    shown.until(OFF)
    shown.stopped()
    shown.process.send_signal(signal.SIGCONT)
    shown.until(ON)
    shown.until("Ctrl-C ends")


def test_a_termination_leaves_the_terminal_as_it_was(watched):
    shown = watched("3600")
    shown.process.terminate()
    assert shown.ended() == 128 + signal.SIGTERM
    assert {OFF, "\x1b[?25h"} == {code for code in (ON, OFF, "\x1b[?25h") if code in shown.text.rpartition("ends")[2]}


def test_a_terminal_whose_cursor_cannot_be_moved_gets_blocks(muxd, terminal):
    muxd.scripts["GET /v1/status"] = lambda talk: talk.json(STATUS)
    shown = terminal("--socket", str(muxd.path), "status", "--watch", env={"TERM": "dumb"})
    assert "\x1b" not in shown.until("broken ")
    assert shown.text.startswith("--- ")
