"""validate: a row for each cycle, and the exit code of what it found."""

import json
import signal

import pytest

from .fake_muxd import stream_of

TOLD = {"type": "working", "model": "qwen", "from": [], "elapsed_s": 0.0, "eta_s": None}
SLEEPS = TOLD | {"phase": "falling_asleep", "level": 1, "cycle": 1}
MEASURED = {"before": 19456, "asleep": 9216, "awake": 19457}
CYCLE = {
    "type": "cycle",
    "model": "qwen",
    "worker": "qwen",
    "level": 1,
    "cycle": 1,
    "sleep_s": 0.03617,
    "wake_s": 12.5,
    "first_token_s": None,
    "gpu_mib": MEASURED,
    "host_mib": {"before": 28, "asleep": 10268, "awake": 28},
    "identical": True,
    "unproven": None,
    "passed": True,
    "error": None,
}
UNKNOWN = dict.fromkeys(("before", "asleep", "awake"))
FAILED = CYCLE | {
    "level": 2,
    "wake_s": None,
    "identical": None,
    "passed": False,
    "error": "its wake failed: 500\x1b[2J",
}
DONE = {"type": "done", "model": "qwen", "state": "ready", "elapsed_s": 65.2}

HEAD = (
    "LEVEL  CYCLE  SLEEP s  WAKE s  FIRST TOKEN s  GPU MiB BEFORE  ASLEEP   AWAKE  HOST MiB BEFORE  ASLEEP   AWAKE  "
    "SAME ANSWER  RESULT"
)
GOOD = (
    "    1      1    0.036  12.500              -           19456    9216   19457               28   10268      28  "
    "        yes      ok"
)
BAD = (
    "    2      1    0.036       -              -           19456    9216   19457               28   10268      28  "
    "          -  FAILED"
)


@pytest.fixture
def tells(muxd):
    """Make a validation of qwen tell these lines."""

    def tells(*lines, then_wait=False):
        muxd.scripts["POST /v1/models/qwen/validate"] = stream_of(*lines, then_wait=then_wait)

    return tells


def test_each_cycle_is_a_row(tells, muxctl):
    tells(SLEEPS, CYCLE, DONE)
    assert muxctl("validate", "qwen") == (0, f"{HEAD}\n{GOOD}\nqwen is ready after 1min 5s\n", "")


def test_a_cycle_that_failed_says_why_and_is_the_exit_code(tells, muxctl):
    tells(CYCLE, FAILED, DONE)
    code, out, err = muxctl("validate", "qwen")
    why = "  level 2: its wake failed: 500 [2J"
    assert (code, err) == (1, "muxctl: qwen failed at level 2\n")
    assert out == f"{HEAD}\n{GOOD}\n{BAD}\n{why}\nqwen is ready after 1min 5s\n"


def test_what_cannot_be_measured_is_said(tells, muxctl):
    tells(CYCLE | {"gpu_mib": UNKNOWN, "host_mib": UNKNOWN}, DONE)
    code, out, _ = muxctl("validate", "qwen")
    *_, row, gpu, host, _ = out.splitlines()
    assert (code, row.split()) == (0, ["1", "1", "0.036", "12.500", *["-"] * 7, "yes", "ok"])
    assert gpu == "GPU memory: nobody can measure it on this host"
    assert host == "host memory: muxd may not look at the model's processes"


def test_answers_that_cannot_be_compared_are_said_to_be_none(tells, muxctl):
    tells(CYCLE | {"identical": None, "unproven": "proof: /v1/completions answered 400"}, DONE)
    code, out, _ = muxctl("validate", "qwen")
    assert (code, out.splitlines()[1].split()[-2:]) == (0, ["-", "ok"])
    assert "\nanswers: nothing to compare: proof: /v1/completions answered 400\n" in out


def test_what_was_measured_once_is_not_said_to_be_beyond_measure(tells, muxctl):
    tells(CYCLE, CYCLE | {"gpu_mib": UNKNOWN}, DONE)
    assert "nobody can measure" not in muxctl("validate", "qwen")[1]


