"""The manual pages: made from the help, and read by man itself."""

import shutil
import subprocess
from pathlib import Path

import pytest

from muxctl.verbs import VERBS
from muxd.config.model_schema import MODEL_KEYS
from muxd.setup.man_pages import man_pages

MAN = Path(__file__).parents[2] / "conf/man"


@pytest.mark.parametrize("name", ["muxd.1", "muxctl.1", "muxd.toml.5"])
def test_a_page_is_what_the_help_says(name):
    assert (MAN / name).read_text() == man_pages()[name], "run `make reference`"


@pytest.mark.skipif(shutil.which("man") is None, reason="needs man")
@pytest.mark.parametrize("name", ["muxd.1", "muxctl.1", "muxd.toml.5"])
def test_man_has_nothing_to_say_against_a_page(name):
    argv = ["man", "--warnings=all", "--local-file", str(MAN / name)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr == ""
    assert "NAME" in done.stdout


def test_every_verb_and_every_key_has_its_place():
    pages = man_pages()
    assert all(f'.SH "muxctl {verb}"' in pages["muxctl.1"] for verb in VERBS)
    assert all(f".B {name} = " in pages["muxd.toml.5"] for name in MODEL_KEYS)
