import json
import re

import pytest

GIB = 1 << 30

READY = {
    "name": "qwen",
    "served_names": ["qwen", "Qwen/Qwen3-14B"],
    "engine": "sglang",
    "state": "ready",
    "since_s": 12.7,
    "sleep_level": 2,
    "gpus": [0],
    "url": "http://127.0.0.1:31001",
    "generation": 3,
    "in_flight": 3,
    "waiting": 0,
    "oldest_wait_s": None,
    "leases": 1,
    "restarts": 0,
    "pid": 4300,
    "last_exit": None,
    "reason": None,
    "eta_s": 0.0,
    "retry_in_s": None,
    "dropped_log_bytes": 0,
    "memory": {"declared": None, "awake": 38.25 * GIB, "asleep": 0.5 * GIB},
    "tokens_per_s": 91.3,
    "requests_per_min": 240,
    "unused_s": None,
}
ASLEEP = READY | {
    "name": "mistral-small",
    "served_names": ["mistral-small"],
    "state": "asleep",
    "since_s": 7505,
    "gpus": [0, 1],
    "url": None,
    "in_flight": 0,
    "waiting": 12,
    "oldest_wait_s": 8.2,
    "eta_s": 71.0,
    "tokens_per_s": None,
    "requests_per_min": None,
}
BACKOFF = READY | {
    "name": "broken",
    "state": "backoff",
    "since_s": 1.5,
    "url": None,
    "in_flight": 0,
    "restarts": 4,
    "pid": None,
    "last_exit": {"reason": "exited with status 1", "when_s": 1.5, "log_tail": ["Traceback\x1b[2J", "KeyError"]},
    "reason": "exited with status 1 before ready",
    "eta_s": None,
    "retry_in_s": 3.6,
    "dropped_log_bytes": 17,
    "dropped_log_reason": "no space left on device",
    "tokens_per_s": None,
    "requests_per_min": None,
    "unused_s": 125.0,
}
STATUS = {
    "version": "0.1.0",
    "pid": 4242,
    "uptime_s": 7505.1,
    "simulated": False,
    "proxy": {"listen": "127.0.0.1:30100", "managed": True, "state": "running", "pid": 4250},
    "gpus": [
        {"index": 0, "name": "NVIDIA H200", "total": 140 * GIB, "used": 38.25 * GIB}
        | {"utilization": 91, "temperature_c": 61, "power_w": 540.2},
        {"index": 1, "name": "NVIDIA H200", "total": 140 * GIB, "used": None},
    ],
    "switch": {"to": "mistral-small", "from": ["qwen"], "phase": "falling_asleep", "elapsed_s": 12.2, "eta_s": 48.0},
    "models": [READY, ASLEEP, BACKOFF],
    "config": "/etc/muxd/muxd.toml",
}


@pytest.fixture
def scripted(muxd):
    muxd.scripts = {
        "GET /v1/status": lambda talk: talk.json(STATUS),
        "GET /v1/models/qwen": lambda talk: talk.json(READY),
        "GET /v1/models/Qwen%2FQwen3-14B": lambda talk: talk.json(READY),
        "GET /v1/models/broken": lambda talk: talk.json(BACKOFF),
        "GET /v1/models/qwn": lambda talk: talk.error(404, "model_not_found", "no model qwn; did you mean qwen?"),
    }
    return muxd


def test_every_model_has_a_line_in_an_aligned_table(scripted, muxctl):
    code, out, err = muxctl("status")
    assert (code, err) == (0, "")
    assert (
        out
        == """\
muxd 0.1.0, pid 4242, up 2h 5min; proxy on 127.0.0.1:30100 (running)
switching qwen -> mistral-small: falling asleep, 12s so far, ready in about 48s
GPU 0: NVIDIA H200, 38.2 of 140.0 GiB used, 91 % busy, 61 C, 540 W
GPU 1: NVIDIA H200, ? of 140.0 GiB used
LOGS LOST in part, of broken: no space left on device

MODEL          STATE      SINCE  GPU   GIB  IN-FLIGHT  WAITING  REQ/MIN  TOK/S     USED  RESTARTS  NOTE
qwen           ready        12s  0    38.2          3        0      240     91      now         0
mistral-small  asleep   2h 5min  0,1   0.5          0       12        -      -      now         0  \
ready in about 1min 11s; oldest waits 8s; sleep level 2
broken         backoff       1s  0       0          0        0        -      -  2min 5s         4  \
tries again in 3s; exited with status 1 before ready; 17 bytes of its log were lost
"""
    )


