"""llama-swap's configuration as muxd's: every key of it, its commands, and what is wrong with them."""

from math import inf

import pytest

from muxd.config.problems import Problems
from muxd.importers import llama_swap, swap_keys
from muxd.importers.engine_commands import words_of
from muxd.importers.translations import rows


@pytest.mark.parametrize(
    ("cmd", "command", "gpus"),
    [
        ("env CUDA_VISIBLE_DEVICES=1 serve --port ${PORT}", "serve --port {port}", ("1",)),
        (
            "/usr/bin/env A=b CUDA_VISIBLE_DEVICES=2,3 serve --port ${PORT}",
            "/usr/bin/env A=b serve --port {port}",
            "23",
        ),
        ("env CUDA_VISIBLE_DEVICES= serve --port ${PORT}", "env CUDA_VISIBLE_DEVICES= serve --port {port}", ("0",)),
        ("env A=b serve --port ${PORT}", "env A=b serve --port {port}", ("0",)),
    ],
)
def test_gpus_that_a_command_sets_by_itself_are_the_models(swap, cmd, command, gpus):
    (model,) = swap.load(f"models:\n  a:\n    cmd: {cmd}\n", "config.yaml").models
    assert (" ".join(model.engine_options.command), model.gpus) == (command, tuple(gpus))


def test_an_engine_behind_env_is_run_as_one_where_env_says_nothing_else(swap):
    text = "models:\n  a:\n    cmd: env CUDA_VISIBLE_DEVICES=1 /opt/v/bin/vllm serve Qwen/Q --port ${PORT}\n"
    (model,) = swap.load(text, "config.yaml").models
    assert (model.engine, model.gpus, model.engine_options.python) == ("vllm", ("1",), "/opt/v/bin/python")


@pytest.mark.parametrize("front", ["sh -c 'CUDA_VISIBLE_DEVICES=1 exec", "env -u A CUDA_VISIBLE_DEVICES=1 sh -c '"])
def test_gpus_that_are_said_where_nobody_reads_them_are_pointed_out(swap, front):
    said = swap.remarks(f"models:\n  a:\n    cmd: {front} serve --port ${{PORT}}'\n", "config.yaml")
    told = ":3: models.a.cmd: CUDA_VISIBLE_DEVICES is said within a command that is not read, and its turn is on GPU 0"
    assert [remark for remark in said if told in remark], said


#: A value that each key takes, by its path; of the others a word.
VALUES = {
    "startPort": 6000, "healthCheckTimeout": 60, "unloadTimeout": 20, "globalTTL": 5, "logLevel": "warn",
    "apiKeys": ["sk-x"], "hooks.on_startup.preload": ["a"], "groups.NAME": {"swap": False, "members": ["a"]},
    "routing.router.settings.groups.NAME": {"persistent": True, "members": ["a"]}, "macros": {"m": 1},
    "models.NAME.cmd": "server --port ${PORT}", "models.NAME.proxy": "http://localhost:${PORT}",
    "models.NAME.checkEndpoint": "/ready", "models.NAME.env": ["A=1"], "models.NAME.aliases": ["b"],
    "models.NAME.macros": {"m": 2}, "models.NAME.ttl": 9, "models.NAME.unloadTimeout": 21,
    "models.NAME.concurrencyLimit": 7, "models.NAME.filters.setParams": {"x": 1},
    "models.NAME.filters.setParamsByID": {"a": {"x": 2}},
    "peers.NAME.proxy": "http://192.168.1.2:8080", "peers.NAME.models": ["far"],
    "peers.NAME.filters.setParams": {"x": 3},
}  # fmt: skip


def everything():
    """A configuration with every key of the table, as YAML in JSON's form."""
    whole = {}
    for path, _ in rows(swap_keys.KEYS):
        inner = whole
        *before, last = ["a" if part == "NAME" else part for part in path.split(".")]
        for part in before:
            inner = inner.setdefault(part, {})
        inner[last] = VALUES.get(path, "word")
    return whole


def test_every_key_is_known_and_each_without_an_equal_is_said(swap):
    said = swap.remarks(_yaml(everything()), "config.yaml")
    for path, becomes in rows(swap_keys.KEYS):
        if becomes.startswith("no equal"):
            assert [remark for remark in said if f" {path.replace('NAME', 'a')}: no equal: " in remark], path


