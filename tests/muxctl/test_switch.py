import json
import signal

import pytest

from .fake_muxd import stream_of

SWITCH = "POST /v1/models/qwen/switch"
TOLD = {"type": "switching", "model": "qwen"}
LINES = [
    TOLD | {"phase": "draining", "from": ["mistral"], "elapsed_s": 0.0, "eta_s": 71.2},
    TOLD | {"phase": "draining", "from": ["mistral"], "elapsed_s": 5.0, "eta_s": 66.2},
    TOLD | {"phase": "falling_asleep", "from": ["mistral"], "elapsed_s": 12.0, "eta_s": None},
    TOLD | {"phase": "waking", "from": ["mistral"], "elapsed_s": 14.0, "eta_s": 0.2},
]
READY = {"type": "ready", "model": "qwen", "url": "http://127.0.0.1:31001", "elapsed_s": 21.34}


def failed(code, message, **details):
    return {"type": "failed", "model": "qwen", "error": {"code": code, "message": message, "details": details}}


@pytest.fixture
def tells(muxd):
    """Make a switch to qwen tell these lines."""

    def tells(*lines, then_wait=False):
        muxd.scripts[SWITCH] = stream_of(*lines, then_wait=then_wait)

    return tells


def test_a_pipe_gets_one_line_for_each_phase(tells, muxctl):
    tells(*LINES, READY)
    assert muxctl("switch", "qwen") == (
        0,
        "mistral is draining, ready in about 1min 11s\n"
        "mistral is falling asleep\n"
        "qwen is waking\n"
        "qwen is ready after 21.3s\n",
        "",
    )


def test_json_is_every_line_as_it_came(tells, muxctl):
    tells(*LINES, READY)
    code, out, _ = muxctl("switch", "qwen", "--json")
    assert (code, [json.loads(line) for line in out.splitlines()]) == (0, [*LINES, READY])


@pytest.mark.parametrize(
    ("code", "exit_code"),
    [
        ("model_failed", 1),
        ("worker_stuck", 1),
        ("superseded", 9),
        ("switch_timeout", 8),
        ("model_stopped", 3),
        ("something_new", 1),
    ],
)
def test_the_reason_of_a_failure_is_its_exit_code(tells, muxctl, code, exit_code):
    tells(failed(code, "qwen failed: exited with status 1"))
    assert muxctl("switch", "qwen") == (exit_code, "", "muxctl: qwen failed: exited with status 1\n")


def test_a_failure_shows_the_end_of_the_log(tells, muxctl):
    tells(failed("model_failed", "qwen failed", log_tail=["Traceback\x1b[2J", "KeyError: 1"]))
    assert muxctl("switch", "qwen")[2] == "muxctl: qwen failed\n  | Traceback [2J\n  | KeyError: 1\n"


def test_a_model_nobody_knows_is_exit_4(muxd, muxctl):
    muxd.scripts[SWITCH] = lambda talk: talk.error(404, "model_not_found", "no model qwen")
    assert muxctl("switch", "qwen") == (4, "", "muxctl: no model qwen\n")


def test_no_wait_returns_when_it_is_accepted(muxd, muxctl):
    muxd.scripts[SWITCH] = lambda talk: talk.json({"accepted": True, "model": "qwen"}, 202)
    assert muxctl("switch", "qwen", "--no-wait") == (0, "muxd switches to qwen; watch it with muxctl status\n", "")
    assert muxctl("switch", "qwen", "--no-wait", "--json")[1] == '{"accepted": true, "model": "qwen"}\n'
    assert muxd.requests == [(SWITCH, {"wait": False})] * 2


def test_a_timeout_stops_watching_only(tells, muxctl):
    tells(LINES[0], then_wait=True)
    assert muxctl("switch", "qwen", "--timeout", "100ms") == (
        8,
        "mistral is draining, ready in about 1min 11s\n",
        "muxctl: qwen was not ready within 100ms; the switch goes on: see muxctl status qwen\n",
    )


def test_a_timeout_that_is_none_is_a_usage_error(muxd, muxctl):
    code, _, err = muxctl("switch", "qwen", "--timeout", "soon")
    assert (code, err) == (2, 'muxctl: --timeout: "soon" is not a duration; write seconds or "90s", "5min", "2h"\n')
    assert muxd.requests == []


@pytest.mark.parametrize("timeout", ["inf", "99999999999", "1"])
def test_a_timeout_may_be_as_long_as_one_likes(tells, muxctl, timeout):
    tells(READY)
    assert muxctl("switch", "qwen", "--timeout", timeout) == (0, "qwen is ready after 21.3s\n", "")


def test_a_muxd_that_goes_away_meanwhile_is_told(tells, muxctl):
    tells(LINES[0])
    code, _, err = muxctl("switch", "qwen")
    assert (code, err) == (7, "muxctl: muxd ended before qwen was ready; see its log\n")


def test_an_interrupt_leaves_the_switch_running_and_says_so(tells, muxd, process):
    tells(LINES[0], then_wait=True)
    child = process("--socket", str(muxd.path), "switch", "qwen")
    assert child.stdout.readline() == "mistral is draining, ready in about 1min 11s\n"
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=20)
    assert (child.returncode, out) == (130, "")
    assert err == "muxctl: not watching any more; the switch goes on: see muxctl status qwen\n"


def test_a_terminal_gets_a_line_that_is_redrawn(tells, muxd, terminal):
    tells(*LINES, READY)
    shown = terminal("--socket", str(muxd.path), "switch", "qwen")
    assert shown.ended() == 0
    assert "\x1b[2K" in shown.text  # the live line was taken away
    assert shown.text.rstrip().endswith("qwen is ready after 21.3s\x1b[0m")


def test_a_terminal_whose_cursor_cannot_be_moved_gets_lines(tells, muxd, terminal):
    tells(*LINES, READY)
    shown = terminal("--socket", str(muxd.path), "switch", "qwen", env={"TERM": "dumb"})
    assert shown.ended() == 0
    assert shown.text.splitlines()[-2:] == ["qwen is waking", "qwen is ready after 21.3s"]


def test_one_that_is_ready_already_is_not_said_to_have_taken_a_time(tells, muxctl):
    tells(READY | {"elapsed_s": 0.001})
    assert muxctl("switch", "qwen") == (0, "qwen is ready already\n", "")
