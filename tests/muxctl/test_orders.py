"""start, stop, restart and sleep; what they share with switch is tested in test_switch."""

import json
import signal

import pytest

from muxctl.exit_codes import BY_CODE

from .fake_muxd import stream_of

TOLD = {"type": "working", "model": "qwen", "from": []}
DRAINING = TOLD | {"phase": "draining", "elapsed_s": 0.0, "eta_s": 12.2}
DONE = {"type": "done", "model": "qwen", "elapsed_s": 3.21}

ENDS = {
    "start": ("ready", "qwen is ready after 3.2s"),
    "stop": ("stopped", "qwen is stopped; requests for it get 503 until muxctl start qwen"),
    "restart": ("ready", "qwen is ready after 3.2s"),
    "sleep": ("asleep", "qwen is asleep"),
}
VERBS = sorted(ENDS)
GOALS = {"start": "ready", "stop": "stopped", "restart": "ready", "sleep": "asleep"}


def failed(code, message):
    error = {"code": code, "message": message, "retryable": True, "details": {}}
    return {"type": "failed", "model": "qwen", "elapsed_s": 1.0, "error": error}


@pytest.fixture
def tells(muxd):
    """Make an order for qwen tell these lines."""

    def tells(verb, *lines, then_wait=False):
        muxd.scripts[f"POST /v1/models/qwen/{verb}"] = stream_of(*lines, then_wait=then_wait)

    return tells


@pytest.mark.parametrize("verb", VERBS)
def test_each_phase_is_told_and_in_the_end_what_the_model_is_now(tells, muxctl, verb):
    state, said = ENDS[verb]
    tells(verb, DRAINING, DRAINING | {"eta_s": 11.0}, TOLD | {"phase": "queued"}, DONE | {"state": state})
    assert muxctl(verb, "qwen") == (
        0,
        f"qwen is draining, {GOALS[verb]} in about 12s\nqwen is waiting for its turn\n{said}\n",
        "",
    )


def test_a_model_that_sleeps_by_ending_is_not_said_to_be_held_down(tells, muxctl):
    tells("sleep", DONE | {"state": "stopped"})
    assert muxctl("sleep", "qwen") == (0, "qwen is stopped\n", "")


@pytest.mark.parametrize("verb", VERBS)
def test_json_is_every_line_as_it_came(tells, muxctl, verb):
    lines = [DRAINING, DONE | {"state": ENDS[verb][0]}]
    tells(verb, *lines)
    code, out, _ = muxctl("--json", verb, "qwen")
    assert (code, [json.loads(line) for line in out.splitlines()]) == (0, lines)


@pytest.mark.parametrize(
    ("argv", "body"),
    [
        (("start", "qwen"), {"wait": True}),
        (("sleep", "qwen"), {"wait": True}),
        (("sleep", "qwen", "--level", "0"), {"wait": True, "level": 0}),
        (("stop", "qwen"), {"wait": True, "now": False}),
        (("stop", "qwen", "--now"), {"wait": True, "now": True}),
        (("restart", "--now", "qwen"), {"wait": True, "now": True}),
        (("hold", "qwen"), {"wait": True}),
        (("hold", "qwen", "--for", "2h"), {"wait": True, "for_s": 7200.0}),
        (("hold", "qwen", "--for", "5m"), {"wait": True, "for_s": 300.0}),
        (("hold", "qwen", "--for", "1h30m 5ms"), {"wait": True, "for_s": 5400.005}),
        (("hold", "qwen", "--for", "inf"), {"wait": True}),
    ],
)
def test_what_is_asked_for_is_what_was_written(tells, muxd, muxctl, argv, body):
    tells(argv[0], DONE | {"state": "ready"})
    assert muxctl(*argv)[0] == 0
    assert [sent for _, sent in muxd.requests] == [body]


def test_a_hold_that_was_over_before_the_model_had_come_says_so(tells, muxctl):
    tells("hold", {"type": "ready", "model": "qwen", "elapsed_s": 3.5, "url": "http://127.0.0.1:9"})
    assert muxctl("hold", "qwen", "--for", "1h")[1] == "qwen is ready, and held; muxctl unhold qwen lets it go\n"
    code, out, _ = muxctl("hold", "qwen", "--for", "2s")
    assert code == 0
    assert out == "qwen is ready, and held no more: its time was over before, as it counts from the order on\n"