def test_every_key_with_an_equal_has_it(swap):
    config = swap.load(_yaml(everything()), "config.yaml")
    model, far = config.models
    assert (far.engine, far.served_names, far.upstream_name) == ("remote", ("a/far", "far"), "far")
    assert (far.set_params, far.strip_params, far.engine_options.api_key_env) == ({"x": 3}, ("word",), "A_API_KEY")
    assert model.engine_options.command == ("server", "--port", "{port}")
    assert (model.start_timeout, model.stop_timeout, model.concurrency_limit) == (60.0, 21.0, 7)
    assert (model.served_names, model.env, model.set_params) == (("a", "b"), {"A": "1"}, {"x": 1})
    assert (model.engine_options.ready_path, model.upstream_name, model.strip_params) == ("/ready", "word", ("word",))
    assert (model.preload, model.pinned, config.daemon.log_level) == (True, True, "warning")
    assert config.proxy.upstream_timeout == inf


def _yaml(table):
    import json

    return json.dumps(table)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("models: {}", "config.yaml:1: models: no model; write models: and NAME: with its cmd below it"),
        ("models:\n  a: 3", "config.yaml:2: models.a: not a mapping; write cmd, cmdStop, proxy"),
        ("host: 0.0.0.0\nmodels: {a: {cmd: x}}", "config.yaml:1: host: unknown key; "),
        ("models:\n  a:\n    cmd: x ${PORT}\n    helthCheck: 1", "config.yaml:4: models.a.helthCheck: unknown key; "),
        (
            "models:\n  a:\n    ttl: 3",
            "config.yaml:2: models.a: cmd is missing; write the command that starts its server",
        ),
        ("models:\n  a:", "config.yaml:2: models.a: cmd is missing; write the command that starts its server"),
        ("models:\n  a:\n    cmd: [x]", "config.yaml:3: models.a.cmd: ["),
        ("models:\n  a:\n    cmd: '# none'", "config.yaml:3: models.a.cmd: is empty; write the command that starts"),
        (
            "models:\n  a:\n    cmd: x 'y",
            "config.yaml:3: models.a.cmd: cannot be split into words: No closing quotation;",
        ),
        (
            "models:\n  a:\n    cmd: x --port 3",
            "config.yaml:3: models.a.cmd: no ${PORT} is in it, and proxy says no port",
        ),
        (
            "macros:\n  p: --port ${PORT}\nmodels:\n  a:\n    cmd: x ${p} --port ${PORT}",
            "config.yaml:5: models.a.cmd: says --port twice, with what its macros add; take one of them out",
        ),
        (
            "macros:\n  a: ${b}\n  b: x ${c}\n  c: ${a}\nmodels:\n  m:\n    cmd: ${a} --port ${PORT}",
            "config.yaml:7: models.m.cmd: macros lead to themselves: a -> b -> c -> a; write one of them without",
        ),
        (
            "macros:\n  a: x\nmodels:\n  m:\n    cmd: ${aa} --port ${PORT}",
            "config.yaml:5: models.m.cmd: ${aa} is no macro; did you mean a?",
        ),
        (
            "models:\n  m:\n    cmd: ${env.NO_SUCH_BIRD} --port ${PORT}",
            "config.yaml:3: models.m.cmd: ${env.NO_SUCH_BIRD} is not set in this environment; set it",
        ),
        ("macros:\n  PORT: 3\nmodels: {m: {cmd: x}}", "config.yaml:2: macros.PORT: PORT is llama-swap's own"),
        ("macros:\n  a: [1]\nmodels: {m: {cmd: x}}", "config.yaml:2: macros.a: not a text or number; write one"),
        ("macros: 3\nmodels: {m: {cmd: x}}", "config.yaml:1: macros: not a mapping; write NAME: VALUE below it"),
        (
            "models:\n  a:\n    cmd: x ${PORT}\n    aliases: [c]\n  b:\n    cmd: x ${PORT}\n    aliases: [c]",
            'config.yaml:7: models.b.aliases: "c" is an alias of a already; give each name to one model',
        ),
        (
            "models:\n  a:\n    cmd: x --port ${PORT}\n    aliases: [b]\n  b:\n    cmd: x --port ${PORT}",
            'config.yaml:4: models.a.aliases: "b" is a model\'s name; take it out here',
        ),
        ("models:\n  a:\n    cmd: x --port ${PORT}\n    aliases: [c, c]", 'models.a.aliases: "c" is there twice'),
        (
            "models:\n  a: {cmd: x 1, proxy: 'http://127.0.0.1:9'}\n  b: {cmd: x 2, proxy: 'http://127.0.0.1:9'}",
            "config.yaml:3: models.b.port: 9 is already the port of model a; use another",
        ),
        ("models:\n  a:\n    cmd: x\n    proxy: http://localhost", 'models.a.proxy: "http://localhost" has no port'),
        ("models:\n  a:\n    cmd: x\n    proxy: http://localhost:99999", "models.a.proxy: "),
        (
            "models:\n  a:\n    cmd: x\n    proxy: https://localhost:1",
            'models.a.proxy: "https://localhost:1": muxd speaks',
        ),
        (
            "models:\n  a: {cmd: 'x ${PORT}', filters: {setParams: {x: .nan}}}",
            "set_params: nan cannot be said",
        ),
        (
            "models:\n  a:\n    cmd: x\n    proxy: http://far:1",
            "config.yaml:1: models: none of them is on this host, and muxd starts none elsewhere; write muxd.toml",
        ),
        ("models:\n  a:\n    cmd: x ${PORT}\n    env: {A: 1}", "config.yaml:4: models.a.env: not a list of variables;"),
        (
            "models:\n  a:\n    cmd: x ${PORT}\n    filters:\n      stripParams: top_p\n      strip_params: top_k",
            "config.yaml:6: models.a.filters.strip_params: stripParams is there as well, and says something else;",
        ),
        (
            "models:\n  a:\n    cmd: x ${PORT}\n    proxy: http://[::1]:${PORT}",
            'config.yaml:4: models.a.proxy: "http://[::1]:{port}": muxd asks servers at 127.0.0.1; write that',
        ),
        ("models:\n  a:\n    cmd: x ${PORT}\n    filters: 3", "config.yaml:4: models.a.filters: not a mapping; write"),
        ("models: {a: {cmd: 'x ${PORT}'}}\nhooks: {on_startup: {preload: [z]}}", 'preload: no model "z"; '),
        (
            "models: {a: {cmd: 'x ${PORT}'}}\ngroups:\n  g: {members: [z]}",
            'config.yaml:3: groups.g.members: no model "z"',
        ),
        ("models: {a: {cmd: 'x ${PORT}'}}\ngroups:\n  g: {swop: true}", 'config.yaml:3: groups.g: "swop" is no key of'),
        (
            "models: {a: {cmd: 'x ${PORT}'}}\napiKeys: [1]",
            "config.yaml:2: apiKeys: not a list of keys; write - KEY below",
        ),
        (
            "models: {a: {cmd: 'x ${PORT}'}}\nlogLevel: loud",
            'config.yaml:2: logLevel: "loud" is not known; use "debug"',
        ),
        (
            "models: {a: {cmd: 'x ${PORT}'}}\nmodels: {}",
            "config.yaml:2: models is there twice, first in line 1; keep one",
        ),
        (
            "models: {a: {cmd: 'x ${PORT}'}}\npeers: {b: {models: [c]}}",
            "config.yaml:2: peers.b: proxy is missing; write",
        ),
        (
            "models: {b/c: {cmd: 'x ${PORT}'}}\npeers: {b: {proxy: http://c, models: [c]}}",
            '"b/c" is a model of this file',
        ),
        ("models: {a: {cmd: 'x ${PORT}'}}\npeers: [b]", "config.yaml:2: peers: not a mapping; write NAME below it"),
        ("models:\n\ta: 1", "config.yaml:2: not YAML: "),
        ("- models", "config.yaml:1: not a mapping"),
    ],
)
def test_what_is_wrong_is_told_with_file_line_and_advice(swap, text, told):
    problems = swap.problems(text, "config.yaml")
    assert [problem for problem in problems if told in problem], problems


