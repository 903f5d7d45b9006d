import pytest

from muxctl.display.detail import detail
from tests.muxctl.test_status import ASLEEP, BACKOFF, GIB, READY

TODAY = {  # what a muxd of today tells besides
    "stopped_by_operator": False,
    "script": None,
    "memory": {"declared": 40 * GIB, "awake": 38.25 * GIB, "asleep": None},
    "next": None,
    "switch_timeout_s": 300.0,
}


def facts(model, width=None):
    """The lines that are a name and its value."""
    return dict(line.split(":", 1) for line in detail(model, width) if ":" in line and not line.startswith(" "))


def test_batch_is_told_apart_from_those_who_wait_for_their_answers():
    model = READY | TODAY | {"in_flight_batch": 1, "waiting": 5, "waiting_batch": 4, "oldest_wait_s": 8.4}
    said = facts(model)["requests"].strip()
    assert said == "3 in flight (1 batch), 5 waiting (4 batch, the oldest for 8s, each at most 5min), at 1 proxy"


def test_one_model_is_told_in_detail(muxd, muxctl):
    model = READY | TODAY | {"next": "gives way to beta in at most 12s", "waiting": 2, "oldest_wait_s": 8.4}
    muxd.scripts["GET /v1/models/qwen"] = lambda talk: talk.json(model)
    assert muxctl("status", "qwen") == (
        0,
        """\
model:         qwen
state:         ready for 12s
next:          gives way to beta in at most 12s
served names:  qwen, Qwen/Qwen3-14B
engine:        sglang, sleep level 2
GPUs:          0
memory:        awake 38.2 GiB, asleep unknown; declared 40.0 GiB
worker:        pid 4300 at http://127.0.0.1:31001, started or woken 3 times
requests:      3 in flight, 2 waiting (the oldest for 8s, each at most 5min), at 1 proxy
restarts:      0
last exit:     none
""",
        "",
    )


def test_a_model_that_died_shows_the_end_of_its_log_without_its_control_characters(muxd, muxctl):
    last = BACKOFF["last_exit"] | {"code": "worker_exited"}
    model = BACKOFF | TODAY | {"next": "starts again in 3s", "script": "/opt/run qwen.sh", "last_exit": last}
    muxd.scripts["GET /v1/models/broken"] = lambda talk: talk.json(model)
    assert muxctl("status", "broken") == (
        3,
        """\
model:         broken
state:         backoff for 1s
reason:        exited with status 1 before ready
next:          starts again in 3s
ready in:      unknown
served names:  qwen, Qwen/Qwen3-14B
engine:        sglang, sleep level 2
script:        /opt/run qwen.sh
GPUs:          0
memory:        awake 38.2 GiB, asleep unknown; declared 40.0 GiB
worker:        none
requests:      0 in flight, 0 waiting, at 1 proxy
restarts:      4
last exit:     exited with status 1 (worker_exited), 1s ago
log:           17 bytes of it were lost: no space left on device

The end of its log, 1s ago:
  | Traceback [2J
  | KeyError
""",
        "",
    )


def test_an_older_muxd_tells_less_and_nothing_is_made_up():
    found = facts({key: value for key, value in BACKOFF.items() if key != "memory"})
    assert "memory" not in found
    assert found["next"].strip() == "tries again in 3s"
    assert found["last exit"].strip() == "exited with status 1, 1s ago"
    assert "next" not in facts(READY)


def test_nothing_measured_and_nothing_declared_is_said_so():
    nothing = {"memory": {"declared": None, "awake": None, "asleep": None}}
    assert facts(READY | TODAY | nothing)["memory"].strip() == "awake unknown, asleep unknown; declared none"


def test_how_much_of_the_weights_is_in_ram_is_said_where_somebody_knows():
    weights = {"bytes": 28 << 30, "in_ram": 12 << 30, "being_read": True}
    assert facts(READY | {"weights": weights})["weights"].strip() == (
        "12.0 of 28.0 GiB are in RAM, and they are being read ahead"
    )
    assert (
        facts(READY | {"weights": weights | {"being_read": False}})["weights"].strip() == "12.0 of 28.0 GiB are in RAM"
    )
    for unknown in (None, weights | {"in_ram": None}):
        assert "weights" not in facts(READY | {"weights": unknown})