def test_a_hold_of_a_model_that_is_ready_already_says_that_it_is_held(tells, muxctl):
    tells("hold", {"type": "ready", "model": "qwen", "elapsed_s": 0.0, "url": "http://127.0.0.1:9"})
    assert muxctl("hold", "qwen") == (0, "qwen is ready, and held; muxctl unhold qwen lets it go\n", "")


@pytest.mark.parametrize("verb", VERBS)
def test_no_wait_returns_when_it_is_accepted(muxd, muxctl, verb):
    muxd.scripts[f"POST /v1/models/qwen/{verb}"] = lambda talk: talk.json({"accepted": True, "model": "qwen"}, 202)
    others = {"sleep": "muxd puts qwen to sleep", "start": "muxd starts qwen if its GPUs have room"}
    said = others.get(verb, f"muxd {verb}s qwen")
    assert muxctl(verb, "qwen", "--no-wait") == (0, f"{said}; watch it with muxctl status\n", "")
    assert muxctl(verb, "qwen", "--no-wait", "--json")[1] == '{"accepted": true, "model": "qwen"}\n'
    assert [body["wait"] for _, body in muxd.requests] == [False, False]


@pytest.mark.parametrize("verb", ["start", "sleep"])
def test_only_what_drains_can_be_hurried(muxctl, verb):
    code, _, err = muxctl(verb, "qwen", "--now")
    assert code == 2
    assert f"muxctl {verb}: error: no such option: --now; " in err


@pytest.mark.parametrize(
    ("code", "exit_code"),
    [
        ("no_room", 3),
        ("level_refused", 2),
        ("superseded", 9),
        ("model_stopped", 3),
        ("model_failed", 1),
        ("of_tomorrow", 1),
    ],
)
def test_the_reason_of_a_failure_is_its_exit_code(tells, muxctl, code, exit_code):
    message = "qwen may run, but beta holds GPU 0: muxctl switch qwen makes room"
    tells("start", failed(code, message))
    assert muxctl("start", "qwen") == (exit_code, "", f"muxctl: {message}\n")
    assert BY_CODE.get(code, 1) == exit_code


@pytest.mark.parametrize(
    ("status", "code", "exit_code"),
    [(404, "model_not_found", 4), (403, "permission_denied", 5), (409, "superseded", 9)],
)
def test_a_refusal_is_told_and_has_its_exit_code(muxd, muxctl, status, code, exit_code):
    muxd.scripts["POST /v1/models/qwen/stop"] = lambda talk: talk.error(status, code, "no, because")
    assert muxctl("stop", "qwen") == (exit_code, "", "muxctl: no, because\n")


def test_a_timeout_stops_watching_only(tells, muxctl):
    tells("stop", DRAINING, then_wait=True)
    assert muxctl("stop", "qwen", "--timeout", "100ms") == (
        8,
        "qwen is draining, stopped in about 12s\n",
        "muxctl: qwen was not stopped within 100ms; the stop goes on: see muxctl status qwen\n",
    )


def test_a_muxd_that_goes_away_meanwhile_is_told(tells, muxctl):
    tells("sleep", DRAINING)
    code, _, err = muxctl("sleep", "qwen")
    assert (code, err) == (7, "muxctl: muxd ended before qwen was asleep; see its log\n")


def test_a_muxd_that_is_upgraded_meanwhile_is_told_and_what_to_do(muxd, muxctl):
    def script(talk):
        talk.stream()
        talk.chunk(DRAINING)

    muxd.scripts["POST /v1/models/qwen/sleep"] = script
    code, _, err = muxctl("sleep", "qwen")
    again = "give the sleep again; after an upgrade that waits for the one that goes on"
    assert (code, err) == (7, f"muxctl: muxd ended, or was upgraded, before qwen was asleep: {again}\n")


def test_an_interrupt_leaves_the_order_standing_and_says_so(tells, muxd, process):
    tells("restart", DRAINING, then_wait=True)
    child = process("--socket", str(muxd.path), "restart", "qwen")
    assert child.stdout.readline() == "qwen is draining, ready in about 12s\n"
    child.send_signal(signal.SIGINT)
    assert child.communicate(timeout=20)[1] == (
        "muxctl: not watching any more; the restart goes on: see muxctl status qwen\n"
    )
    assert child.returncode == 130