@pytest.mark.parametrize("command", ["vllm serve b/c", "python3 -m sglang.launch_server --model-path b/c"])
def test_flags_that_a_server_of_muxd_does_not_get_are_said(swap, command):
    flags = "--port ${PORT} --host 0.0.0.0 --api-key sk-secret --served-model-name x"
    said = swap.remarks(f"models:\n  a:\n    cmd: {command} {flags}\n", "config.yaml")
    told = ":3: models.a.cmd: --api-key is left out, and its key is not asked for: give clients one of muxd's, "
    assert [remark for remark in said if remark.startswith(f"{told}muxctl keys add, see [[keys]]")], said
    for flag in ("--host", "--served-model-name"):
        assert f":3: models.a.cmd: {flag} is left out: muxd gives it itself" in said
    assert not [remark for remark in said if "sk-secret" in remark or " --port" in remark or " --model" in remark]


@pytest.mark.parametrize(
    "word", ["{model}-{host}", "{port}", "a{model_path}", "{gpus}", "{bird}", "{${PORT}}", "$${PORT}"]
)
@pytest.mark.parametrize("key", ["cmd", "cmdStop"])
def test_a_word_that_muxd_would_fill_in_is_refused(swap, key, word):
    commands = {"cmd": "x ${PORT}", "cmdStop": "y ${PID}"}
    commands[key] = f"# ${{none}}\n{commands[key]} ${{word}}"
    model = {"a": {**commands, "macros": {"word": f'"{word}"'}}}
    (problem,) = swap.problems(_yaml({"models": model}), "config.yaml")
    assert problem.startswith(f"config.yaml:1: models.a.{key}: ")
    assert problem.endswith("; put the command into a script, and start that")


