"""Keys and tables that stand where they are not known: the answer says where what was meant is written, and how."""

import pytest

from muxd.config import load_config
from muxd.errors import ConfigError

MODEL = "[models.m]\nengine = 'simulator'\n"


@pytest.fixture
def told(tmp_path):
    """`told(text)`: the problems of a text, without the name of the file."""

    def told(text):
        file = tmp_path / "muxd.toml"
        file.write_text(text)
        with pytest.raises(ConfigError) as caught:
            load_config(file, {"PATH": "/usr/bin", "HOME": str(tmp_path)})
        return [problem.replace(f"{file}:", "") for problem in caught.value.problems]

    return told


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("[proxy]\nport = 31000", '2: proxy.port: unknown key; write listen = "127.0.0.1:31000"'),
        ("[proxy]\nhost = '::1'", '2: proxy.host: unknown key; write listen = "[::1]:30100"'),
        ("[proxy]\nbind = 'gpu1:80'", '2: proxy.bind: unknown key; write listen = "gpu1:80"'),
        ("[muxd]\nport = 3", '2: muxd.port: unknown key; write listen = "127.0.0.1:3" under [proxy]'),
        ("port = 3", '1: port: unknown key; write listen = "127.0.0.1:3" under [proxy]'),
        ("[proxy]\napi_key = 'k'", "clients' API keys are made with muxctl keys add NAME, and written as [[keys]]"),
        ("[proxy]\ncors = []", "2: proxy.cors: unknown key; write allow_origins"),
        ("[muxd]\nlog_file = 'x'", "2: muxd.log_file: unknown key; write log_dir"),
        ("path = 'x'", "1: path: unknown key; write model_path under [models.NAME]"),
        ("[server]\nport = 3", "1: server: unknown table; write [proxy]"),
        ("[auth]\n", "1: auth: unknown table; write [[keys]]"),
        (
            "tp = 2",
            '1: tp: a flag of the engine, which goes into args; write args = ["--tp", "2"] under [models.NAME]',
        ),
        ("model = 'a/b'", "1: model: no key; use the key model_path under [models.NAME]"),
        ("[policy]\nport = 3", '2: policy.port: unknown key; write listen = "127.0.0.1:3" under [proxy]'),
        ("gpus = [0]", "1: gpus: a model's key, as it is written; it belongs under [models.NAME]"),
        ("[[proxy]]\n", "1: proxy: a list of tables; write [proxy] in single brackets"),
    ],
)
def test_what_neighbours_call_a_key_is_told_with_muxds_own(told, table, said):
    (only,) = told(f"{table}\n{MODEL}")
    assert only.endswith(said)


def test_both_halves_of_an_address_are_told_as_one(told):
    for line in told(f"[proxy]\nport = 3\nhost = '127.0.0.2'\n{MODEL}"):
        assert line.endswith('write listen = "127.0.0.2:3"')


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("path = 'a/b'", "unknown key; write model_path"),
        ("name = 'a'", "unknown key; write served_names"),
        ("gpu = 1", "unknown key; write gpus"),
        ("enviroment = {A = 'b'}", "unknown key; did you mean env?"),
        ("tp = 2", 'a flag of the engine, which goes into args; write args = ["--tp", "2"]'),
        ("context-length = 5", 'a flag of the engine, which goes into args; write args = ["--context-length", "5"]'),
        ("--max-model-len = 5", 'a flag of the engine, which goes into args; write args = ["--context-length", "5"]'),
        (
            "gpu_memory_utilization = 0.9",
            'a flag of the engine, which goes into args; write args = ["--mem-fraction-static", "0.9"]',
        ),
        ("trust_remote_code = true", 'write args = ["--trust-remote-code"]'),
        ("is_embedding = false", "a flag of the engine (--is-embedding), which goes into args; leave it out"),
        ("lora_paths = ['a', 'b']", 'write args = ["--lora-paths", "a", "b"]'),
        ("rope_scaling = {type = 'yarn'}", "goes into args, as --json-model-override-args and one word of JSON"),
        ("enable_prefix_caching = true", "a flag of another server; SGLang does that unasked: remove it"),
        ("task = 'embed'", 'write args = ["--is-embedding"]'),
        ("enable_auto_tool_choice = true", 'write args = ["--tool-call-parser", "..."]'),
        ("no_enable_chunked_prefill = true", 'write args = ["--chunked-prefill-size=-1"]'),
        ("device = 'cpu'", 'write args = ["--device", "cpu"]'),
        ("device = 0", "unknown key; write gpus"),
        ("n_gpu_layers = 9", "a flag of another server; remove it"),
        ("host = '0.0.0.0'", "no key; leave it out: workers listen on loopback only"),
        ("model = 'a/b'", "no key; use the key model_path"),
        ("contxt_length = 5", 'did you mean context_length? It is a flag of the engine, which goes into args; '
         'write args = ["--context-length", "5"]'),
        ("frobnication = 5", 'unknown key; a flag of the engine goes into args, as args = ["--tp", "2"]; known: '),
        ("memory = {wieghts = 5}", "unknown key; did you mean weights?"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("head", ["[defaults]", "[models.a]\nengine = 'simulator'"])
def test_an_engines_flag_as_a_key_is_told_as_args(told, head, key, said):
    (only,) = told(f"{head}\n{key}\n{MODEL}")
    assert said in only


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("model_path = 'a/b'", "models.model_path: no model, but a model's key; it belongs under [models.NAME]"),
        ("memory = {weights = 3}", "models.memory: no model, but a model's key; it belongs under [models.NAME]"),
        ("path = 'a/b'", "it belongs under [models.NAME], as model_path"),
        ("modelpath = 'a/b'", "it belongs under [models.NAME]; did you mean model_path?"),
        ("tp = 2", 'it belongs under [models.NAME]: a flag of the engine, which goes into args; write args = ["--tp"'),
        ("phi = 'a/b'", 'models.phi: "a/b" is not a table; write [models.phi], and below it model_path = "a/b"'),
        ("zzz = 5", "models.zzz: 5 is not a table; write [models.zzz]"),
    ],
)
def test_a_key_directly_under_models_is_told_where_it_belongs(told, line, said):
    (only,) = told(f"[models]\n{line}\n{MODEL}")
    assert only.startswith("2: models.")
    assert said in only