def test_a_terminal_gets_a_line_that_is_redrawn(tells, muxd, terminal):
    tells("stop", DRAINING, DONE | {"state": "stopped"})
    shown = terminal("--socket", str(muxd.path), "stop", "qwen")
    assert shown.ended() == 0
    assert "\x1b[2K" in shown.text
    assert "qwen is stopped; requests for it get 503 until muxctl start qwen" in shown.text


@pytest.mark.parametrize("words", [("hold", "qwen"), ("yield",), ("lend", "0")])
@pytest.mark.parametrize(
    ("time", "said"), [("soon", "is not a duration"), ("", "is not a duration"), ("0", "longer than no time")]
)
def test_who_holds_yields_or_lends_for_a_time_gives_one(muxctl, words, time, said):
    code, _, err = muxctl(*words, "--for", time, *(["--", "true"] if "lend" in words else []))
    assert (code, "--for" in err, said in err) == (2, True, True)


def test_a_loan_that_is_refused_is_not_waited_for(muxd, muxctl):
    def refuse(talk):
        talk.stream()
        talk.chunk(failed("gpu_not_found", "there is no GPU 7"))
        talk.end()

    muxd.scripts["POST /v1/loans"] = refuse
    assert muxctl("lend", "7", "--", "true")[1:] == ("", "muxctl: there is no GPU 7\n")


def test_who_waits_for_a_loan_is_told_so(muxd, process):
    def keep(talk):
        talk.stream()
        talk.wait_for_close()

    muxd.scripts["POST /v1/loans"] = keep
    child = process("--socket", str(muxd.path), "lend", "0", "--", "true")
    assert child.stderr.readline() == "muxctl: GPU 0: waiting until models have left it\n"
    child.send_signal(signal.SIGINT)
    assert child.communicate(timeout=20)[1] == "muxctl: not lent: nothing was started\n"
    assert child.returncode == 130


def test_there_are_no_fewer_replicas_than_none(muxctl):
    code, _, err = muxctl("scale", "qwen", "-1")
    assert (code, "'-1' is not a number of replicas" in err) == (2, True)


def test_a_model_is_let_go(muxd, muxctl):
    muxd.scripts["POST /v1/models/qwen/unhold"] = lambda talk: talk.json({"model": "qwen", "held": False})
    assert muxctl("unhold", "qwen") == (0, "qwen is not held any more\n", "")
    assert muxctl("unhold", "qwen", "--json")[1] == '{"model": "qwen", "held": false}\n'


def test_one_that_nobody_holds_is_told(muxd, muxctl):
    muxd.scripts["POST /v1/models/qwen/unhold"] = lambda talk: talk.error(409, "not_held", "no operator holds qwen")
    assert muxctl("unhold", "qwen") == (3, "", "muxctl: no operator holds qwen\n")


def scaling(ready, wanted, **workers):
    states = {name.replace("_", "/"): state for name, state in workers.items()}
    told = TOLD | {"phase": "scaling", "elapsed_s": 0.0, "eta_s": 2.1 * ("starting" in states.values())}
    return told | {"replicas": {"ready": ready, "wanted": wanted}, "workers": states}


def test_a_scaling_tells_how_many_replicas_serve_what_the_others_do_and_how_many_are_ready_in_the_end(tells, muxctl):
    steps = scaling(1, 3, qwen_1="waking", qwen_2="starting"), scaling(2, 3, qwen_2="ready")
    tells("scale", *steps, DONE | {"state": "ready", "elapsed_s": 0.01})
    assert muxctl("scale", "qwen", "3")[1].splitlines() == [
        "qwen: 1 of 3 replicas ready, qwen/1 is waking, qwen/2 is starting, scaled in about 2s",
        "qwen: 2 of 3 replicas ready, qwen/2 waits for its router",
        "qwen: 3 replicas are ready after 0.0s",
    ]


@pytest.mark.parametrize(
    ("count", "state", "said"),
    [
        ("1", "ready", "qwen: 1 replica is ready already"),
        ("2", "ready", "qwen: 2 replicas are ready already"),
        ("0", "asleep", "qwen is asleep, with no replica on a GPU; its next request brings it back"),
    ],
)
def test_a_scaling_that_changes_nothing_or_ends_with_no_replica_says_so(tells, muxctl, count, state, said):
    tells("scale", DONE | {"state": state, "elapsed_s": 0.01})
    assert muxctl("scale", "qwen", count) == (0, f"{said}\n", "")
