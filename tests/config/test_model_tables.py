"""What a model's table may not have, each mistake told once and with its line; and what only looks like one."""

import pytest

from muxd.config.flag_advice import OWNED_FLAGS

from .conftest import ONE_MODEL

A = "[models.a]\nmodel_path = 'x/y'\n"
LONG = "/" + "x" * 107

# What is added to a good file -> the one problem it makes, from the key path on.
WRONG = [
    (
        A + "port = 30100",
        "models.a.port: 30100 is already the port of the proxy; use another, or leave it out and muxd chooses one",
    ),
    (
        '[proxy]\nmetrics_listen = "127.0.0.1:7"\n' + A + "port = 7",
        "models.a.port: 7 is already the port of "
        "metrics_listen, under [proxy]; use another, or leave it out and muxd chooses one",
    ),
    (A + "port = 99999", "models.a.port: 99999 is out of range; use 0 to 65535"),
    (A + "port = true", "models.a.port: true is not a whole number; write one from 0 to 65535"),
    (
        f"[models.{'x' * 129}]",
        f"models.{'x' * 129}: not a model name; use at most 128 of a-z, 0-9, '.', '_' and '-', "
        "and begin with a letter or digit",
    ),
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
        "[models.a]\nmodel_path = 'no/such/folder'",
        'models.a.model_path: "no/such/folder" is neither a Hub id nor a path: an id has one "/" at most; '
        'a path begins with "/", "./", "../" or "~/": write "/no/such/folder", if that is meant',
    ),
    (
        "[models.a]\nmodel_path = 'https://huggingface.co/Qwen/Qwen3-14B/tree/main'",
        'models.a.model_path: "https://huggingface.co/Qwen/Qwen3-14B/tree/main" is neither a Hub id nor a path: '
        "a URL; write Qwen/Qwen3-14B",
    ),
    (
        "[models.a]\nmodel_path = 'proc/self/fd'",
        'models.a.model_path: "proc/self/fd" is neither a Hub id nor a path: '
        'something of that name is here: write "/proc/self/fd"',
    ),
    (
        "[models.a]\nmodel_path = 'Qwen/Qwen3 14B'",
        "models.a.model_path: \"Qwen/Qwen3 14B\" is neither a Hub id nor a path: an id has letters, digits, '.', "
        '\'_\', \'-\' and at most one \'/\', as Qwen/Qwen3-14B; a path begins with "/", "./", "../" or "~/"',
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
    (
        A + "args = ['\\u2014tp', '2']".replace("'", '"'),
        'models.a.args: "\\u2014tp" begins with a dash that is no "-"; write "--tp"',
    ),
    (A + "args = ['-tp', '2']", 'models.a.args: "-tp" has one dash; write "--tp"'),
    (A + "args = ['--x', '-dp-size=2']", 'models.a.args: "-dp-size=2" has one dash; write "--dp-size=2"'),
    (A + "args = ['tp', '2']", 'models.a.args: "tp" belongs to no flag; SGLang\'s flags begin with "--"'),
    (A + "args = ['--tp', '$TP']", "models.a.args: $TP would be taken literally, nothing is expanded; write the value"),
    (
        A + "args = ['--chat-template=$HOME/t']",
        "models.a.args: $HOME would be taken literally, nothing is expanded; write the value",
    ),
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
    (A + "gpus = []", 'models.a.gpus: [] is not a list of GPU numbers; write [0] or [0, 1], or "auto" for any'),
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
        'models.a.prefill: only engine = "remote" has it; remove it or change engine',
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
    (A + "env = {CUDA_VISIBLE_DEVICES = '1'}", "models.a.env.CUDA_VISIBLE_DEVICES: muxd sets it; use the key gpus"),
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
    (A + "idle = ['0 -> 1']", 'models.a.idle: "0" is not a time after which something happens; write "10min", "1h"'),
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
    ("[models]\na = 3", "models.a: 3 is not a table; write [models.a]"),
    (
        "[defaults]\npython = '/no/python'",
        "defaults.python: /no/python is not an executable that can be found (engine_missing); name the python "
        "of an environment that has SGLang, or make one: python3 -m venv DIR && DIR/bin/python -m pip install sglang",
    ),
]


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