def test_a_list_of_models_is_told_without_pythons_words(told):
    assert told("[[models]]\nname = 'p'\n[[models]]\nname = 'q2.5'\n") == [
        "1: models: a list of tables, and each model is a table of its own; "
        'write [models.p], [models."q2.5"], without a name in it'
    ]
    assert told("models = ['a/b', 'c/d']\n") == [
        '1: models: ["a/b", "c/d"] is not a table; write [models.NAME] for each model, and below it model_path = ...'
    ]
    assert told(f"[[models.p]]\n{MODEL}") == ["1: models.p: a list of tables; write [models.p] in single brackets"]


@pytest.mark.parametrize(
    ("head", "name"),
    [("llama-3.1-8b", "llama-3.1-8b"), ("qwen2.5.1", "qwen2.5.1"), ("a.b]\n[models.a.c", "a.b")],
)
def test_a_models_name_with_dots_is_told_whole(told, head, name):
    first = told(f"[models.{head}]\nmodel_path = 'a/b'\n")[0]
    assert first.endswith(f'a model name with a dot is written in quotes: [models."{name}"]')


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[models.p]\n[models.q]\n\n[models.p]\n", "4: not TOML: [models.p] is there twice, first in line 1; join the"),
        ("[models.p]\nport = 1\n\nport = [\n2,\n]\n", "4: not TOML: models.p.port is there twice, first in line 2; "),
        ("[models.p]\nport = 1\nport = 2", "3: not TOML: models.p.port is there twice, first in line 2; remove one"),
        ("[[keys]]\nname = 'a'\n[[keys]]\nname = 'b'\nname = 'c'", "5: not TOML: keys.name is there twice, first in "
         "line 4; remove one"),
        (
            "[models.p]\nmemory = {}\n[models.p.memory]\n",
            "3: not TOML: [models.p.memory] is there twice, first in line 2; join the two",
        ),
        (
            "[models.p]\nport = 1\nenv.A = '1'\n[models.p.env]\n",
            "4: not TOML: [models.p.env] is there already, in line 3; write all of it in one place",
        ),
        ("a = 1\n[a.b]\n", "2: not TOML: [a.b] is there already, in line 1; write all of it in one place"),
        ("[models.p]\nenv = {A = '1', A = '2'}\n", "2: not TOML: A is there twice within { }; remove one"),
    ],
)  # fmt: skip
def test_what_is_there_twice_is_told_with_its_name_and_both_lines(told, text, said):
    (only,) = told(text)
    assert only.startswith(said)


def test_a_flag_of_another_engine_than_sglang_stays_as_that_engine_calls_it(told):
    key = "max_num_seqs = 5\n"
    for text in (f"[models.v]\nengine = 'vllm'\nmodel_path = 'a/b'\n{key}",
                 f"[defaults]\nengine = 'vllm'\n[models.v]\nmodel_path = 'a/b'\n{key}"):  # fmt: skip
        assert any(line.endswith('write args = ["--max-num-seqs", "5"]') for line in told(text))


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("cmd = 'x'", "unknown key; write command"),
        ("cmdStop = 'x'", "unknown key; write stop_command"),
        ("checkEndpoint = '/x'", "unknown key; write ready_path"),
        ("useModelName = 'x'", "unknown key; write upstream_name"),
        ("healthcheck = '/x'", "unknown key; write health_path"),
        (
            "context_length = 4096",
            'a flag of the server, which goes into command; add "--context-length", "4096" there, as the server spells'
            " it",
        ),
    ],
)
def test_in_the_table_of_a_model_that_a_command_serves_its_own_words_are_told(told, key, said):
    (only,) = told(f"[models.m]\nengine = 'openai'\ncommand = ['cat', '{{port}}']\n{key}\n")
    assert only == f"4: models.m.{key.split()[0]}: {said}"


def test_what_no_key_is_called_goes_into_the_command_there(told):
    (only,) = told("[models.m]\nengine = 'openai'\ncommand = ['cat', '{port}']\nttl = 5\n")
    assert only.startswith("4: models.m.ttl: unknown key; a flag of the engine goes into command; known: ")
