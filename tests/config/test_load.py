"""What a good file gives, with its defaults; files that cannot be read at all; and no value that breaks the reader."""

from dataclasses import fields
from math import inf
from pathlib import Path

import pytest

from muxd.config import (
    Config,
    Memory,
    Model,
    Proxy,
    SGLangOptions,
    Simulation,
    load_config,
    salvage_config,
)
from muxd.config.declarations import keys_of
from muxd.config.engine_options import ENGINE_OPTIONS
from muxd.config.model_schema import MODEL_KEYS
from muxd.config.readers import Address
from muxd.config.schema import SECTIONS, Daemon, GiB, Key, MiB, Policy
from muxd.errors import ConfigError
from tests.seeds import EVERY

from .conftest import ONE_MODEL


def test_one_model_needs_two_lines(load, tmp_path, environ):
    config = load(ONE_MODEL)
    assert config == Config(
        daemon=Daemon(
            socket=Path("/run/user/1/muxd/muxd.sock"),
            state_dir=tmp_path / "home/.local/state/muxd",
            log_dir=tmp_path / "home/.local/state/muxd/logs",
            cache_dir=tmp_path / "home/.cache/muxd",
        ),
        models=(
            Model(
                "qwen",
                model_path="Qwen/Qwen3-14B",
                served_names=("qwen",),
                engine_options=SGLangOptions(python=f"{environ['PATH']}/python3"),
            ),
        ),
        path=tmp_path / "muxd.toml",
        files=(tmp_path / "muxd.toml",),
    )


def test_every_kind_of_value_is_read(load, tmp_path):
    (tmp_path / "weights").mkdir()
    config = load("""
[muxd]
socket = "run/m.sock"
others = "none"
shutdown_timeout = "1min"
simulated_gpu_memory = "24GiB"
[proxy]
listen = "[::1]:8000"
managed = false
upstream_timeout = "2min"
[policy]
wait_target = 12
[models.big]
model_path = "./weights"
served_names = ["a", "b"]
gpus = [0, 1]
memory = { weights = "28GiB", kv = "10GiB" }
sleep_level = 1
port = 30001
args = ["--context-length", "32768"]
env = { A = "1" }
cwd = "weights"
drain_timeout = "inf"
[models.pretend]
engine = "simulator"
[models.pretend.simulation]
load_time = "250ms"
token_rate = 50
""")
    assert config.daemon.socket == tmp_path / "run/m.sock"
    assert (config.daemon.others, config.daemon.shutdown_timeout) == ("none", 60.0)
    assert config.daemon.simulated_gpu_memory == 24 * GiB
    assert config.proxy == Proxy(Address("::1", 8000), managed=False, upstream_timeout=120.0)
    assert config.policy == Policy(wait_target=12.0)
    big, pretend = config.models
    assert big.model_path == str(tmp_path / "weights")
    assert (big.served_names, big.gpus, big.sleep_level, big.port) == (("a", "b"), ("0", "1"), 1, 30001)
    assert big.memory == Memory(weights=28 * GiB, kv=10 * GiB)
    assert (big.args, big.env) == (("--context-length", "32768"), {"A": "1"})
    assert (big.cwd, big.drain_timeout) == (tmp_path / "weights", inf)
    assert pretend.engine_options.simulation == Simulation(load_time=0.25, token_rate=50.0)


def test_only_what_muxd_finds_out_itself_is_no_key():
    tables = {*SECTIONS.values(), Memory, Simulation, Model, Key, *ENGINE_OPTIONS.values()}
    made = {(table, field.name) for table in tables for field in fields(table)}
    keys = {(table, key) for table in tables for key in keys_of(table)}
    found_out = ("name", "any_gpus", "engine_options", "half", "prefill", "decode")  # remote servers have the last two
    assert made - keys == {(Model, name) for name in found_out}


def test_defaults_are_every_models_and_tables_are_merged_key_by_key(load):
    config = load("""
[defaults]
engine = "simulator"
memory = { weights = "1GiB", overhead = "1MiB" }
env = { A = "1", B = "1" }
args = ["--x"]
[models.one]
memory = { weights = "2GiB" }
env = { B = "2" }
args = []
[models.two]
""")
    one, two = config.models
    assert one.memory == Memory(weights=2 * GiB, overhead=MiB)
    assert two.memory == Memory(weights=1 * GiB, overhead=MiB)
    assert (one.env, one.args) == ({"A": "1", "B": "2"}, ())
    assert (two.env, two.args, two.engine) == ({"A": "1", "B": "1"}, ("--x",), "simulator")