def test_several_workers_are_named(tells, muxctl):
    tells(CYCLE | {"worker": "qwen/0"}, CYCLE | {"worker": "qwen/1", "identical": False}, DONE)
    lines = muxctl("validate", "qwen")[1].splitlines()
    assert [line.split()[0] for line in lines[:3]] == ["WORKER", "qwen/0", "qwen/1"]
    assert " NO " in lines[2]


def test_json_is_every_line_as_it_came_and_the_exit_code_the_same(tells, muxctl):
    tells(SLEEPS, FAILED, DONE)
    code, out, err = muxctl("validate", "qwen", "--json")
    assert (code, [json.loads(line) for line in out.splitlines()]) == (1, [SLEEPS, FAILED, DONE])
    assert err == "muxctl: qwen failed at level 2\n"


@pytest.mark.parametrize(
    ("argv", "body"),
    [((), {}), (("--levels", "2, 0,2"), {"levels": [0, 2]}), (("--cycles", "3"), {"cycles": 3})],
)
def test_what_is_asked_for_is_what_was_written(tells, muxd, muxctl, argv, body):
    tells(CYCLE, DONE)
    assert muxctl("validate", "qwen", *argv)[0] == 0
    assert [sent for _, sent in muxd.requests] == [body]


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (("--levels", "4"), "argument --levels: levels are 0 to 3, with commas between them, not '4'"),
        (("--levels", ""), "argument --levels: levels are 0 to 3, with commas between them, not ''"),
        (("--levels", "1-2"), "argument --levels: levels are 0 to 3, with commas between them, not '1-2'"),
        (("--cycles", "0"), "argument --cycles: a whole number from 1 to 1000, not '0'"),
        (("--cycles", "99999999"), "argument --cycles: a whole number from 1 to 1000, not '99999999'"),
        (("--cycles", "many"), "argument --cycles: a whole number from 1 to 1000, not 'many'"),
    ],
)
def test_what_is_no_level_or_number_is_refused_before_anything_is_asked(muxd, muxctl, argv, said):
    code, _, err = muxctl("validate", "qwen", *argv)
    assert code == 2
    assert said in err
    assert muxd.requests == []


@pytest.mark.parametrize(("code", "exit_code"), [("level_refused", 2), ("superseded", 9), ("model_stopped", 3)])
def test_the_reason_of_a_refusal_is_its_exit_code(tells, muxctl, code, exit_code):
    error = {"code": code, "message": "qwen has no level 0", "retryable": False, "details": {}}
    tells({"type": "failed", "model": "qwen", "elapsed_s": 0.0, "error": error})
    assert muxctl("validate", "qwen") == (exit_code, "", "muxctl: qwen has no level 0\n")


def test_a_muxd_that_ends_meanwhile_is_exit_7(tells, muxctl):
    tells(CYCLE)
    code, _, err = muxctl("validate", "qwen")
    assert (code, err) == (7, "muxctl: muxd ended before qwen was validated; see its log\n")


def test_an_interrupt_ends_it_and_says_what_becomes_of_the_model(tells, muxd, process):
    tells(CYCLE, then_wait=True)
    child = process("--socket", str(muxd.path), "validate", "qwen")
    assert child.stdout.readline().startswith("LEVEL")
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=20)
    assert (child.returncode, err) == (130, "muxctl: the validation of qwen has ended; its clients are served again\n")


def test_a_terminal_gets_rows_and_below_them_what_goes_on(tells, muxd, terminal):
    tells(CYCLE, FAILED, SLEEPS, then_wait=True)
    shown = terminal("--socket", str(muxd.path), "validate", "qwen", columns=160)
    assert "\x1b[1m" in shown.until("RESULT")
    assert "\x1b[32mok" in shown.until("ok")
    assert "\x1b[31mFAILED" in shown.until("FAILED")
    shown.until("level 1, cycle 1: qwen is falling asleep")
    shown.type("\x03")
    shown.process.send_signal(signal.SIGINT)
    assert shown.ended() == 130


def test_a_terminal_is_told_the_end(tells, muxd, terminal):
    tells(CYCLE | {"gpu_mib": UNKNOWN}, DONE)
    shown = terminal("--socket", str(muxd.path), "validate", "qwen", columns=160)
    shown.until("GPU memory: nobody can measure it on this host")
    shown.until("qwen is ready after 1min 5s")
    assert shown.ended() == 0
