"""docs/how-to/coming-from.md: its tables are the importers' own, and what they name is there."""

import re
from dataclasses import fields
from pathlib import Path

import pytest

from muxctl.verbs import VERBS
from muxd.arguments import command_line
from muxd.config.declarations import keys_of
from muxd.config.model_schema import MODEL_KEYS
from muxd.config.schema import SECTIONS, Config
from muxd.importers import drop_in
from muxd.importers.coming_from import tables, with_tables

PAGE = Path(__file__).parents[2] / "docs/how-to/coming-from.md"


def test_the_page_has_the_importers_own_tables():
    text = PAGE.read_text()
    assert with_tables(text) == text, "run `make reference`"


def test_a_page_without_a_place_for_a_table_is_refused():
    with pytest.raises(ValueError, match="the page has no <!-- sglangmux -->"):
        with_tables("")


@pytest.mark.parametrize("name", tables())
def test_every_key_of_muxd_that_a_table_names_is_there(name):
    known = {*MODEL_KEYS, *(key for table in SECTIONS.values() for key in keys_of(table))}
    known |= {field.name for field in fields(Config)} | {"kv", "muxctl", "none", "swap", "exclusive"}
    for row in tables()[name].splitlines()[2:]:
        becomes = row.split(" | ", 1)[1]
        named = re.findall(r"`(?:\[(\w+)\] )?([a-z]+(?:_[a-z]+)*)(?: = [^`]*)?`", becomes)
        for section, key in named:
            if section:
                assert key in keys_of(SECTIONS[section]), row
            else:
                assert key in known, row


@pytest.mark.parametrize("name", tables())
def test_every_command_of_muxd_that_a_table_names_is_there(name):
    commands = next(action.choices for action in command_line()._actions if isinstance(action.choices, dict))
    for program, word in re.findall(r"`(muxd|muxctl) ([a-z]\w*)", tables()[name]):
        assert word in (commands if program == "muxd" else VERBS)
    for flag in re.findall(r"muxd start[^`]*? (--[a-z-]+)", tables()[name]):
        assert flag in commands["start"]._option_string_actions


def test_every_flag_of_sglangmux_is_one_of_muxd_start():
    commands = next(action.choices for action in command_line()._actions if isinstance(action.choices, dict))
    flags = re.findall(r"--[a-z-]+", " ".join(drop_in.FLAGS))
    assert set(flags) <= commands["start"]._option_string_actions.keys()
    assert len(flags) == 6
