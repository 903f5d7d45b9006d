import os
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
    load_proxy_config,
    salvage_config,
)
from muxd.config.declarations import keys_of
from muxd.config.engine_options import ENGINE_OPTIONS
from muxd.config.flag_advice import OWNED_FLAGS
from muxd.config.load import config_from_supervisor
from muxd.config.model_schema import MODEL_KEYS
from muxd.config.proxy_settings import settings_for_proxy
from muxd.config.readers import Address
from muxd.config.schema import SECTIONS, Daemon, GiB, Key, MiB, Policy
from muxd.errors import ConfigError
from tests.seeds import EVERY

ONE_MODEL = '[models.qwen]\nmodel_path = "Qwen/Qwen3-14B"\n'


@pytest.fixture
def environ(tmp_path):
    """Return an environment with one program in its PATH: python3."""
    program = tmp_path / "bin/python3"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    # Not below HOME, whose path may be too long for a socket's where several processes run the tests.
    return {"PATH": str(program.parent), "HOME": str(tmp_path / "home"), "XDG_RUNTIME_DIR": "/run/user/1"}


@pytest.fixture
def load(tmp_path, environ):
    def load(text: str, **more: str) -> Config:
        file = tmp_path / "muxd.toml"
        file.write_text(text)
        return load_config(file, environ | more)

    return load


@pytest.fixture
def problems(load, tmp_path):
    """Return a function that returns the problems of a text, with F for the file."""

    def problems(text: str, **more: str) -> list[str]:
        with pytest.raises(ConfigError) as caught:
            load(text, **more)
        return [problem.replace(f"{tmp_path}/muxd.toml", "F") for problem in caught.value.problems]

    return problems


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[muxd]\nwait_target = '8s'", "F:2: muxd.wait_target: no key of this table; it belongs under [policy]"),
        ("listen = '127.0.0.1:1'", "F:1: listen: no key of this table; it belongs under [proxy]"),
        (
            "[policy]\nsleep_level = 2",
            "F:2: policy.sleep_level: no key of this table; it belongs under [models.NAME]",
        ),
        ("[models.a]\naccess_log = 'off'", "models.a.access_log: no key of this table; it belongs under [proxy]"),
    ],
)
def test_a_key_of_another_table_is_told_its_own(tmp_path, text, told):
    (tmp_path / "F").write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_config(tmp_path / "F", {})
    assert told in caught.value.message


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


A = "[models.a]\nmodel_path = 'x/y'\n"
LONG = "/" + "x" * 107

