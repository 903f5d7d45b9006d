"""The JSON schema of muxd.toml: what an editor takes for right is right, and what it marks is wrong."""

import json
import tomllib
from pathlib import Path

import pytest
from jsonschema import Draft7Validator

from muxd.config.declarations import keys_of
from muxd.config.json_schema import json_schema
from muxd.config.model_schema import MODEL_KEYS
from muxd.config.schema import SECTIONS, Key

CONF = Path(__file__).parents[2] / "conf"
EXAMPLES = [path for path in CONF.rglob("*.toml") if path.name != "muxd.toml" or path.parent != CONF]


@pytest.fixture(scope="module")
def faults():
    """Returns what the schema has against a configuration."""
    Draft7Validator.check_schema(json_schema())
    validator = Draft7Validator(json_schema())
    return lambda document: [error.message for error in validator.iter_errors(document)]


def test_the_file_is_what_the_declarations_say():
    assert json.loads((CONF / "muxd.schema.json").read_text()) == json_schema(), "run `make reference`"


@pytest.mark.parametrize("path", [*EXAMPLES, CONF / "muxd.toml"], ids=lambda path: str(path.relative_to(CONF)))
def test_what_the_project_brings_is_right(faults, path):
    assert faults(tomllib.loads(path.read_text())) == []


@pytest.mark.parametrize(
    ("table", "name", "declared"),
    [
        *((section, name, key) for section, table in SECTIONS.items() for name, key in keys_of(table).items()),
        *(("defaults", name, key) for name, key in MODEL_KEYS.items()),
    ],
)
def test_every_default_and_example_is_right(faults, table, name, declared):
    value = {} if isinstance(declared.read, type) else json.loads(json.dumps(declared.shown))
    assert faults({table: {name: value}}) == []


def test_every_key_of_a_client_is_known(faults):
    shown = {name: declared.shown for name, declared in keys_of(Key).items()}
    assert faults({"keys": [shown]}) == []


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ('[proxy]\nlisten_at = "x:1"', "listen_at"),
        ("[models.a]\npreload = 1", "1 is not of type 'boolean'"),
        ("[models.a]\nsleep_level = 7", "7 is greater than the maximum"),
        ('[models.a]\nengine = "vlm"', "'vlm' is not one of"),
        ('[models.a]\ngpus = "all"', "'all' is not valid"),
        ('[defaults]\nstop_timeout = "5 parsecs"', "'5 parsecs' is not valid"),
        ('[models.a]\nmemory = { weights = "38GB" }', "'38GB' is not valid"),
        ('[model.a]\nmodel_path = "a/b"', "model"),
        ('[models.a]\nscript = { args = ["x"] }', "not valid"),
        ('[models.a]\nargs = "--x"', "'--x' is not of type 'array'"),
    ],
)
def test_a_slip_is_marked(faults, text, word):
    found = faults(tomllib.loads(text))
    assert len(found) == 1
    assert word in found[0]