@pytest.mark.parametrize(
    ("variables", "socket", "state", "logs"),
    [
        (
            {
                "RUNTIME_DIRECTORY": "/run/muxd",
                "STATE_DIRECTORY": "/var/lib/muxd:/x",
                "LOGS_DIRECTORY": "/var/log/muxd",
            },
            "/run/muxd/muxd.sock",
            "/var/lib/muxd",
            "/var/log/muxd",
        ),
        (
            {"XDG_RUNTIME_DIR": "/run/user/7"},
            "/run/user/7/muxd/muxd.sock",
            "/h/.local/state/muxd",
            "/h/.local/state/muxd/logs",
        ),
        (
            {"RUNTIME_DIRECTORY": "/r", "XDG_RUNTIME_DIR": "/x"},
            "/r/muxd.sock",
            "/h/.local/state/muxd",
            "/h/.local/state/muxd/logs",
        ),
    ],
)
def test_the_environment_says_where_things_are(load, variables, socket, state, logs):
    daemon = load(ONE_MODEL, HOME="/h", **variables).daemon
    assert (daemon.socket, daemon.state_dir, daemon.log_dir) == (Path(socket), Path(state), Path(logs))


@pytest.mark.parametrize(
    ("variables", "caches"),
    [
        ({}, "/h/.cache/muxd"),
        ({"XDG_CACHE_HOME": "/fast"}, "/fast/muxd"),
        ({"XDG_CACHE_HOME": "/fast", "CACHE_DIRECTORY": "/var/cache/muxd:/other"}, "/var/cache/muxd"),
    ],
)
def test_caches_are_kept_where_the_environment_says(load, variables, caches):
    assert load(ONE_MODEL, HOME="/h", **variables).daemon.cache_dir == Path(caches)
    assert load('[muxd]\ncache_dir = "/c"\n' + ONE_MODEL, HOME="/h", **variables).daemon.cache_dir == Path("/c")


def test_logs_follow_a_state_dir_that_was_written(load, tmp_path):
    daemon = load('[muxd]\nstate_dir = "~/s"\n' + ONE_MODEL).daemon
    assert (daemon.state_dir, daemon.log_dir) == (tmp_path / "home/s", tmp_path / "home/s/logs")


def test_all_problems_are_told_at_once_in_the_order_of_the_file(problems, tmp_path):
    assert problems("""\
[muxd]
sockt = "/a"
log_level = "verbose"
[proxy]
listen = "30100"
max_body = "2GiB"
[foo]
[defaults]
start_timeout = "10 minutes"
memory = { weights = "38GB" }
[models.qwen]
modle_path = "x"
args = ["--port=1", "--host", "x"]
port = 30001
[models.legacy]
model_path = "./nope"
port = 30001
served_names = ["qwen"]
python = "pythn"
sleep_level = 4
[models.qwen2.5]
model_path = "Q/x"
[models.s]
engine = "tgi"
simulation = { load_time = -1 }
""") == [
        "F:2: muxd.sockt: unknown key; did you mean socket?",
        'F:3: muxd.log_level: "verbose" is not known; use "debug" or "info" or "warning" or "error"',
        'F:5: proxy.listen: "30100" is not an address; write "127.0.0.1:30100", "0.0.0.0:30100" or "[::1]:30100"',
        "F:6: proxy.max_body: 2GiB is more than buffer_memory, 512MiB; lower it or raise buffer_memory",
        "F:7: foo: unknown key; known: muxd, proxy, policy, gpus, ui, defaults, models, keys",
        'F:9: defaults.start_timeout: "10 minutes" is not a duration; write seconds or "90s", "5min", "2h"',
        'F:10: defaults.memory.weights: "38GB" is not a size; write bytes or "38GiB", "512MiB"',
        "F:12: models.qwen.modle_path: unknown key; did you mean model_path?",
        "F:13: models.qwen.args: --port is muxd's own; use the key port",
        "F:13: models.qwen.args: --host is muxd's own; leave it out: workers listen on loopback only",
        f"F:16: models.legacy.model_path: nothing at {tmp_path}/nope; correct the path, "
        "or give a Hub id such as Qwen/Qwen3-14B",
        "F:17: models.legacy.port: 30001 is already the port of model qwen; use another, "
        "or leave it out and muxd chooses one",
        'F:18: models.legacy.served_names: "qwen" already means model qwen; give each name to one model',
        "F:19: models.legacy.python: pythn is not an executable that can be found (engine_missing); name the python "
        "of an environment that has SGLang, or make one: python3 -m venv DIR && DIR/bin/python -m pip install sglang",
        "F:20: models.legacy.sleep_level: 4 is out of range; use 0 to 3",
        'F:21: models.qwen2.5: unknown table; a model name with a dot is written in quotes: [models."qwen2.5"]',
        'F:24: models.s.engine: "tgi" is not known; use "sglang" or "vllm" or "openai" or "remote" or "simulator"',
        "F:25: models.s.simulation.load_time: -1 is too short; use at least 0s",
    ]