def test_a_host_without_gpus_and_models_is_shown_too(muxd, muxctl):
    empty = STATUS | {"gpus": [], "models": [], "switch": None, "simulated": True}
    muxd.scripts["GET /v1/status"] = lambda talk: talk.json(empty)
    assert (
        muxctl("status")[1]
        == """\
muxd 0.1.0, pid 4242, up 2h 5min; proxy on 127.0.0.1:30100 (running)
simulated: pretend models on pretend GPUs

MODEL  STATE  SINCE  GPU  GIB  IN-FLIGHT  WAITING  REQ/MIN  TOK/S  USED  RESTARTS  NOTE
"""
    )


def test_json_is_what_muxd_said(scripted, muxctl):
    code, out, _ = muxctl("status", "--json")
    assert (code, json.loads(out)) == (0, STATUS)
    code, out, _ = muxctl("--json", "status", "broken")
    assert (code, json.loads(out)) == (3, BACKOFF)


def test_with_a_name_the_exit_code_says_whether_it_is_ready(scripted, muxctl):
    assert [muxctl("status", name)[0] for name in ("qwen", "broken")] == [0, 3]


def test_a_pipe_gets_the_notes_whole_however_long(muxd, muxctl):
    reason = "exited with status 1: " + "x" * 500
    muxd.scripts["GET /v1/status"] = lambda talk: talk.json(STATUS | {"models": [BACKOFF | {"reason": reason}]})
    assert f"; {reason}; 17 bytes" in muxctl("status")[1]


def test_a_terminal_gets_lines_as_wide_as_it_is(muxd, terminal):
    failed = BACKOFF | {"state": "failed", "reason": "exited with status 1: " + "x" * 500}
    muxd.scripts["GET /v1/status"] = lambda talk: talk.json(STATUS | {"models": [READY, failed]})
    shown = terminal("--socket", str(muxd.path), "status", columns=90)
    assert shown.ended() == 0
    lines = re.sub(r"\x1b\[[0-9;]*m", "", shown.text).splitlines()
    assert lines[-1].endswith("xxx…")
    assert max(map(len, lines)) == 90


def test_a_served_name_with_a_slash_is_one_name(scripted, muxctl):
    assert muxctl("status", "Qwen/Qwen3-14B")[0] == 0
    assert scripted.requests == [("GET /v1/models/Qwen%2FQwen3-14B", None)]


def test_a_model_nobody_knows_is_exit_4(scripted, muxctl):
    assert muxctl("status", "qwn") == (4, "", "muxctl: no model qwn; did you mean qwen?\n")


def test_whoever_may_not_look_is_exit_5(muxd, muxctl):
    muxd.scripts["GET /v1/status"] = lambda talk: talk.error(403, "permission_denied", "your user may not look")
    assert muxctl("status") == (5, "", "muxctl: your user may not look\n")


def test_host_ram_for_weights_is_shown_where_some_is_taken(scripted, muxctl):
    def shown(weights: int, standby: int = 0) -> str:
        told = STATUS | {"host_memory": {"for_weights": 70 << 30, "weights": weights, "standby": standby}}
        scripted.scripts["GET /v1/status"] = lambda talk: talk.json(told)
        return muxctl("status")[1]

    assert "\nhost RAM: 60.0 of 70.0 GiB taken by the weights of models that sleep at level 1\n" in shown(60 << 30)
    assert "\nhost RAM: 1.3 of 70.0 GiB taken by processes in standby\n" in shown(0, 1331 << 20)
    assert "host RAM" not in shown(0)
