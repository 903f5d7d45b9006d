import pytest

from muxctl.display.detail import detail
from muxctl.display.overview import note, overview
from tests.muxctl.test_status import ASLEEP, BACKOFF, READY, STATUS

RESTS = ASLEEP | {"waiting": 0, "oldest_wait_s": None, "eta_s": None, "next": "wakes at its next request"}
LONG = "exited with status 1 before ready: torch.OutOfMemoryError: CUDA out of memory. " * 4


def twenty():
    """At three in the morning: two GPUs, twenty models, long names, and one that failed for a long reason."""
    models = [RESTS | {"name": f"model-{i:02}{'-instruct-awq' * (i % 3 == 0)}", "gpus": [i % 2]} for i in range(20)]
    models[3] = BACKOFF | {"name": models[3]["name"], "state": "failed", "reason": LONG, "retry_in_s": 55.0}
    models[5] = READY | {"name": "qwen3-235b-a22b-instruct-2507-fp8", "gpus": [0, 1], "next": "gives way to b in 12s"}
    models[19] |= {"state": "stopped", "stopped_by_operator": True}
    return STATUS | {"models": models}


def test_where_a_table_fits_it_is_whole():
    assert overview(STATUS, width=200) == overview(STATUS)


def test_where_the_notes_alone_are_too_long_they_are_cut():
    lines = overview(twenty(), width=150)
    assert "NOTE" in lines[6]
    assert max(map(len, lines)) == 150
    failed = next(line for line in lines if "failed" in line)
    assert "tries again in 55s; exited with status 1" in failed
    assert failed.endswith("…")


def test_at_80_columns_each_model_is_a_line_and_what_is_to_be_said_of_it_another():
    lines = overview(twenty(), width=80)
    assert max(map(len, lines)) <= 80
    assert lines[6:14] == [
        "MODEL                              STATE      SINCE  GPU  BUSY  WAIT  RST",
        "model-00-instruct-awq              asleep   2h 5min  0       0     0    0",
        "model-01                           asleep   2h 5min  1       0     0    0",
        "model-02                           asleep   2h 5min  0       0     0    0",
        "model-03-instruct-awq              failed        1s  0       0     0    4",
        "    tries again in 55s; exited with status 1 before ready: torch.OutOfMemoryErr…",
        "model-04                           asleep   2h 5min  0       0     0    0",
        "qwen3-235b-a22b-instruct-2507-fp8  ready        12s  0,1     3     0    0",
    ]
    assert lines[-2:] == [
        "model-19                           stopped  2h 5min  1       0     0    0",
        "    stopped by an operator",
    ]


def test_at_80_columns_short_names_still_have_all_columns():
    ready = READY | {"next": "gives way to mistral-7b, which waits for it, in 1min 12s at the latest"}
    lines = overview(STATUS | {"models": [ready, RESTS | {"name": "mistral-7b", "gpus": [0, 1]}]}, width=80)
    assert max(map(len, lines)) <= 80
    assert lines[5:] == [
        "MODEL       STATE     SINCE  GPU   GIB  BUSY  WAIT  R/MIN  TOK/S  USED  RST",
        "qwen        ready       12s  0    38.2     3     0    240     91   now    0",
        "    gives way to mistral-7b, which waits for it, in 1min 12s at the latest",
        "mistral-7b  asleep  2h 5min  0,1   0.5     0     0      -      -     -    0",
    ]


def test_a_name_is_never_cut_for_it_must_be_typed():
    lines = overview(twenty(), width=60)
    assert max(map(len, lines[5:])) <= 60
    assert "qwen3-235b-a22b-instruct-2507-fp8" in lines
    assert lines[lines.index("qwen3-235b-a22b-instruct-2507-fp8") + 1].split()[0] == "ready"


@pytest.mark.parametrize("height", range(14, 40))
def test_in_a_low_window_models_at_rest_are_left_off_first(height):
    lines = overview(twenty(), width=80, height=height)
    assert len(lines) <= height
    assert any(line.startswith("model-03-instruct-awq") for line in lines)
    assert any(line.startswith("qwen3-235b") for line in lines)
    shown = sum(line.startswith(("model-", "qwen3")) for line in lines)
    told = [f"... and {20 - shown} more at rest"] if shown < 20 else []
    assert [line for line in lines if line.startswith("...")] == told


def test_batch_is_told_apart_where_there_is_some():
    model = RESTS | {"waiting": 5, "waiting_batch": 4, "in_flight": 2, "in_flight_batch": 0, "oldest_wait_s": 1}
    (row,) = (line for line in overview(twenty() | {"models": [model]}, width=200) if line.startswith(model["name"]))
    assert "5 (4 batch)" in row
    assert "(0 batch)" not in row


