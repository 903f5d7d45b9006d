import re

import pytest

from muxctl.exit_codes import MEANINGS
from muxctl.verbs import VERBS


def test_help_names_every_verb_and_exit_code(muxctl):
    code, out, err = muxctl("--help")
    assert (code, err) == (0, "")
    assert all(f"\n  {verb} " in out for verb in VERBS)
    assert all(f"\n  {code.value:3}  {meaning}\n" in out + "\n" for code, meaning in MEANINGS.items())
    assert "--socket PATH" in out


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_tells_what_it_means_with_examples_and_exit_codes(muxctl, verb):
    code, out, err = muxctl(verb, "--help")
    assert (code, err) == (0, "")
    assert out.startswith(f"usage: muxctl {verb} ")
    examples = out.partition("\nExamples:\n")[2].partition("\n\n")[0].splitlines()
    assert examples
    assert all(f"muxctl {verb}" in example for example in examples)
    assert re.search(r"\nExit codes:\n {4}0  \w", out)


@pytest.mark.parametrize("columns", [80, 100, 120])
@pytest.mark.parametrize("verb", ["--help", *VERBS])
def test_help_fits_the_terminal(muxctl, monkeypatch, columns, verb):
    monkeypatch.setenv("COLUMNS", str(columns))
    lines = muxctl(verb, "--help")[1].splitlines()
    assert [line for line in lines if len(line) > columns] == []


def test_help_is_a_verb_too(muxctl):
    assert muxctl("help") == muxctl("--help")
    assert muxctl("help", "stop") == muxctl("stop", "--help")
    assert muxctl("help", "help") == muxctl("help", "--help")


def test_help_for_what_is_no_verb_says_what_was_meant(muxctl):
    assert muxctl("help", "stpo") == (2, "", "muxctl: no such verb: stpo; did you mean stop?\n")