def test_a_port_in_another_key_than_a_command_is_a_number(swap):
    used = {
        "env": ["B=${PORT}", "C=${base}"],
        "useModelName": "m-${PORT}",
        "filters": {"setParams": {"user": "p${PORT}", "n": "${PORT}"}},
        "checkEndpoint": "/h/${PORT}",
        "aliases": ["al-${PORT}"],
        "macros": {"base": "http://${PORT}"},
    }
    models = {
        "c": {"cmd": "x ${PORT}", **used},
        "a": {"cmd": "x ${PORT}", "name": "at ${PORT}"},
        "b": {"cmd": "x", "proxy": "http://127.0.0.1:6001", "env": ["B=${PORT}"]},
    }
    text = _yaml({"startPort": 6000, "models": models})
    c, a, b = swap.load(text, "config.yaml").models
    assert (a.port, b.port, c.port) == (0, 6001, 6002), "a needs none, b has one, and c gets the next that is free"
    assert (c.env, b.env) == ({"B": "6002", "C": "http://6002"}, {"B": "6001"})
    assert (c.upstream_name, c.set_params, c.served_names) == ("m-6002", {"user": "p6002", "n": 6002}, ("c", "al-6002"))
    assert (c.engine_options.ready_path, c.engine_options.command) == ("/h/6002", ("x", "{port}"))
    said = [remark for remark in swap.remarks(text, "config.yaml") if "${PORT}" in remark]
    for key in used.keys() - {"macros"}:
        assert [remark for remark in said if f"models.c.{key}: ${{PORT}} is written as 6002, and so is port" in remark]
    assert len(said) == 6


def test_a_port_that_models_share_is_written_for_none_of_them(swap):
    model = {"cmd": "x --port 7000", "proxy": "http://127.0.0.1:7000", "env": ["B=${PORT}"]}
    first, second = swap.load(_yaml({"models": {"b": model, "a": model}}), "config.yaml").models
    assert [(model.port, model.env["B"]) for model in (first, second)] == [(5801, "5801"), (5800, "5800")]


@pytest.mark.parametrize("start", [0, "x"])
def test_a_start_port_that_is_none_is_refused(swap, start):
    text = _yaml({"startPort": start, "models": {"a": {"cmd": "x ${PORT}"}}})
    assert swap.problems(text, "config.yaml")[0].startswith("config.yaml:1: startPort: ")


def test_the_path_where_an_engine_is_asked_is_its_own(swap):
    model = "{cmd: 'vllm serve o/a --port ${PORT}', checkEndpoint: /x}"
    remarks = swap.remarks(f"models:\n  a: {model}\n", "config.yaml")
    assert ":2: models.a.checkEndpoint: no equal: muxd asks vllm at its own /health" in remarks
    remarks = swap.remarks(f"models:\n  a: {model.replace('/x', '/health')}\n", "config.yaml")
    assert not [remark for remark in remarks if "checkEndpoint" in remark]


def test_braces_that_mean_nothing_to_muxd_stay(swap):
    text = 'models:\n  a:\n    cmd: x ${PORT} \'{"a":{"b":1}}\' {{ b }} {{c}} {D} {} p${PORT}q\n'
    (model,) = swap.load(text, "config.yaml").models
    words = ["x", "{port}", '{"a":{"b":1}}', "{{", "b", "}}", "{{c}}", "{D}", "{}", "p{port}q"]
    assert list(model.engine_options.command) == words


