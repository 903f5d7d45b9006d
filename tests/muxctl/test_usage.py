import json

import pytest

ROWS = [
    {"day": "2026-11-28", "key": "alice", "model": "qwen", "requests": 2, "refused": 0, "prompt_tokens": 1000,
     "cached_tokens": 10, "completion_tokens": 2000, "event_tokens": 0},
    {"day": "2026-11-29", "key": "alice", "model": "qwen", "requests": 1, "refused": 1, "prompt_tokens": 0,
     "cached_tokens": 0, "completion_tokens": 0, "event_tokens": 50},
    {"day": "2026-11-29", "key": "", "model": "llama\x1b", "requests": 5, "refused": 0, "prompt_tokens": 1,
     "cached_tokens": 0, "completion_tokens": 1, "event_tokens": 0},
]  # fmt: skip


def answers(muxd, target):
    muxd.scripts[f"GET /v1/usage?{target}"] = lambda talk: talk.json({"usage": ROWS, "kept_days": 400})


def lines(out: str) -> list[list[str]]:
    return [line.split() for line in out.splitlines()]


def test_days_keys_and_models_are_a_table_with_a_total(muxd, muxctl):
    answers(muxd, "days=7")
    code, out, _ = muxctl("usage")
    assert code == 0
    assert "\x1b" not in out
    assert lines(out) == [
        ["DAY", "KEY", "MODEL", "REQUESTS", "REFUSED", "PROMPT", "CACHED", "COMPLETION", "BY", "EVENTS"],
        ["2026-11-28", "alice", "qwen", "2", "0", "1,000", "10", "2,000", "0"],
        ["2026-11-29", "-", "llama", "5", "0", "1", "0", "1", "0"],
        ["2026-11-29", "alice", "qwen", "1", "1", "0", "0", "0", "50"],
        ["total", "8", "1", "1,001", "10", "2,001", "50"],
    ]


def test_sums_are_by_the_columns_that_are_named(muxd, muxctl):
    answers(muxd, "days=30&key=alice&model=qwen")
    out = muxctl("usage", "--days", "30", "--key", "alice", "--model", "qwen", "--by", "key")[1]
    assert lines(out)[2] == ["alice", "3", "1", "1,000", "10", "2,000", "50"]


def test_json_is_the_rows(muxd, muxctl):
    answers(muxd, "days=7")
    found = json.loads(muxctl("usage", "--json", "--by", "model,day")[1])
    assert [list(row)[:2] for row in found] == [["day", "model"]] * 3


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--by", "week"), "there is no column 'week'; there are day, key, model"),
        (("--days", "0"), "a whole number from 1 to 400, not '0'"),
    ],
)
def test_bad_words_are_told(muxd, muxctl, words, said):
    code, _, err = muxctl("usage", *words)
    assert code == 2
    assert said in err


def test_nothing_is_said(muxd, muxctl):
    muxd.scripts["GET /v1/usage?days=7"] = lambda talk: talk.json({"usage": [], "kept_days": 400})
    assert muxctl("usage") == (1, "", "muxctl: nothing was used in that time\n")


def test_nothing_with_a_key_is_told_with_where_the_keys_are(muxd, muxctl):
    muxd.scripts["GET /v1/usage?days=7&key=bob"] = lambda talk: talk.json({"usage": []})
    told = "muxctl: nothing was used in that time with a key bob; muxctl keys list has the keys\n"
    assert muxctl("usage", "--key", "bob") == (1, "", told)