def test_a_window_that_is_far_too_low_says_what_it_hides():
    lines = overview(twenty(), width=80, height=8)
    assert len(lines) == 8
    assert lines[-1].endswith(" more lines")


def test_a_note_says_what_happens_next_unless_nothing_is_asked_of_the_model():
    assert note(RESTS) == "sleep level 2"
    assert note(RESTS | {"level": 0}) == "sleep level 0"
    assert note(RESTS, brief=True) == ""
    kept_out = "cannot be loaded: a is pinned, and b does not fit beside it; `muxctl stop a` makes room"
    assert note(RESTS | {"next": kept_out}, brief=True) == kept_out
    waits = RESTS | {"waiting": 1, "oldest_wait_s": 3, "next": "waits for alpha to finish 2 requests"}
    assert note(waits) == "waits for alpha to finish 2 requests; oldest waits 3s; sleep level 2"
    assert note(BACKOFF | {"next": "starts again in 4s", "reason": None, "last_exit": None}).startswith(
        "starts again in 4s; 17 bytes"
    )


def test_a_note_says_that_an_operator_holds_it():
    assert note(RESTS | {"held": True, "held_for_s": None}) == "held; sleep level 2"
    assert note(RESTS | {"held": True, "held_for_s": 7190.0}, brief=True) == "held for 1h 59min"


def test_a_note_says_who_stopped_it():
    says = {"next": "stays down until `muxctl start qwen`", "reason": "qwen is stopped by an operator"}
    stopped = RESTS | {"state": "stopped", "stopped_by_operator": True, **says}
    assert note(stopped) == "stopped by an operator"
    drains = stopped | {"state": "draining", "next": "finishes 2 requests, for at most 9s", "eta_s": 9.0}
    assert note(drains) == "an operator stops it; finishes 2 requests, for at most 9s"
    assert note(stopped | {"removed": True}) == "not configured any more"


def test_a_note_says_which_of_several_workers_are_not_as_their_model_is():
    both = [
        {"name": f"qwen/{n}", "role": "serve", "state": state} for n, state in enumerate(("ready", "falling_asleep"))
    ]
    router = {"name": "qwen/router", "role": "router", "state": "ready"}
    assert note(READY | {"workers": [*both, router], "last_exit": None}) == "qwen/1 is falling asleep"
    assert note(RESTS | {"workers": [both[0] | {"state": "asleep"}, router]}) == "sleep level 2"
    down = router | {"state": "backoff"}
    assert note(READY | {"workers": [both[0], down], "last_exit": None}) == "qwen/router is backoff"


def test_a_note_says_once_that_a_replica_has_failed():
    """The group's reason, as muxd composes it, says the state of each worker that has a reason of its own."""
    workers = [
        {"name": name, "role": role, "state": state}
        for name, role, state in (
            ("r/0", "serve", "ready"),
            ("r/1", "serve", "failed"),
            ("r/2", "serve", "failed"),
            ("r/router", "router", "falling_asleep"),
        )
    ]
    why = "r/1 is failed: exited with status 1 before it was ready"
    group = READY | {"workers": workers, "last_exit": None, "reason": why}
    assert note(group) == f"r/2 is failed, r/router is falling asleep; {why}"
    stopped = note(group | {"state": "stopped", "stopped_by_operator": True})
    assert "r/1 is failed" in stopped, "the reason is not shown"


def test_a_note_says_that_it_can_never_be_loaded():
    never = "can never be loaded: GPU 7 is not there: there are 0, 1; correct its `gpus`"
    at_rest = READY | {"state": "unloaded", "next": never, "impossible": never, "last_exit": None, "eta_s": None}
    assert note(at_rest | {"reason": None}) == never


def test_an_exit_of_long_ago_is_no_news_where_there_is_little_room():
    old = READY | {"last_exit": {"reason": "exited with status 1", "when_s": 90000, "log_tail": []}}
    assert note(old) == "exited with status 1 1d 1h ago"
    assert note(old, brief=True) == ""


@pytest.mark.parametrize(
    ("door", "line"),
    [
        ({"open_to": "key_holders", "keys": 3, "keys_not_working": 0}, "door: 3 API keys"),
        ({"open_to": "key_holders", "keys": 1, "keys_not_working": 2}, "door: 1 API key; 2 more expired or revoked"),
        (
            {"open_to": "key_holders", "keys": 0, "keys_not_working": 2},
            "door: shut, no API key works (2 expired or revoked); muxctl keys add NAME makes one",
        ),
        ({"open_to": "host", "keys": 0, "keys_not_working": 0}, "door: open to everybody on this host (no API key)"),
        (
            {"open_to": "everybody", "keys": 0, "keys_not_working": 0},
            "door: open to everybody who reaches 127.0.0.1:30100 (no API key)",
        ),
    ],
)
def test_who_may_ask_the_proxy_has_a_line(door, line):
    assert overview(STATUS | {"door": door})[1] == line
    assert not any(line.startswith("door") for line in overview(STATUS))  # an older muxd