@pytest.mark.parametrize(
    ("cmd", "told"),
    [
        (3, "3 is not text; put it in quotes"),
        ("", "is empty; write the command that starts the server"),
        ("x -m ${x}", "${x} is no macro; "),
        ("x ${p} -m ${env.NO_SUCH_BIRD}", "${env.NO_SUCH_BIRD} is not set in this environment; "),
        ("x", "no ${PORT} is in it, and proxy says no port; "),
    ],
)
def test_one_fault_of_a_command_is_told_once(swap, cmd, told):
    (problem,) = swap.problems(_yaml({"macros": {"p": "${PORT}"}, "models": {"a": {"cmd": cmd}}}), "config.yaml")
    assert problem.startswith(f"config.yaml:1: models.a.cmd: {told}")


@pytest.mark.parametrize(
    ("cmd", "gpus"),
    [
        ("vllm serve b/c --tensor-parallel-size 2", "01"),
        ("vllm serve b/c -tp 2 -pp=2", "0123"),
        ("python3 -m sglang.launch_server --model-path b/c --tp 2 --base-gpu-id 1", "012"),
        ("docker run --gpus all -p ${PORT}:8000 vllm/vllm-openai -tp 2", "01"),
        ("docker run --gpus '\"device=2,3\"' -p ${PORT}:8000 vllm/vllm-openai -tp 2", "23"),
        ("vllm serve b/c", "0"),
    ],
)
def test_a_model_has_as_many_gpus_as_its_server_is_split_over(swap, cmd, gpus):
    (model,) = swap.load(_yaml({"models": {"a": {"cmd": f"{cmd} --port ${{PORT}}"}}}), "config.yaml").models
    assert "".join(model.gpus) == gpus


@pytest.mark.parametrize(
    ("options", "is_said"),
    [
        ("--gpus all", True),
        ("--gpus=all", True),
        ("--device nvidia.com/gpu=all", True),
        ("-e NVIDIA_VISIBLE_DEVICES=all", True),
        ("--gpus 2", False),
        ("--init", False),
    ],
)
def test_a_container_that_sees_all_gpus_has_the_first(swap, options, is_said):
    text = _yaml({"models": {"a": {"cmd": f"docker run {options} -p ${{PORT}}:8000 x"}}})
    told = ":1: models.a.cmd: its container sees all GPUs, and its turn is on GPU 0 alone; write gpus, those that it"
    assert bool([remark for remark in swap.remarks(text, "config.yaml") if remark.startswith(told)]) is is_said


def test_macros_that_double_each_other_are_refused(swap):
    macros = "\n".join(f"  m{number + 1}: ${{m{number}}}${{m{number}}}" for number in range(20))
    text = f"macros:\n  m0: xxxxxxxxxx\n{macros}\nmodels:\n  a:\n    cmd: ${{m20}} ${{PORT}}"
    assert "is longer than 65536 characters once its macros are replaced" in swap.problems(text, "config.yaml")[0]


def test_a_table_without_a_key_for_a_name_gets_one_of_its_own(swap):
    names = ("Qwen", "qwen", "QWEN", "proxy", "q/wen")
    text = "\n".join(f'  "{name}": {{cmd: "x --port ${{PORT}}"}}' for name in names)
    conversion = llama_swap.convert(swap.write(f"models:\n{text}", "config.yaml"), Problems([]))
    assert conversion.table_names == {
        "Qwen": "qwen-2",
        "qwen": "qwen",
        "QWEN": "qwen-3",
        "proxy": "proxy-2",
        "q/wen": "q-wen",
    }


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("a  b\n c", ["a", "b", "c"]),
        ("a \\\n b\\\nc", ["a", "b", "c"]),
        ("a # b", ["a", "#", "b"]),
        ("a\n  # b 'c\nd", ["a", "d"]),
        ("a 'b c' \"d e\" f\\ g", ["a", "b c", "d e", "f g"]),
    ],
)
def test_a_command_is_split_as_llama_swap_splits_it(command, words):
    assert words_of(command) == words


def test_a_field_that_is_set_to_null_and_a_path_without_a_slash(swap):
    model = "{cmd: 'x ${PORT}', checkEndpoint: health, filters: {setParams: {x: null, y: 1}}}"
    text = f"models:\n  a: {model}\n"
    (found,) = swap.load(text, "config.yaml").models
    assert (found.set_params, found.engine_options.ready_path) == ({"y": 1}, "/health")
    assert [said for said in swap.remarks(text, "config.yaml") if "no equal: a field that is set to null" in said]
