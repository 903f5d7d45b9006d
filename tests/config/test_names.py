"""Names in messages: the nearest, or not too many."""

from muxd.config.names import did_you_mean, few


def test_a_name_that_is_like_one_is_answered_with_it():
    assert did_you_mean("qwn", ["llama", "Qwen"]) == "did you mean Qwen?"


def test_where_none_is_like_it_all_are_told_but_not_thousands():
    assert did_you_mean("x", ["llama", "qwen"]) == "known: llama, qwen"
    assert did_you_mean("x", []) == "known: none"
    said = did_you_mean("zzzzzz", [f"m{number}" for number in range(3000)])
    assert said.startswith("known: m0, m1, ")
    assert said.endswith(", m49 and 2950 more")


def test_as_many_as_are_told_are_told_without_a_count():
    assert few(["a", "b"], 2) == "a, b"
    assert few(["a", "b", "c"], 2) == "a, b and 1 more"