# What is added to a good file -> the one problem it makes, from the key path on.
WRONG = [
    ('[muxd]\nlog_format = "xml"', 'muxd.log_format: "xml" is not known; use "text" or "json"'),
    ("[muxd]\nsocket = 3", "muxd.socket: 3 is not usable; write one line of text in quotes"),
    (
        f'[muxd]\nsocket = "{LONG}"',
        f"muxd.socket: {LONG} has 108 bytes, a socket's path at most 107; use a shorter one",
    ),
    (
        '[muxd]\nadmin_group = "nobody-has-it"',
        "muxd.admin_group: no group nobody-has-it; create it with: groupadd --system nobody-has-it",
    ),
    ('[muxd]\nshutdown_timeout = "inf"', 'muxd.shutdown_timeout: "inf" is not allowed here; give a finite duration'),
    ("[muxd]\nsimulated_gpu_memory = 1", "muxd.simulated_gpu_memory: 1 is too small; use at least 1MiB"),
    ('[proxy]\nmanaged = "yes"', 'proxy.managed: "yes" is neither true nor false; write true or false without quotes'),
    (
        '[proxy]\nlisten = "0.0.0.0:70000"',
        'proxy.listen: "0.0.0.0:70000" is not an address; '
        'write "127.0.0.1:30100", "0.0.0.0:30100" or "[::1]:30100"',
    ),
    (A + "port = 30100", "models.a.port: 30100 is already the port of the proxy; "
     "use another, or leave it out and muxd chooses one"),
    ('[ui]\nlisten = "127.0.0.1:30100"', "ui.listen: 30100 is already the port of listen, under [proxy]; use another"),
    ('[ui]\nlisten = "0.0.0.0:30102"', "ui.listen: 0.0.0.0 lets other machines in, and no key may look: "
                                       "`muxctl keys add NAME --admin` makes one, or listen on 127.0.0.1"),
    ('[proxy]\nmetrics_listen = "127.0.0.1:30100"', "proxy.metrics_listen: 30100 is already the port of listen; "
     "use another, or leave it out: /metrics is there, too"),
    ('[proxy]\nlisten = "localhost:1"\nmetrics_listen = "0.0.0.0:1"', "proxy.metrics_listen: 1 is already the port of "
     "listen; use another, or leave it out: /metrics is there, too"),
    ('[proxy]\nmetrics_listen = "127.0.0.1:7"\n' + A + "port = 7", "models.a.port: 7 is already the port of "
     "metrics_listen, under [proxy]; use another, or leave it out and muxd chooses one"),
    ('[proxy]\naccess_log = "off"\naccess_log_dir = "logs"', "proxy.access_log_dir: nothing is written there while "
     'access_log is "off"; leave one of them out'),
    ('[proxy]\naccess_log_dir = "muxd.toml/logs"', "proxy.access_log_dir: F is not a directory; "
     "name one that is, or can be made"),
    (A + "port = 99999", "models.a.port: 99999 is out of range; use 0 to 65535"),
    (A + "port = true", "models.a.port: true is not a whole number; write one from 0 to 65535"),
    (f"[models.{'x' * 129}]", f"models.{'x' * 129}: not a model name; use at most 128 of a-z, 0-9, '.', '_' and '-', "
     "and begin with a letter or digit"),
    (
        "[models.A]",
        "models.A: not a model name; use at most 128 of a-z, 0-9, '.', '_' and '-', and begin with a letter or digit",
    ),
    (
        "[models.a]\nmodel_path = '/" + "x" * 300 + "'",
        f"models.a.model_path: /{'x' * 300} cannot be read: File name too long; correct the path, or what is there",
    ),
    ("[models.a]", "models.a.model_path: missing; give a local directory or a Hub id such as Qwen/Qwen3-14B"),
    (
        "[models.a]\nmodel_path = '~/nowhere'",
        "models.a.model_path: nothing at HOME/nowhere; correct the path, or give a Hub id such as Qwen/Qwen3-14B",
    ),
    (
        "[models.a]\nmodel_path = '$HOME/m'",
        'models.a.model_path: "$HOME/m" is neither a Hub id nor a path: $HOME would be taken literally: '
        'only a leading "~/" is expanded; write the path in full',
    ),
    (
        "[models.a]\nmodel_path = '/srv/${M}'",
        'models.a.model_path: ${M} would be taken literally: only a leading "~/" is expanded; write the path in full',
    ),
    (
        "[models.a]\nmodel_path = '~bob/m'",
        'models.a.model_path: ~bob would be taken literally: only a leading "~/" is expanded; write the path in full',
    ),
    (
        "[muxd]\nlog_dir = '$LOGS/muxd'",
        'muxd.log_dir: $LOGS would be taken literally: only a leading "~/" is expanded; write the path in full',
    ),
    (
        "[models.a]\nmodel_path = 'no/such/folder'",
        'models.a.model_path: "no/such/folder" is neither a Hub id nor a path: an id has one "/" at most; '
        'a path begins with "/", "./", "../" or "~/": write "/no/such/folder", if that is meant',
    ),
    (
        "[models.a]\nmodel_path = 'https://huggingface.co/Qwen/Qwen3-14B/tree/main'",
        'models.a.model_path: "https://huggingface.co/Qwen/Qwen3-14B/tree/main" is neither a Hub id nor a path: '
        "a URL; write Qwen/Qwen3-14B",
    ),
    *(
        (
            f"[models.a]\nmodel_path = '{given}'",
            f'models.a.model_path: "{given}" is neither a Hub id nor a path: {why}',
        )
        for given, why in {
            "hf.co/microsoft/phi-4": "an address; write microsoft/phi-4",
            "huggingface.co/microsoft/phi-4/tree/main": "an address; write microsoft/phi-4",
            "hf.co/gpt2": "an address; write gpt2",
            "hf.co/": "an address; write the id alone, such as Qwen/Qwen3-14B",
            "hf://microsoft/phi-4": "a URL; write microsoft/phi-4",
            "https://modelscope.cn/models/Qwen/Qwen3-8B": "a URL; write Qwen/Qwen3-8B",
            "http://example.org/a/b": "a URL; write the id alone, such as Qwen/Qwen3-14B",
            "microsoft/phi-4:latest": "an id has no tag; write microsoft/phi-4",
        }.items()
    ),
    (
        "[models.a]\nmodel_path = 'proc/self/fd'",
        'models.a.model_path: "proc/self/fd" is neither a Hub id nor a path: '
        'something of that name is here: write "/proc/self/fd"',
    ),
    (
        "[models.a]\nmodel_path = 'Qwen/Qwen3 14B'",
        'models.a.model_path: "Qwen/Qwen3 14B" is neither a Hub id nor a path: an id has letters, digits, \'.\', '
        "'_', '-' and at most one '/', as Qwen/Qwen3-14B; a path begins with \"/\", \"./\", \"../\" or \"~/\"",
    ),
    (
        A + "args = ['--context-length 32768']",
        'models.a.args: "--context-length 32768" is one word to the engine, which knows no such flag; '
        'write "--context-length", "32768"',
    ),
    (
        A + "args = ['--trust-remote-code true']",
        'models.a.args: "--trust-remote-code true": --trust-remote-code takes no value, and true is one; '
        'write "--trust-remote-code" alone',
    ),
    (
        A + "args = ['--tp=2 --dp=2']",
        'models.a.args: "--tp=2 --dp=2" is one word to the engine, which knows no such flag; write "--tp=2", "--dp=2"',
    ),
    (A + "args = ['\\u2014tp', '2']".replace("'", '"'),
     'models.a.args: "\\u2014tp" begins with a dash that is no "-"; write "--tp"'),
    (A + "args = ['-tp', '2']", 'models.a.args: "-tp" has one dash; write "--tp"'),
    (A + "args = ['--x', '-dp-size=2']", 'models.a.args: "-dp-size=2" has one dash; write "--dp-size=2"'),
    (A + "args = ['tp', '2']", 'models.a.args: "tp" belongs to no flag; SGLang\'s flags begin with "--"'),
    (A + "args = ['--tp', '$TP']",
     "models.a.args: $TP would be taken literally, nothing is expanded; write the value"),
    (A + "args = ['--chat-template=$HOME/t']",
     "models.a.args: $HOME would be taken literally, nothing is expanded; write the value"),
    (A + "args = ['--port 3']", "models.a.args: --port is muxd's own; use the key port"),
    (
        A + "args = ['--api-key=s']",
        "models.a.args: --api-key is muxd's own; leave it out: clients show keys to the proxy, see [[keys]], "
        "and it has none to show to the worker",
    ),
    (
        A + "env = {T = '${T}'}",
        "models.a.env.T: ${T} would be taken literally, nothing is expanded; "
        "write the value, or leave it out: a worker has muxd's own environment",
    ),
    (
        A + "env = {P = '/opt/bin:$PATH'}",
        "models.a.env.P: $PATH would be taken literally, nothing is expanded; "
        "write the value, or leave it out: a worker has muxd's own environment",
    ),
    ("[muxd]\nlog_dir = 'muxd.toml'", "muxd.log_dir: F is not a directory; name one that is, or can be made"),
    ("[muxd]\nlog_dir = '/'\nstate_dir = 'muxd.toml/s'",
     "muxd.state_dir: F is not a directory; name one that is, or can be made"),
    ("[muxd]\ncache_dir = 'muxd.toml/c'", "muxd.cache_dir: F is not a directory; name one that is, or can be made"),
    (A + "gpus = []", "models.a.gpus: [] is not a list of GPU numbers; write [0] or [0, 1], or \"auto\" for any"),
    (A + "gpus = [-1]", "models.a.gpus: -1 is not a GPU number; they count from 0"),
    (A + "gpus = [1, 1]", "models.a.gpus: 1 is there twice; name each once"),
    (A + "replicas = 2\ngpus = [0, 0, 0, 1]", "models.a.gpus: 0 is there twice; name each once"),
    (A + "served_names = ['x', 'x']", 'models.a.served_names: "x" is there twice; name each once'),
    (
        A + "served_names = 'x'",
        'models.a.served_names: "x" is not a list of strings; write ["...", "..."]',
    ),
    (
        A + "memory = {}",
        'models.a.memory: is empty; write at least { weights = "..." }, or leave it out: the whole GPU is taken then',
    ),
    (
        "[models.b]\nmodel_path = 'x/y'\nany_name=true\n[models.a]\nmodel_path = 'x/y'\nany_name = true",
        "models.a.any_name: model b takes all names that no model has; leave one of them out",
    ),
    (
        "[models.a]\nengine = 'remote'\ndecode = ['http://x:1']\nprefill = ['http://x:1 p']",
        'models.a.prefill: "p" is no bootstrap port; write "URL PORT", or the URL alone',
    ),
    (
        "models.a = { engine = 'remote', decode = ['http://x:1'] }",
        "models.a.prefill: missing: servers that decode are of no use without those that prefill",
    ),
    (
        "models.a.engine = 'remote'",
        'models.a.urls: missing; give the servers, as in urls = ["http://10.0.0.7:30000"], or discovery',
    ),
    (
        "[models.a]\nengine = 'remote'\nurls = ['ftp://x']",
        'models.a.urls: "ftp://x" is no address of a server; write scheme, host and port alone, as in '
        '"http://10.0.0.7:30000"',
    ),
    (
        "[models.a]\nengine = 'remote'\nexternal = true\nurls = ['https://x/api/v1/']",
        'models.a.urls: "https://x/api/v1/": /v1 is of the routes; write "https://x/api"',
    ),
    (
        "[models.a]\nengine = 'remote'\nurls = ['https://x/api']",
        "models.a.urls: https://x/api has a path: write scheme, host and port alone, or external = true",
    ),
    (
        "[models.a]\nengine = 'remote'\nprefill = ['http://x:1']\ndecode = ['http://x:2']\nexternal = true",
        "models.a.external: it is of no effect without urls",
    ),
    (
        "proxy.listen = '127.0.0.1:30100'\n[models.a]\nengine = 'remote'\nurls = ['http://x:1', 'http://localhost:30100']",
        "models.a.urls: http://localhost:30100 is this muxd's own proxy, by [proxy] listen; name another server",
    ),
    (
        "[models.a]\nengine = 'remote'\nurls = ['unix:r.sock']",
        'models.a.urls: "unix:r.sock" is no Unix socket; write its full path, as in "unix:/run/qwen.sock"',
    ),
    (
        "[models.a]\nengine = 'remote'\nurls = ['http://x:1']\ndiscovery = { selector = { app = 'q' } }",
        "models.a.discovery: urls is there too; keep one of them",
    ),
    (
        "[models.a]\nengine = 'remote'\ndiscovery = { selector = { app = '-' } }",
        'models.a.discovery.selector: "app" = "-" is no label of Kubernetes; correct it',
    ),
    (
        "[models.a]\nengine = 'remote'\ndiscovery = { selector = { app = 'q' } }\napi_key_env = 'K'",
        "models.a.api_key_env: it is of no effect without urls: prefill, decode and pods are asked without a key",
    ),
    (
        "[models.a]\nengine = 'remote'\ndiscovery = { prefill_selector = { app = 'q' } }",
        "models.a.discovery.decode_selector: missing: prefill and decode are of no use without each other",
    ),
    (
        "[models.a]\nengine = 'remote'\nurls = ['http://x:1']\ngpus = [0]",
        "models.a.gpus: leave this out: its servers run elsewhere",
    ),
    (
        A + "router = { policy = 'round_robin' }",
        "models.a.router: one worker needs no router; leave this out, or give replicas",
    ),
    (
        A + "replicas = 2\nrouter = { policy = 'fastest' }",
        'models.a.router.policy: "fastest" is not known; use "cache_aware" or "power_of_two" or "random" or '
        '"round_robin" or "manual"',
    ),
    (
        A + "replicas = 2\nrouter = { args = ['--worker-urls=http://127.0.0.1:1'] }",
        "models.a.router.args: --worker-urls is muxd's own; leave it out: muxd tells the router its workers",
    ),
    (
        A + "replicas = 2\nrouter = { args = ['--worker-u', 'http://127.0.0.1:1'] }",
        "models.a.router.args: --worker-u is muxd's own --worker-urls; leave it out: muxd tells the router its workers",
    ),
    (
        A + "replicas = 2\ngpus = [0, 1]\nplacement = 'packed'",
        'models.a.placement: it is for replicas whose gpus are "auto"; leave it out, or write that',
    ),
    (A + "replicas = 0", "models.a.replicas: 0 is out of range; use 1 to 64"),
    (A + "gpus = [0, 1, 2]\nmax_replicas = 2\nreplicas = 3", "models.a.replicas: 3 is more than max_replicas, 2"),
    (
        "[models.a]\nengine = 'simulator'\nprefill = { replicas = 1 }",
        "models.a.prefill: workers that prefill are of no use without those that decode; give decode, too",
    ),
    (
        "[models.a]\nengine = 'simulator'\ngpus = [0, 1]\ndecode = {}\nprefill = { replica = 1 }",
        'models.a.prefill: "replica" is no key of it; known: replicas, policy, args',
    ),
    (
        "[models.a]\nengine = 'simulator'\ngpus = [0, 1]\ndecode = {}\nprefill = { policy = 'best' }",
        'models.a.prefill: policy: "best" is not known; use "cache_aware" or "power_of_two" or "random" or '
        '"round_robin" or "manual"',
    ),
    (
        "[models.a]\nengine = 'simulator'\nprefill = {}\ndecode = {}\ngpus = [0, 1, 2]",
        "models.a.gpus: 3 GPUs cannot be parted among 2 replicas; name as many for each, in the order of those that "
        "prefill, then those that decode",
    ),
    (
        "[models.a]\nengine = 'simulator'\ngpus = [0, 1]\nprefill = {}\ndecode = {}\nreplicas = 2",
        "models.a.replicas: how many there are is said in prefill and decode; leave this out",
    ),
    (
        "[models.a]\nengine = 'simulator'\ngpus = [0, 1]\nprefill = {}\ndecode = {}\nsleep_level = 2",
        "models.a.sleep_level: its KV cache is known to the other half, and cannot be given up by itself; use 3",
    ),
    (
        "[models.a]\nengine = 'vllm'\nmodel_path = 'org/m'\npython = '/bin/true'\ngpus = [0, 1]\ndecode = {}\n"
        "prefill = {}",
        "models.a.prefill: only SGLang has workers that prefill and others that decode; leave it out, or change engine",
    ),
    (
        "[models.a]\nengine = 'remote'\ndecode = ['http://x:1']\nprefill = {}",
        "models.a.prefill: its servers run elsewhere; give a list of their addresses",
    ),
    (
        "[models.a]\nengine = 'simulator'\nprefill = ['http://x:1']",
        "models.a.prefill: only engine = \"remote\" has it; remove it or change engine",
    ),
    (
        A + "gpus = [0, 1]\nmax_replicas = 2\nmin_replicas = 3",
        "models.a.min_replicas: 3 is more than there can be, 2; raise max_replicas",
    ),
    (
        A + "pinned = true\nmin_replicas = 0",
        "models.a.min_replicas: a pinned model never leaves its GPUs by itself; use 1, or leave pinned out",
    ),
    (
        "[models.a]\nengine = 'simulator'\nreplicas = 2\ngpus = [0, 1, 2]",
        "models.a.gpus: 3 GPUs cannot be parted among 2 replicas; name as many for each, in the order of the replicas",
    ),
    (
        "[models.a]\nengine = 'simulator'\nreplicas = 2\ngpus = [0, 1]\nargs = ['--tp', '2']",
        "models.a.args: the server needs 2 GPUs (tp 2), and gpus names 1 for each of 2 replicas; name as many there, "
        "or correct args",
    ),
    (A + "memory = '3GiB'", 'models.a.memory: "3GiB" is not a table; write memory = { weights = ... }'),
    (A + "env = {A = 1}", "models.a.env: the value of A is not text; put it in quotes"),
    (A + "env = {CUDA_VISIBLE_DEVICES = '1'}",
     "models.a.env.CUDA_VISIBLE_DEVICES: muxd sets it; use the key gpus"),
    (A + "cwd = '/no/such'", "models.a.cwd: no directory /no/such; create it or correct the path"),
    (
        A + "simulation = {}",
        'models.a.simulation: only engine = "simulator" has it; remove it or change engine',
    ),
    (
        "[models.a]\nengine = 'simulator'\npython = 'python3'",
        'models.a.python: only engine = "sglang" or "vllm" has it; remove it or change engine',
    ),
    (
        "[models.a]\nengine = 'simulator'\nsimulation = { token_rate = 0 }",
        "models.a.simulation.token_rate: 0 is out of range; use more than 0 and at most 1e+06",
    ),
    (
        A + "idle = ['5min -> 1', '1h -> 0']",
        'models.a.idle: "1h -> 0" climbs: an idle model only sleeps deeper; use a level above 1',
    ),
    (
        A + "idle = ['5min -> 1', '2min -> 3']",
        'models.a.idle: "2min -> 3" comes no later than the step before it; put the shorter time first',
    ),
    (
        A + "idle = ['5min, 1']",
        'models.a.idle: "5min, 1" is no step; write "TIME -> LEVEL", as in "10min -> 1", with a level of 0 to 3',
    ),
    (A + "idle = ['soon -> 1']", 'models.a.idle: "soon" is not a duration; write seconds or "90s", "5min", "2h"'),
    (
        A + "idle = ['inf -> 1']",
        'models.a.idle: "inf" is not a time after which something happens; write "10min", "1h"',
    ),
    (A + "idle = '5min -> 1'", 'models.a.idle: "5min -> 1" is not a list; write ["10min -> 1", "1h -> 3"]'),
    (
        A + "idle = ['1h -> 3']\nidle_timeout = '5min'",
        "models.a.idle_timeout: idle says it already; leave one of them out",
    ),
    (
        A + "pinned = true\nidle_timeout = '5min'",
        "models.a.idle_timeout: pinned = true keeps it on its GPUs for good; leave one of them out",
    ),
    (
        "[models.a]\nengine = 'simulator'\nsleep_level = 3\nidle = ['5min -> 1']",
        "models.a.idle: it cannot sleep at level 1, only at 3: that is settled by its sleep_level",
    ),
    (
        "[models.a]\nengine = 'openai'\ncommand = ['/bin/sh', '{port}']\nstandby = true",
        "models.a.standby: SGLang's and the simulator's servers alone have a gate at which they wait, and openai has "
        "none; change engine, or write standby = false",
    ),
    (
        "[models.a]\nengine = 'simulator'\nstandby = true",
        "models.a.standby: at sleep_level 2 its process stays, and no next one is needed; use sleep_level = 3, "
        "or write standby = false",
    ),
    (
        "[models.a]\nengine = 'simulator'\nsleep_level = 3\nreplicas = 2\ngpus = [0, 1]\nstandby = true",
        "models.a.standby: it goes with one worker, not with several; leave replicas out, or write standby = false",
    ),
    (
        "[models.a]\nengine = 'simulator'\nsleep_level = 3\ngpus = 'auto'\nstandby = true",
        "models.a.standby: a process is told its GPUs when it begins, and any will do for this model; name those that "
        "it is to use, or write standby = false",
    ),
    (
        "[models.a]\nengine = 'simulator'\nsleep_level = 3\nmemory = { weights = '1GiB', kv = '1GiB' }\nstandby = true",
        "models.a.standby: a process is told its share of the GPU when it begins, by what is free then; leave kv out "
        "of memory, or write standby = false",
    ),
    (
        A + "evict = 'never'",
        'models.a.evict: "never" is what pinned = true is for; write that, or "never within 15min of use"',
    ),
    (A + "evict = 'seldom'", 'models.a.evict: "seldom" is not known; use "always", or "never within 15min of use"'),
    (A + "priority = 11", "models.a.priority: 11 is out of range; use -10 to 10"),
    ("[policy]\ndefault_model = 'qwem'", "policy.default_model: there is no model qwem; did you mean qwen?"),
    ("[models]\na = 3", 'models.a: 3 is not a table; write [models.a]'),
    (
        "[defaults]\npython = '/no/python'",
        "defaults.python: /no/python is not an executable that can be found (engine_missing); name the python "
        "of an environment that has SGLang, or make one: python3 -m venv DIR && DIR/bin/python -m pip install sglang",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("text", "problem"), WRONG, ids=[text.splitlines()[-1] for text, _ in WRONG])
def test_one_mistake_makes_one_problem_with_its_line(problems, tmp_path, text, problem):
    *_, wrong_line = text.splitlines()
    whole = text + "\n" + ONE_MODEL
    found = [line.replace(f"{tmp_path}/home", "HOME").replace(f"{tmp_path}/muxd.toml", "F") for line in problems(whole)]
    assert found == [f"F:{whole.splitlines().index(wrong_line) + 1}: {problem}"]


@pytest.mark.parametrize("flag", OWNED_FLAGS)
def test_a_flag_that_muxd_sets_is_refused_in_both_spellings(problems, flag):
    for written in (f'"{flag}", "x"', f'"{flag}=x"'):
        assert problems(f"{ONE_MODEL}args = [{written}]") == [
            f"F:3: models.qwen.args: {flag} is muxd's own; {OWNED_FLAGS[flag]}"
        ]


@pytest.mark.parametrize(("written", "flag"), [("--por", "--port"), ("--admin-api", "--admin-api-key")])
def test_a_flag_that_muxd_sets_is_refused_in_short(problems, written, flag):
    assert problems(f"{ONE_MODEL}args = ['{written}', '5']") == [
        f"F:3: models.qwen.args: {written} is muxd's own {flag}; {OWNED_FLAGS[flag]}"
    ]


@pytest.mark.parametrize("flag", ["--model-impl", "--modelopt-quant", "--enable-metrics", "--config-x"])
def test_a_flag_that_begins_like_one_that_muxd_sets_is_the_users(load, flag):
    assert load(f"{ONE_MODEL}args = ['{flag}', 'x']").models[0].args == (flag, "x")


def test_a_byte_order_mark_is_no_part_of_the_file(tmp_path, environ):
    (tmp_path / "muxd.toml").write_bytes(b"\xef\xbb\xbf" + ONE_MODEL.encode())
    (tmp_path / "muxd.d").mkdir()
    (tmp_path / "muxd.d/a.toml").write_bytes(b"\xef\xbb\xbf[models.qwen]\nprot = 1\n")
    with pytest.raises(ConfigError) as caught:
        load_config(tmp_path / "muxd.toml", environ)
    assert caught.value.problems == [f"{tmp_path}/muxd.d/a.toml:2: models.qwen.prot: unknown key; did you mean port?"]


@pytest.mark.parametrize(
    "more",
    [
        "args = ['--json-model-override-args={\"a\": 1}', '--chat-template', 'a b.jinja', '-5']",
        "env = { TOKEN = 'pa$word', PRICE = '$5', LATE = 'a $x' }",
        "model_path = 's3://bucket/some/model'",
    ],
)
def test_what_only_looks_odd_is_taken(load, more):
    table = f"[models.a]\n{more}\n" if "model_path" in more else A + more
    assert load(table).models[0].name == "a"


def test_a_path_with_a_dollar_that_is_there_is_taken(load, tmp_path):
    (tmp_path / "$HOME").mkdir()
    assert load("[models.a]\nmodel_path = './$HOME'\n").models[0].model_path == f"{tmp_path}/$HOME"


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


def test_a_simulated_model_needs_neither_path_nor_python(load):
    assert load("[models.a]\nengine = 'simulator'\n", PATH="").models[0].model_path == ""


def test_python_is_looked_up_in_the_path_the_worker_will_have(load, tmp_path):
    other = tmp_path / "venv/python3"
    other.parent.mkdir()
    other.write_text("")
    other.chmod(0o755)
    model = load(f'{ONE_MODEL}env = {{ PATH = "{other.parent}" }}').models[0]
    assert model.engine_options.python == str(other)


def test_a_relative_python_starts_at_the_files_directory(load, tmp_path):
    assert load(f'{ONE_MODEL}python = "bin/python3"').models[0].engine_options.python == str(tmp_path / "bin/python3")


def test_a_file_with_problems_still_tells_where_its_logs_are(tmp_path, environ):
    file = tmp_path / "muxd.toml"
    file.write_text('[muxd]\nlog_dir = "/logs"\n[models.a]\nmodel_path = "/gone"\nserved_names = ["x"]\n')
    config = salvage_config(file, environ)
    assert config.daemon.log_dir == Path("/logs")
    assert config.models[0].served_names == ("x",)


def test_the_groups_of_this_machine_are_known(load):
    import grp

    name = grp.getgrgid(os.getgid()).gr_name
    assert load(f'[muxd]\nadmin_group = "{name}"\n{ONE_MODEL}').daemon.admin_group == name


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


@pytest.mark.parametrize("table", ["muxd", "proxy", "policy", "defaults", "models"])
def test_a_section_that_is_no_table_is_a_problem(problems, table):
    assert any(f"F:1: {table}: 3 is not a table; write [{table}" in line for line in problems(f"{table} = 3\n"))


@pytest.mark.parametrize("metrics", ["127.0.0.1:30101", "127.0.0.2:30100", "[::1]:30100"])
def test_metrics_may_have_the_proxys_port_at_another_address(load, metrics):
    host, _, port = metrics.rpartition(":")
    assert load(f'[proxy]\nmetrics_listen = "{metrics}"\n{ONE_MODEL}').proxy.metrics_listen == (
        host.strip("[]"),
        int(port),
    )


def test_ports_that_are_chosen_at_each_start_are_not_one(load):
    text = f'[proxy]\nlisten = "127.0.0.1:0"\nmetrics_listen = "127.0.0.1:0"\n{ONE_MODEL}port = 0\n'
    assert load(text).models[0].port == 0


def test_a_proxy_asks_no_disk_for_the_folder_of_its_log(tmp_path):
    """Check that reading asks no disk: the proxy asks when it opens the log, and must not wait while it serves."""
    path = tmp_path / "muxd.toml"
    path.write_text('[proxy]\naccess_log_dir = "/proc/nope"\n')
    config = load_proxy_config(path, {"HOME": str(tmp_path)})
    assert config.proxy.access_log_dir == Path("/proc/nope")
    assert config_from_supervisor(settings_for_proxy(config), {}).proxy == config.proxy


def test_the_proxy_does_not_mind_what_is_wrong_with_the_models(tmp_path):
    path = tmp_path / "muxd.toml"
    path.write_text('[proxy]\nlisten = "127.0.0.1:1234"\n[models.a]\nmodel_path = "/no/such/model"\nprot = 3\n')
    assert load_proxy_config(path, {"HOME": str(tmp_path)}).proxy.port == 1234


def test_the_proxy_minds_what_is_wrong_with_its_own_table(tmp_path):
    path = tmp_path / "muxd.toml"
    path.write_text('[proxy]\nlisten = 7\n[models.a]\nmodel_path = "/no/such/model"\n')
    with pytest.raises(ConfigError) as error:
        load_proxy_config(path, {"HOME": str(tmp_path)})
    assert [p.split(": ")[1] for p in error.value.problems] == ["proxy.listen"]


@pytest.mark.parametrize(
    ("text", "path", "what"),
    [
        ('[proxy]\nuser = "no-such-user"', "proxy.user", "no user no-such-user"),
        ('[models.muxd-proxy]\nengine = "simulator"', "models.muxd-proxy", "the proxy is called so"),
        (
            '[models.a]\nengine = "simulator"\nsimulation = { faults = ["explode"] }',
            "models.a.simulation.faults",
            "there is no fault 'explode'",
        ),
    ],
)
def test_what_would_only_fail_at_the_start_is_found_by_check(tmp_path, text, path, what):
    file = tmp_path / "muxd.toml"
    file.write_text(text + '\n[models.ok]\nengine = "simulator"\n')
    with pytest.raises(ConfigError) as error:
        load_config(file, {"HOME": str(tmp_path)})
    (problem,) = error.value.problems
    assert f" {path}: " in problem
    assert what in problem


def test_hosts_and_origins_are_kept_as_they_are_compared(load):
    hosts = '["GPU1.example", "*.lan", "[FD00::1]", "10.0.0.7", "gpu2."]'
    origins = '["HTTPS://Chat.example:443", "http://localhost:3000", "http://a.test:80", "app://obsidian.md", "null"]'
    proxy = load(f"[proxy]\nhosts = {hosts}\nallow_origins = {origins}\n" + ONE_MODEL).proxy
    assert proxy.hosts == ("gpu1.example", "*.lan", "fd00::1", "10.0.0.7", "gpu2")
    assert proxy.allow_origins == (
        "https://chat.example", "http://localhost:3000", "http://a.test", "app://obsidian.md", "null",
    )  # fmt: skip
    assert load("[proxy]\nallow_origins = []\n" + ONE_MODEL).proxy.allow_origins == ()
    assert load(ONE_MODEL).proxy.allow_origins is None


@pytest.mark.parametrize("host", ["http://gpu1", "gpu1:30100", "gpu1/x", "", "a b", "**", "x.*", "[::1]:80"])
def test_what_is_no_hosts_name_is_told(problems, host):
    assert "proxy.hosts" in problems(f'[proxy]\nhosts = ["{host}"]\n' + ONE_MODEL)[0]


@pytest.mark.parametrize("origin", ["localhost:3000", "https://a.example/", "https://a.example/x", "https://*", "//a"])
def test_what_is_no_origin_is_told(problems, origin):
    (problem,) = problems(f'[proxy]\nallow_origins = ["{origin}"]\n' + ONE_MODEL)
    assert 'is not an origin; write scheme, host and port alone: "http://localhost:3000", or "*"' in problem


def test_several_processes_need_room_for_the_names_of_their_sockets(problems, load, tmp_path):
    several, deep = "[proxy]\nprocesses = 2\n", f'[muxd]\nstate_dir = "/tmp/{"d" * 100}"\nsocket = "/tmp/s"\n'
    too_long = "F:5: proxy.processes: several processes have sockets in state_dir, whose path is 12 bytes too long"
    found = problems(deep + several + ONE_MODEL)
    assert any(told.startswith(too_long) for told in found), found
    assert not any("processes" in told for told in problems(deep + ONE_MODEL))
