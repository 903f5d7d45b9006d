"""conf/muxd.toml has every key, with its default.  The other files of conf/ are tested in tests/conf."""

import hashlib
import re
import sys
import tomllib
from dataclasses import MISSING, fields
from pathlib import Path

import pytest

from muxd.config import load_config
from muxd.config.declarations import keys_of
from muxd.config.readers import Base
from muxd.config.schema import Daemon, Key, Memory, Model, Policy, Proxy, Simulation

CONF = Path(__file__).parents[1] / "conf"

# Keys whose default comes from the environment, or is "none": the annotated file shows an example.
EXAMPLES = {
    "muxd": {
        "socket": "/run/muxd/muxd.sock",
        "state_dir": "/var/lib/muxd",
        "log_dir": "/var/log/muxd",
        "admin_group": "muxd",
    },
    "proxy": {
        "user": "muxd-proxy",
        "allow_origins": ["http://localhost:3000"],
        "metrics_listen": "127.0.0.1:30101",
        "access_log_dir": "/var/log/muxd/access",
    },
    "defaults": {"cwd": "/srv/models", "upstream_name": "Qwen/Qwen3-14B"},
}


@pytest.fixture
def text():
    return (CONF / "muxd.toml").read_text()


@pytest.fixture
def whole(text):
    """The file with every setting that is commented out put in."""
    return tomllib.loads(re.sub(r"^#(?=[a-z\[])", "", text, flags=re.MULTILINE))


def written(table, schema):
    """The values of a table as the configuration keeps them."""
    base = Base(Path("/"), Path("/"))
    return {key: keys_of(schema)[key].read(value, base) for key, value in table.items()}


def defaults(schema):
    return {
        field.name: field.default if field.default is not MISSING else field.default_factory()
        for field in fields(schema)
        if field.default is not MISSING or field.default_factory is not MISSING
    }


def test_it_loads_without_problems_once_the_local_model_path_is_edited(text, tmp_path):
    (tmp_path / "weights").mkdir()
    edited = text.replace("/srv/models/Mistral-Small-24B", "./weights")
    assert edited != text
    file = tmp_path / "muxd.toml"
    file.write_text(edited)
    config = load_config(file, {"PATH": str(Path(sys.executable).parent), "HOME": str(tmp_path)})
    assert [model.name for model in config.models] == ["qwen", "mistral"]


@pytest.mark.parametrize(
    ("section", "schema"),
    [("muxd", Daemon), ("policy", Policy)],
)
def test_a_section_has_every_key_with_its_default(whole, section, schema):
    table = whole[section]
    examples = EXAMPLES.get(section, {})
    assert set(table) == set(keys_of(schema))
    assert {key: table[key] for key in examples} == examples
    assert written({key: value for key, value in table.items() if key not in examples}, schema) == {
        key: value for key, value in defaults(schema).items() if key not in examples
    }


def test_the_proxys_section_has_every_key_with_its_default(whole):
    table = dict(whole["proxy"])
    assert {key: table.pop(key) for key in EXAMPLES["proxy"]} == EXAMPLES["proxy"]
    values = written(table, Proxy)
    nowhere = {"user": None, "allow_origins": None, "metrics_listen": None, "access_log_dir": None}
    assert values | nowhere == defaults(Proxy)


def test_a_models_keys_are_all_there_with_their_defaults(whole):
    table = dict(whole["defaults"])
    assert {key: table.pop(key) for key in EXAMPLES["defaults"]} == EXAMPLES["defaults"]
    shown_on_a_model = {"model_path", "served_names", "memory", "script", "simulation"}
    assert table.keys() | shown_on_a_model | EXAMPLES["defaults"].keys() == keys_of(Model).keys()
    expected = defaults(Model)
    assert written(table, Model) == {key: expected[key] for key in table}
    assert {"model_path", "served_names", "memory"} <= whole["models"]["qwen"].keys()
    assert whole["models"]["qwen"]["memory"].keys() == keys_of(Memory).keys()
    assert whole["models"]["legacy"].keys() == {"script"}


def test_a_simulated_model_has_every_key_of_its_simulation_with_its_default(whole):
    table = whole["models"]["pretend"]["simulation"]
    assert written(table, Simulation) == defaults(Simulation)


def test_an_api_key_has_every_key_and_the_defaults_of_those_that_have_one(whole):
    (table,) = whole["keys"]
    assert set(table) == set(keys_of(Key))
    assert table["secret_sha256"] == hashlib.sha256(b"secret").hexdigest()
    shown = written(table, Key)
    assert {key: shown[key] for key in ("priority", "revoked")} == {
        key: value for key, value in defaults(Key).items() if key in ("priority", "revoked")
    }


def test_nobody_has_a_key_before_somebody_makes_one(text):
    assert "keys" not in tomllib.loads(text)
