"""conf/muxd.toml has every key, with its default.  The other files of conf/ are tested in tests/conf."""

import hashlib
import re
import sys
import tomllib
from pathlib import Path

import pytest
import tomli_w

from muxd.config import load_config
from muxd.config.declarations import keys_of
from muxd.config.engine_options import InstalledOptions, OpenAIOptions, Simulation, VLLMOptions
from muxd.config.model_schema import MODEL_KEYS, Memory
from muxd.config.reference import reference
from muxd.config.schema import SECTIONS, Key

CONF = Path(__file__).parents[1] / "conf"

#: Keys whose default comes from the environment, or cannot be written.
EXAMPLES = {
    "idle",
    "idle_timeout",
    "default_model",
    "socket",
    "state_dir",
    "log_dir",
    "cache_dir",
    "admin_group",
    "user",
    "allow_origins",
    "metrics_listen",
}
EXAMPLES |= {"host_memory", "access_log_dir", "cwd", "upstream_name", "router"}
EXAMPLES |= {"max_replicas", "min_replicas", "scaling"}
EXAMPLES |= keys_of(VLLMOptions).keys() - keys_of(InstalledOptions).keys()

SHOWN_ON_OTHERS = {"script": "", "simulation": {}, **dict.fromkeys(keys_of(OpenAIOptions))}


@pytest.fixture
def text():
    return (CONF / "muxd.toml").read_text()


@pytest.fixture
def whole(text):
    """The file with every setting that is commented out put in."""
    return tomllib.loads(re.sub(r"^#(?=[a-z\[])", "", text, flags=re.MULTILINE))


def test_it_is_what_the_keys_declare(text):
    assert text == reference(), "run `make reference`"


def test_it_loads_without_problems_once_the_local_model_path_is_edited(text, tmp_path):
    (tmp_path / "weights").mkdir()
    edited = text.replace("/srv/models/Mistral-Small-24B", "./weights")
    assert edited != text
    file = tmp_path / "muxd.toml"
    file.write_text(edited)
    config = load_config(file, {"PATH": str(Path(sys.executable).parent), "HOME": str(tmp_path)})
    assert [model.name for model in config.models] == ["qwen", "mistral"]


def test_every_key_is_there(whole):
    models = whole["models"]
    tables = [(whole[name], table) for name, table in SECTIONS.items()]
    tables += [(models["pretend"]["simulation"], Simulation), (whole["keys"][0], Key)]
    tables += [(models["qwen"]["memory"], Memory)]
    for table, schema in tables:
        assert table.keys() == keys_of(schema).keys()
    assert (whole["defaults"] | models["qwen"] | SHOWN_ON_OTHERS).keys() == MODEL_KEYS.keys()
    assert SHOWN_ON_OTHERS.keys() <= models["legacy"].keys() | models["pretend"].keys() | models["other"].keys()


def test_a_setting_that_is_put_in_as_shown_changes_nothing_unless_it_is_an_example(whole, tmp_path):
    def load(tables):
        (tmp_path / "muxd.toml").write_text(tomli_w.dumps(tables))
        return load_config(tmp_path / "muxd.toml", {"HOME": str(tmp_path)})

    put_in = {
        name: {k: value for k, value in whole[name].items() if k not in EXAMPLES and (name, k) != ("ui", "listen")}
        for name in (*SECTIONS, "defaults")
    }
    pretend = whole["models"]["pretend"]
    bare = {"models": {"pretend": {key: value for key, value in pretend.items() if key != "simulation"}}}
    assert load(put_in | {"models": {"pretend": pretend | {"engine": "simulator"}}}) == load(bare)


def test_the_secret_shown_is_that_of_its_hash(whole):
    assert whole["keys"][0]["secret_sha256"] == hashlib.sha256(b"secret").hexdigest()


def test_every_key_has_a_sentence():
    for keys in (*map(keys_of, (*SECTIONS.values(), Memory, Simulation, Key)), MODEL_KEYS):
        assert [name for name, key in keys.items() if not key.doc] == []


def test_nobody_has_a_key_before_somebody_makes_one(text):
    assert "keys" not in tomllib.loads(text)
