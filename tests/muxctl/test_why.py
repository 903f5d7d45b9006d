import json
import re
import time
from pathlib import Path

import pytest

from muxctl import why
from muxctl.times import when
from muxd.core.commands import Cause

SWITCH = {
    "id": 4, "type": "switch", "time": 86404.0, "began": 86400.0, "model": "qwen", "to": "qwen", "from": ["llama"],
    "levels": {"llama": 1}, "cause": "due", "asked_by": [{"request": "f63", "key": "alice"}], "waiting": 2,
    "waited_s": 12.14, "wait_target_s": 30.0, "result": "ready", "reason": None, "duration_s": 3.44,
    "drain_s": 0.4, "sleep_s": 0.94, "free_s": 0.1, "wake_s": 2.0,
    "compared": [
        {"model": "qwen", "waiting": 2, "waited_s": 12.14, "score": 3.251, "due_in_s": -0.1, "comes_in_s": 0.0,
         "cost_s": 3.0},
        {"model": "embed\x1b", "waiting": 1, "waited_s": 1.0, "score": None, "due_in_s": 20.0, "comes_in_s": None,
         "cost_s": 9.0},
    ],
}  # fmt: skip
SHOWN = """\
qwen, in the place of llama (to level 1), 1970-01-02T00:00:00+00:00: ready after 3.4s
  why       it was due: begun later, its wait would have passed its bound (wait_target, of batch batch_max_wait: 30.0s)
  asked by  key alice, request f63
  waited    2 requests, the oldest for 12.1s when the switch began
  took      drain 0.4s, sleep 0.9s, free 0.1s, wake 2.0s
  compared
    MODEL   WAITING  WAITED  SCORE  DUE IN  COULD COME IN  SWITCH COSTS
    qwen          2   12.1s   3.25     now            now          3.0s
    embed         1    1.0s      -   20.0s  not yet known          9.0s
"""
UNDER_WAY = SWITCH | {"id": None, "result": None, "from": [], "cause": "operator", "waiting": 0, "compared": []}
UNDER_WAY |= {"asked_by": [{"operator": "root"}, {"operator": None}], "duration_s": 1.0}
UNDER_WAY = {key: value for key, value in UNDER_WAY.items() if key not in ("drain_s", "sleep_s", "free_s", "wake_s")}


def test_the_last_switch_is_told_with_who_asked_what_was_compared_and_its_parts(muxd, muxctl):
    muxd.scripts["GET /v1/switches?lines=1&model=qwen"] = lambda talk: talk.json({"switches": [SWITCH]})
    assert muxctl("why", "qwen") == (0, SHOWN.replace("embed  ", "embed  "), "")


def test_one_under_way_has_no_parts(muxd, muxctl):
    muxd.scripts["GET /v1/switches?lines=2"] = lambda talk: talk.json({"switches": [SWITCH, UNDER_WAY]})
    code, out, _ = muxctl("why", "-n", "2")
    assert code == 0
    assert out.split("\n\n")[1].splitlines() == [
        "qwen, 1970-01-02T00:00:00+00:00: under way after 1.0s",
        "  why       an operator switched to it, which goes ahead of the queue",
        "  asked by  operator root, operator",
    ]


def test_the_best_of_one_is_told_as_the_only_one_and_the_best_of_several_with_what_was_compared(muxd, muxctl):
    best = SWITCH | {"cause": "best"}
    alone = best | {"compared": best["compared"][:1]}
    muxd.scripts["GET /v1/switches?lines=2"] = lambda talk: talk.json({"switches": [alone, best]})
    first, second = muxctl("why", "-n", "2")[1].split("\n\n")
    assert "  why       requests waited for it, and for no other model that could come\n" in first
    assert "compared" not in first
    assert "it was worth most: the most work that waits for each second of switching" in second
    assert "  compared\n" in second


def test_a_return_after_a_loan_is_not_said_to_be_so_configured(muxd, muxctl):
    """The core has those that come back among the models to be preloaded."""
    back = UNDER_WAY | {"cause": "preload", "asked_by": []}
    muxd.scripts["GET /v1/switches?lines=1"] = lambda talk: talk.json({"switches": [back]})
    assert muxctl("why")[1].splitlines()[1:] == [
        "  why  it has preload = true, or it was awake before its GPUs were lent, and the loan is over"
    ]


def test_every_cause_has_its_words_here_and_in_the_console():
    assert why._CAUSES.keys() - {"best_of_several"} == set(Cause)
    page = (Path(__file__).parents[2] / "muxd/ui/static/now.js").read_text()
    told = re.search(r"const CAUSES = \{(.*?)\n\};", page, re.S)
    assert set(re.findall(r"^  (\w+): ", told[1], re.M)) == set(Cause)


def test_a_number_of_switches_is_one_at_least(muxd, muxctl):
    code, out, err = muxctl("why", "-n", "0")
    assert (code, out) == (2, "")
    assert "a whole number from 1, not '0'" in err


def test_of_a_time_the_last_that_had_begun_is_asked_for(muxd, muxctl):
    muxd.scripts["GET /v1/switches?lines=1&began_before=86401.0"] = lambda talk: talk.json({"switches": []})
    code, _, err = muxctl("why", "--at", "1970-01-02 00:00:01")
    assert (code, err) == (1, "muxctl: muxd remembers no switch of that time\n")


def test_json_is_the_switches(muxd, muxctl):
    muxd.scripts["GET /v1/switches?lines=1"] = lambda talk: talk.json({"switches": [SWITCH]})
    assert json.loads(muxctl("why", "--json")[1]) == [SWITCH]


def test_times_are_read_as_people_write_them():
    now = time.time()
    assert abs(now - 600 - when("10min", "--at")) < 5
    assert abs(now - 90 - when("90", "--at")) < 5
    assert when("1970-01-02", "--at") == 86400.0
    assert when("1970-01-02T00:00:01", "--at") == 86401.0
    assert now - 86400 <= when("18:04", "--at") <= now
    assert when("18:04:05", "--at") % 60 == 5


@pytest.mark.parametrize("text", ["tomorrow", "inf"])
def test_what_is_no_time_is_told(muxd, muxctl, text):
    code, _, err = muxctl("why", "--at", text)
    said = f'--at: \'{text}\' is no time; write "10min" ago, "18:04" or "2026-11-29 18:04:05"'
    assert (code, err) == (2, f"muxctl: {said}\n")
