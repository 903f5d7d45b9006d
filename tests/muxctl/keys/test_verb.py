"""muxctl keys as a verb: which words go together, and what it loads."""

import subprocess
import sys

import pytest

from tests.muxctl.conftest import ROOT


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["revoke"], "muxctl keys revoke takes the name of a key"),
        (["list", "alice"], "muxctl keys list takes no name"),
        (["list", "--priority", "1"], "--priority is for muxctl keys add"),
        (["revoke", "alice", "--expires", "30d"], "--expires is for muxctl keys add"),
        (["remove", "alice"], "no such action: remove; did you mean revoke?"),
    ],
)
def test_words_that_do_not_go_together_are_told(muxctl, config, words, said):
    code, out, err = muxctl("keys", *words)
    assert (code, out) == (2, "")
    assert said in err


def test_the_verb_itself_loads_no_configuration_before_it_needs_one():
    code = "import sys, muxctl.keys; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert not {"muxd.config", "tomli_w", "trio", "secrets"} & set(loaded.split())
