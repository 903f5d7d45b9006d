import json
import signal

import pytest

RUNNING = {
    "id": "r1\x1b[2J", "state": "running", "model": "qwen", "since": 1.0, "key": "alice", "client": "10.0.0.7",
    "route": "/v1/chat/completions", "waited_s": 0.5, "first_token_s": 0.75, "duration_s": 90.0,
    "completion_tokens": 42, "by_events": True, "tokens_per_s": 12.34,
}  # fmt: skip
ENDED = RUNNING | {
    "id": "e1", "state": "ended", "key": "", "duration_s": 1.25, "completion_tokens": 0, "by_events": False,
    "first_token_s": None, "tokens_per_s": None, "status": 503, "end": "refused", "code": "switch_timeout",
    "entry": 3, "ended": 86400.0,
}  # fmt: skip
ENTRY = {key: value for key, value in ENDED.items() if key not in ("id", "entry", "ended")}
ENTRY |= {"id": 3, "time": 86400.0, "type": "request", "request": "e1"}


def answers(muxd, target, answer):
    muxd.scripts[target] = lambda talk: talk.json(answer)


def test_all_are_a_table_and_none_steers_the_terminal(muxd, muxctl):
    answers(muxd, "GET /v1/requests?lines=20", {"requests": [RUNNING, ENDED], "left_out": 2})
    code, out, err = muxctl("requests")
    assert (code, err) == (0, "")
    head, running, ended, more = (line.split() for line in out.splitlines())
    assert head[:5] == ["STATE", "ID", "KEY", "MODEL", "ROUTE"]
    assert running[:6] == ["running", "r1", "[2J", "alice", "qwen", "/v1/chat/completions"]
    assert running[6:] == ["1min", "30s", "0.5s", "0.75s", "~42", "12.3", "10.0.0.7", "-"]
    assert ended[5:] == ["1.2s", "0.5s", "-", "-", "-", "10.0.0.7", "503", "switch_timeout"]
    assert more == ["...", "and", "2", "more"]
    assert "\x1b" not in out


def test_no_request_of_a_key_is_told_with_where_the_keys_are(muxd, muxctl):
    answers(muxd, "GET /v1/requests?lines=20&key=bob", {"requests": [], "left_out": 0})
    code, out, err = muxctl("requests", "--key", "bob")
    assert (code, len(out.splitlines())) == (0, 1)
    assert err == "muxctl: no request with a key bob; muxctl keys list has the keys\n"


def test_json_is_the_answer_and_filters_are_asked_of_muxd(muxd, muxctl):
    answers(muxd, "GET /v1/requests?lines=5&model=a%2Fb&key=alice&state=running", {"requests": [], "left_out": 0})
    code, out, _ = muxctl("requests", "--model", "a/b", "--key", "alice", "--state", "running", "-n", "5", "--json")
    assert (code, json.loads(out)) == (0, {"requests": [], "left_out": 0})


def test_following_is_a_line_for_each_that_ends(muxd, process):
    def script(talk):
        talk.stream()
        talk.chunk(ENTRY, {"type": "gap", "missed": 7}, {"type": "requests_left_out", "time": 86400.0, "count": 2})
        talk.wait_for_close()

    muxd.scripts["GET /v1/requests?follow=1&after=0&lines=0"] = script
    child = process("--socket", str(muxd.path), "requests", "-f")
    assert [child.stdout.readline() for _ in range(3)] == [
        "1970-01-02T00:00:00+00:00 qwen /v1/chat/completions 503 switch_timeout 1.25s waited=0.5s first=- tokens=- "
        "rate=- client=10.0.0.7 id=e1\n",
        "... 7 requests were missed\n",
        "1970-01-02T00:00:00+00:00 ... and 2 more\n",
    ]
    child.send_signal(signal.SIGINT)
    assert child.wait(20) == 130


def test_one_is_cancelled_by_its_id(muxd, muxctl):
    answers(muxd, "POST /v1/requests/odd%2Fone/cancel", {"cancelled": 1, "id": "odd/one"})
    assert muxctl("requests", "--cancel", "odd/one") == (0, "request odd/one is cancelled\n", "")
    assert muxd.requests[-1][1] == {}


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("-f", "--state", "running"), 2, "-f follows the requests that end"),
        (("-n", "many"), 2, "'many' is not a number of requests"),
        (("--sort", "age"), 2, "no such option: --sort"),
    ],
)
def test_bad_words_are_told(muxd, muxctl, words, code, said):
    found, _, err = muxctl("requests", *words)
    assert found == code
    assert said in err


def test_a_request_that_is_not_there_is_exit_4(muxd, muxctl):
    muxd.scripts["POST /v1/requests/x/cancel"] = lambda talk: talk.error(404, "request_not_found", "no request x")
    assert muxctl("requests", "--cancel", "x") == (4, "", "muxctl: no request x\n")