def test_a_byte_order_mark_is_no_part_of_the_file(tmp_path, environ):
    (tmp_path / "muxd.toml").write_bytes(b"\xef\xbb\xbf" + ONE_MODEL.encode())
    (tmp_path / "muxd.d").mkdir()
    (tmp_path / "muxd.d/a.toml").write_bytes(b"\xef\xbb\xbf[models.qwen]\nprot = 1\n")
    with pytest.raises(ConfigError) as caught:
        load_config(tmp_path / "muxd.toml", environ)
    assert caught.value.problems == [f"{tmp_path}/muxd.d/a.toml:2: models.qwen.prot: unknown key; did you mean port?"]


def test_a_file_without_models_is_refused(problems):
    assert problems("[muxd]\n") == ["F: models: no model; add a table [models.NAME]"]
    for name, whose in (("proxy", "the proxy"), ("muxd", "muxd")):
        told = f"F:1: models.{name}: {whose} is called so; give the model another name"
        assert problems(f"[models.{name}]\nengine = 'simulator'\n") == [told]
    (only,) = problems("[model.qwen]\nmodel_path = 'o/q'\n")
    assert "did you mean models?" in only


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"[muxd]\nsocket = \n", "F:2: not TOML: Invalid value; correct this line"),
        (b"[models.a]\n[models.a]\n", "F:2: not TOML: [models.a] is there twice, first in line 1; join the two"),
        (b"[muxd]\nsocket", "F:2: not TOML: Expected '=' after a key in a key/value pair; correct this line"),
        (b"[muxd]\n# \xff\n", "F:2: not UTF-8; save the file as UTF-8"),
    ],
)
def test_what_is_not_toml_is_told_with_its_line(tmp_path, content, problem):
    file = tmp_path / "muxd.toml"
    file.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load_config(file, {})
    assert caught.value.problems == [problem.replace("F", str(file), 1)]


def test_a_directory_in_place_of_the_file_is_told(tmp_path):
    with pytest.raises(ConfigError) as caught:
        load_config(tmp_path, {})
    assert caught.value.problems == [f"{tmp_path}: cannot be read: Is a directory; correct the path, or what is there"]


def test_a_file_with_problems_still_tells_where_its_logs_are(tmp_path, environ):
    file = tmp_path / "muxd.toml"
    file.write_text('[muxd]\nlog_dir = "/logs"\n[models.a]\nmodel_path = "/gone"\nserved_names = ["x"]\n')
    config = salvage_config(file, environ)
    assert config.daemon.log_dir == Path("/logs")
    assert config.models[0].served_names == ("x",)


ODD = [
    "0",
    "-1",
    "1e999",
    "nan",
    "true",
    '""',
    '"\\u0000"',
    '"~"',
    '"\\n"',
    "[]",
    "[[]]",
    "[1, true]",
    "{}",
    "{ a = {} }",
]


ODD += ["1979-05-27", "99999999999999999999", '"é"', '"inf"', '"~nobody/x"', '"[::1]:"', '":²"', "[{}]", '["\\u0000"]']


TABLES = [(name, keys_of(table)) for name, table in SECTIONS.items()]


TABLES += [("defaults", MODEL_KEYS), ("models.a", MODEL_KEYS)]


TABLES += [("models.a.memory", keys_of(Memory)), ("models.a.simulation", keys_of(Simulation))]


@pytest.mark.parametrize(("table", "keys"), TABLES, ids=[table for table, _ in TABLES])
def test_no_value_of_any_key_is_more_than_a_problem(load, table, keys):
    found = []
    for number, key in enumerate(keys):
        for value in ODD[number % EVERY :: EVERY]:
            try:
                load(f"[{table}]\n{key} = {value}\n{ONE_MODEL}")
            except ConfigError as error:
                found += error.problems
    assert found
    assert [problem for problem in found if "; " not in problem] == []