def test_who_has_the_proxys_port_is_told():
    held = {"state": "backoff", "reason": "the proxy cannot listen at 127.0.0.1:1: address already in use"}
    assert f"NO PROXY: {held['reason']}; muxd tries again by itself" in overview(
        STATUS | {"proxy": STATUS["proxy"] | held}
    )


def test_gpus_that_cannot_be_seen_are_not_passed_over():
    assert any(line.startswith("GPUs: none can be seen") for line in overview(STATUS | {"gpus": []}))
    assert not any(line.startswith("GPUs:") for line in overview(STATUS | {"gpus": [], "models": []}))


def test_a_configuration_that_was_written_since_is_told():
    line = "/etc/muxd/muxd.toml was written since muxd read it; muxctl reload --dry-run says what changes"
    assert overview(STATUS | {"config_written": True})[1] == line
    assert line not in overview(STATUS | {"config_written": False})


def test_a_reload_that_failed_is_told_until_one_succeeds():
    failed = {"time": 86400.0, "reason": "muxd.toml has 2 problems; nothing was changed:\nmuxd.toml:1: no\n\x1b[2J"}
    line = (
        "the last reload, at 1970-01-02T00:00:00+00:00, failed: muxd.toml has 2 problems; nothing was changed; "
        "what ran before runs on"
    )
    assert overview(STATUS | {"reload_failed": failed})[1] == line
    assert len(overview(STATUS | {"reload_failed": None})) == len(overview(STATUS | {"reload_failed": failed})) - 1


def test_lost_logs_are_told_by_their_reason_with_a_few_names():
    full, broken = {"dropped_log_bytes": 5, "dropped_log_reason": "no space left on device"}, {"dropped_log_bytes": 5}
    models = [RESTS | {"name": f"m{number}"} | full for number in range(5)] + [RESTS | {"name": "old"} | broken]
    lines = overview(STATUS | {"models": models, "proxy": STATUS["proxy"] | full})
    assert "LOGS LOST in part, of m0, m1, m2 and 3 more: no space left on device" in lines
    assert "LOGS LOST in part, of old: unknown" in lines
    lines = overview(STATUS | {"models": [], "proxy": STATUS["proxy"] | full | {"dropped_log_now": True}})
    assert "LOGS LOST in part, of proxy: no space left on device" in lines
    lines = overview(STATUS | {"models": models, "log_dir": "/var/log/muxd"})
    assert "LOGS LOST in part, of old: unknown; see to the disk of /var/log/muxd" in lines


def test_logs_that_are_written_again_are_no_alarm():
    over = {"dropped_log_bytes": 5, "dropped_log_reason": "no space left on device", "dropped_log_now": False}
    lines = overview(STATUS | {"models": [RESTS | {"name": "m"} | over], "proxy": STATUS["proxy"] | over})
    assert not any("LOGS LOST" in line for line in lines)
    assert "proxy: 5 bytes of its log were lost (no space left on device)" in lines
    assert lines[-1].endswith("5 bytes of its log were lost")
    over |= {"dropped_log_ago_s": 130.0}
    lines = overview(STATUS | {"models": [RESTS | {"name": "m"} | over], "proxy": STATUS["proxy"] | over})
    assert "proxy: 5 bytes of its log were lost, last 2min 10s ago (no space left on device)" in lines
    assert lines[-1].endswith("5 bytes of its log were lost, last 2min 10s ago")


def test_what_strangers_hold_of_a_gpu_and_what_they_leave_models_is_told():
    text = "12.0 GiB held by python3 (pid 4711), not muxd's"
    gpu = {"index": 0, "name": "H200", "total": 80 << 30, "used": 52 << 30}
    strangers = {"bytes": 12 << 30, "processes": [], "text": text}
    (line,) = (
        line
        for line in overview(STATUS | {"gpus": [gpu | {"for_models": 68 << 30, "strangers": strangers}]})
        if line.startswith("GPU 0")
    )
    assert line == f"GPU 0: H200, 52.0 of 80.0 GiB used; {text}; 68.0 GiB for models"
    assert "GPU 0: H200, 52.0 of 80.0 GiB used" in overview(STATUS | {"gpus": [gpu]}), "of an older muxd"


def test_a_model_that_any_gpus_will_do_for_is_where_it_is_or_anywhere():
    def row(**facts):
        return overview(STATUS | {"models": [READY | facts]})[-1]

    assert "any 2" in row(any_gpus=2, gpus=[])
    assert "1,3" in row(any_gpus=2, gpus=[1, 3])
    assert "any" not in row(any_gpus=None, gpus=[])
    assert "GPUs:          1, 3 (chosen; any 2)" in detail(READY | {"any_gpus": 2, "gpus": [1, 3]})