@pytest.mark.parametrize(
    ("model", "ready_in"),
    [
        (ASLEEP, "about 1min 11s"),
        (ASLEEP | {"eta_s": None}, "unknown"),
        (ASLEEP | {"eta_s": None, "waiting": 0}, "nobody waits for it"),
        (READY | {"state": "starting", "url": None, "eta_s": None}, "unknown"),
        (READY | {"state": "stopped", "eta_s": None, "stopped_by_operator": True}, "-"),
        (READY | {"state": "stopping", "eta_s": 3.0, "stopped_by_operator": True}, "-"),  # until it has gone
        (READY | {"state": "falling_asleep", "eta_s": 3.0}, "nobody waits for it"),
        (READY | {"state": "falling_asleep", "eta_s": 9.0, "waiting": 1}, "about 9s"),
    ],
)
def test_when_it_will_be_ready_is_known_unknown_or_no_question(model, ready_in):
    assert facts(TODAY | model)["ready in"].strip() == ready_in


@pytest.mark.parametrize(("state", "next"), [("ready", "nothing is planned"), ("starting", None), ("waking", None)])
def test_that_nothing_is_planned_is_said_of_no_model_that_is_on_its_way(state, next):
    told = facts(READY | {"state": state, "next": None})
    assert (told["next"].strip() if "next" in told else None) == next


def test_a_model_that_an_operator_stopped_says_what_lifts_it():
    found = facts(READY | TODAY | {"state": "stopped", "stopped_by_operator": True, "pid": None})
    assert found["state"].strip() == "stopped for 12s, by an operator"
    assert found["next"].strip() == "stays down until muxctl start qwen"
    assert (
        facts(READY | TODAY | {"stopped_by_operator": True})["state"].strip() == "ready for 12s; an operator stops it"
    )


def test_a_model_that_a_reload_took_away_says_so():
    assert facts(READY | TODAY | {"removed": True})["state"].strip() == "ready for 12s; not configured any more"


def test_why_it_does_not_sleep_as_it_should_is_told():
    trouble = "cannot read its weights again"
    assert facts(READY | TODAY | {"sleep_trouble": trouble})["sleep trouble"].strip() == trouble
    assert "sleep trouble" not in facts(READY | TODAY | {"sleep_trouble": None})


def test_a_worker_that_is_not_ready_has_no_address_yet():
    assert facts(READY | {"state": "starting", "url": None})["worker"].strip() == "pid 4300, started or woken 3 times"


def test_on_a_terminal_a_long_reason_goes_on_below_its_beginning():
    lines = detail(BACKOFF | {"reason": "it died of this and that and " * 8}, 60)
    at = next(i for i, line in enumerate(lines) if line.startswith("reason:"))
    assert max(map(len, lines)) <= 60
    assert lines[at + 1][:15].isspace()
    assert lines[at + 1][15] != " "
    assert " ".join(line[15:] for line in lines[at : at + 6]).startswith("it died of this and that and it died of")


def test_each_of_several_workers_has_a_line_of_its_own():
    ready = {"name": "qwen/0", "state": "ready", "since_s": 5, "gpus": [0], "pid": 12, "restarts": 1, "reason": None}
    router = ready | {"name": "qwen/router", "gpus": [], "restarts": 0}
    down = ready | {"name": "qwen/1", "state": "backoff", "pid": None, "gpus": [1], "reason": "exited with status 1"}
    lines = detail(BACKOFF | {"workers": [ready, down, router]})
    assert [line.split(":", 1)[1].strip() for line in lines if line.startswith("qwen/")] == [
        "ready for 5s, GPU 0, pid 12, restarts 1",
        "backoff for 5s, GPU 1, restarts 1, exited with status 1",
        "ready for 5s, pid 12",
    ]
    assert not [line for line in lines if line.startswith("worker:")]
