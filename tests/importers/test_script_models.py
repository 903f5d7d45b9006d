"""A model whose table names a launch script: the table first, then the script, then [defaults]."""

from pathlib import Path

import pytest

import muxd.nvml
from muxd.config import load_config, load_proxy_config
from muxd.config.load import config_from_supervisor
from muxd.config.plan import plan_of
from muxd.config.proxy_settings import settings_for_proxy
from muxd.errors import ConfigError
from muxd.gpus import CannotAsk, GpuIdentity

SERVE = "python -m sglang.launch_server"
LEGACY = f"MODEL_NAME=org/legacy\nPORT=30001\n{SERVE} --model-path /w --port $PORT --served-model-name old\n"
SAVING = LEGACY.replace("--port", "--enable-memory-saver --port")


@pytest.fixture
def load(tmp_path, bash):
    def load(models, script=LEGACY, **more):
        (tmp_path / "launch").mkdir(exist_ok=True)
        (tmp_path / "launch/legacy.sh").write_text(script)
        (tmp_path / "muxd.toml").write_text(models)
        return load_config(tmp_path / "muxd.toml", bash.environ | more)

    return load


@pytest.fixture
def problems(load, tmp_path):
    def problems(models, script=LEGACY, **more):
        with pytest.raises(ConfigError) as caught:
            load(models, script, **more)
        return [problem.replace(f"{tmp_path}/", "") for problem in caught.value.problems]

    return problems


NAMED = '[models.legacy]\nscript = "launch/legacy.sh"\n'


def test_a_script_says_all_that_a_model_needs(load, tmp_path):
    (model,) = load(NAMED).models
    assert model.name == "legacy"
    assert model.served_names == ("org/legacy", "old")
    assert (model.port, model.gpus, model.sleep_level, model.preload) == (30001, ("0",), 3, False)
    assert model.cwd == tmp_path, "where relative paths of the file start"
    assert Path(model.script.argv[0]).name == "bash"
    assert model.script.argv[1:] == (f"{tmp_path}/launch/legacy.sh",)
    assert model.script.env == {}


def test_the_table_goes_before_the_script(load, tmp_path):
    keys = 'served_names = ["x"]\nsleep_level = 3\ncwd = "launch"\nstart_timeout = 5\npreload = true\nport = 30001'
    (model,) = load(NAMED + keys, SAVING).models
    assert (model.served_names, model.sleep_level, model.start_timeout, model.preload) == (("x",), 3, 5.0, True)
    assert model.cwd == tmp_path / "launch"


GIVEN = '[models.legacy]\nscript = { file = "launch/legacy.sh", args = ["org/x y", "30005"] }\n'
WITH_ARGUMENTS = f'MODEL_NAME="$1"\n{SERVE} --model-path "$1" --port "${{2:-1}}"\n'


def test_a_script_is_given_its_arguments(load, bash, tmp_path):
    (model,) = load(GIVEN, WITH_ARGUMENTS).models
    assert (model.served_names[0], model.port) == ("org/x y", 30005)
    assert model.script.argv[1:] == (f"{tmp_path}/launch/legacy.sh", "org/x y", "30005")
    (server,) = bash.run(tmp_path / "launch/legacy.sh", args=["org/x y", "30005"])
    assert server.argv[3:] == ["--model-path", "org/x y", "--port", "30005"], "as bash has it"
    (alone,) = load('[models.legacy]\nscript = { file = "launch/legacy.sh" }\n').models
    assert alone.script.argv[1:] == (f"{tmp_path}/launch/legacy.sh",)


def test_other_arguments_need_a_new_process(load):
    before = load(GIVEN, WITH_ARGUMENTS)
    (step,) = plan_of(before, load(GIVEN.replace("30005", "30006"), WITH_ARGUMENTS)).steps
    assert (step.model, step.action) == ("legacy", "restart")


def test_a_port_is_given_to_a_script_that_asks_for_one(load):
    script = LEGACY.replace("PORT=30001", "PORT=${PORT:-30001}")
    (model,) = load(f"{NAMED}port = 31000", script).models
    assert (model.port, model.script.env) == (31000, {"PORT": "31000"})
    (model,) = load(f"{NAMED}port = 0", script).models
    assert (model.port, model.script.env) == (30001, {})


def test_what_cannot_be_read_in_the_script_can_be_said_in_the_table_or_is_found(load):
    script = f"PORT=$(free_port)\n{SERVE} --model-path $(pick) --port $PORT"
    (model,) = load(f'{NAMED}port = 31000\nserved_names = ["a"]', script).models
    assert (model.port, model.served_names) == (31000, ("a",))
    (model,) = load(NAMED, script).models
    assert (model.port, model.served_names) == (0, ("legacy",))


def test_gpus_of_the_table_are_given_to_the_script(load):
    (model,) = load(f"{NAMED}gpus = [2, 3]").models
    assert (model.gpus, model.script.env["CUDA_VISIBLE_DEVICES"]) == (("2", "3"), "2,3")
    (model,) = load(f"[defaults]\ngpus = [1]\n{NAMED}").models
    assert (model.gpus, model.script.env["CUDA_VISIBLE_DEVICES"]) == (("1",), "1")


@pytest.fixture
def cards(monkeypatch):
    """Two GPUs, and a third that is divided into MIG slices."""
    found = [
        GpuIdentity("0", "GPU-5d5ba0d6-0000"),
        GpuIdentity("1", "GPU-8932f937-1111"),
        GpuIdentity("2", "GPU-divided", slices=("MIG-c6d4f1ef-2222", "MIG-aaaa")),
        GpuIdentity("MIG-c6d4f1ef-2222", "MIG-c6d4f1ef-2222", "MIG-GPU-divided/1/0"),
        GpuIdentity("MIG-aaaa", "MIG-aaaa"),
    ]
    monkeypatch.setattr(muxd.nvml, "installed_gpus", lambda: found)


def test_until_it_was_seen_a_script_claims_every_gpu(load, cards):
    other = '[models.other]\nengine = "simulator"\ngpus = [3]\n'
    model, _ = load(NAMED + other, f"export CUDA_VISIBLE_DEVICES=1\n{LEGACY}").models
    assert (model.gpus, model.script.env) == (("0", "1", "MIG-aaaa", "MIG-c6d4f1ef-2222"), {})


def test_where_nobody_tells_of_gpus_a_script_claims_those_that_are_configured(load, monkeypatch):
    monkeypatch.setattr(muxd.nvml, "installed_gpus", no_driver)
    model, _ = load(f'{NAMED}[models.other]\nengine = "simulator"\ngpus = [3]\n').models
    assert model.gpus == ("0", "3")


def test_every_gpu_is_every_one_that_muxd_was_given(load, cards, monkeypatch):
    def seen(**environ):
        config = load(NAMED, LEGACY, **environ)
        assert config.remarks == ()
        return config.models[0].gpus

    assert seen(CUDA_VISIBLE_DEVICES="3") == ("3",)
    assert seen(CUDA_VISIBLE_DEVICES="GPU-89") == ("1",)
    assert seen(CUDA_VISIBLE_DEVICES="") == ("0", "1", "MIG-aaaa", SLICE)
    monkeypatch.setattr(muxd.nvml, "installed_gpus", no_driver)
    assert seen(CUDA_VISIBLE_DEVICES="3") == ("3",)
    assert seen(CUDA_VISIBLE_DEVICES="GPU-89") == ("0",)
    (remark,) = load(f"{NAMED}gpus = [1]", LEGACY, CUDA_VISIBLE_DEVICES="3").remarks
    assert remark == "model legacy uses GPU 1, outside of CUDA_VISIBLE_DEVICES=3, which muxd was started with"


def no_driver():
    raise CannotAsk("NVML says: Driver Not Loaded")


SLICE = "MIG-c6d4f1ef-2222"
NAMES = {
    "GPU-8932f937-1111": "1",
    "GPU-89": "1",
    SLICE: SLICE,
    "MIG-c6": SLICE,
    "MIG-GPU-divided/1/0": SLICE,
    "GPU-5d": "0",
}


@pytest.mark.parametrize(("name", "gpu"), NAMES.items())
def test_gpus_may_be_named_in_tables(load, cards, name, gpu):
    (model,) = load(f'{NAMED}gpus = ["{name}"]').models
    assert (model.gpus, model.script.env["CUDA_VISIBLE_DEVICES"]) == ((gpu,), name)


def test_a_scripts_gpus_are_not_chosen_by_muxd(problems, load, cards):
    (problem,) = problems(f'{NAMED}gpus = "auto"')
    text = "any GPU is chosen for a server that muxd starts; name those of the script, or leave this out"
    assert problem == f"muxd.toml:3: models.legacy.gpus: {text}"
    assert "MIG-aaaa" in load(f'[defaults]\ngpus = "auto"\n{NAMED}', LEGACY).models[0].gpus


def test_without_a_driver_a_name_is_asked_for(problems, monkeypatch):
    monkeypatch.setattr(muxd.nvml, "installed_gpus", no_driver)
    (problem,) = problems(f'{NAMED}gpus = ["GPU-1"]')
    assert problem == (
        "muxd.toml:3: models.legacy.gpus: GPU-1 cannot be looked up: NVML says: Driver Not Loaded; give gpus, by number"
    )


def test_defaults_do_not_speak_for_a_script(load):
    defaults = 'sleep_level = 1\nargs = ["--x"]\npython = "/no/python"\nengine = "simulator"\ncwd = "launch"'
    (model,) = load(f"[defaults]\n{defaults}\n{NAMED}", SAVING).models
    assert (model.sleep_level, model.args, model.engine) == (2, (), "sglang")
    assert model.cwd.name == "launch"


def test_env_of_the_table_is_what_the_script_runs_with(load):
    script = LEGACY.replace("org/legacy", "${NAME:-none}")
    (model,) = load(f'[defaults]\nenv = {{ NAME = "far" }}\n{NAMED}env = {{ OTHER = "1" }}', script).models
    assert model.served_names[0] == "far"
    assert model.env == {"NAME": "far", "OTHER": "1"}


def test_a_script_that_serves_embeddings_says_so_to_the_proxy(load):
    config = load(NAMED, LEGACY.replace("--port", "--is-embedding --log-level info --port"))
    assert config.models[0].args == ("--is-embedding",)
    told = config_from_supervisor(settings_for_proxy(config), {})
    assert (told.models[0].args, told.capabilities.of("legacy").makes) == ((), "embeddings")


def test_what_a_script_reads_in_is_not_read(load, tmp_path):
    (tmp_path / "kind").write_text("KIND=--is-embedding")
    (model,) = load(NAMED, f"source ./kind\n{LEGACY.replace('--port', '$KIND --port')}").models
    assert (model.args, model.port, model.served_names) == ((), 30001, ("org/legacy", "old"))
    assert model.script.digests.keys() == {model.script.argv[1]}


WRONG = {
    "sleep_level = 2": "muxd.toml:3: models.legacy.sleep_level: 2 needs --enable-memory-saver, which "
    "launch/legacy.sh:3 does not have; add it there, or leave this out",
    "sleep_level = 1": "muxd.toml:3: models.legacy.sleep_level: 1 needs --enable-memory-saver "
    "--enable-weights-cpu-backup, which launch/legacy.sh:3 does not have; add it there, or leave this out",
    "port = 31000": "muxd.toml:3: models.legacy.port: the script's server listens on 30001 (launch/legacy.sh:3); "
    "write the same, or PORT=${PORT:-30001} there",
    'args = ["--x"]': "muxd.toml:3: models.legacy.args: is for the command line that muxd makes; "
    "put it into the script, and leave this out",
    'python = "python3"': "muxd.toml:3: models.legacy.python: is for the command line that muxd makes; "
    "put it into the script, and leave this out",
    'model_path = "a/b"': "muxd.toml:3: models.legacy.model_path: is for the command line that muxd makes; "
    "put it into the script, and leave this out",
    'engine = "simulator"': "muxd.toml:3: models.legacy.engine: a launch script starts SGLang; leave this out, "
    "or give model_path and args in place of the script",
}  # fmt: skip


@pytest.mark.parametrize(("key", "problem"), WRONG.items())
def test_a_table_that_contradicts_its_script_is_told_at_its_line(problems, key, problem):
    assert problems(NAMED + key) == [problem]


KEYS = f'[[keys]]\nname = "a"\nsecret_sha256 = "{"ab" * 32}"\n'
LOCKED = LEGACY.replace("--port", "--api-key k1 --port")


def test_a_server_with_an_api_key_of_its_own_is_refused_where_clients_show_theirs_to_the_proxy(load, problems):
    assert problems(NAMED + KEYS, LOCKED) == [
        "muxd.toml:2: models.legacy.script: launch/legacy.sh:3 gives an --api-key of its own: clients' keys ([[keys]]) "
        "end at the proxy, and its server would refuse every request; remove it there"
    ]
    load(NAMED, LOCKED)
    load(NAMED + KEYS, LEGACY.replace("--port", "--admin-api-key k1 --port"))
    load(NAMED + KEYS, LEGACY.replace("--port", "--api-key= --port"))


#: GPUs that a script's text names, or would need: they are seen at its process.
NAMING_GPUS = [
    f"export CUDA_VISIBLE_DEVICES=1\n{SERVE} --model-path /w --port 30001",
    f"CUDA_VISIBLE_DEVICES=GPU-8932f937-1111 {SERVE} --model-path /w --port 30001",
    f"{SERVE} --model-path /w --port 30001 --tp 5 --base-gpu-id 7",
    f"docker run --gpus all -p 30001:30001 image {SERVE} --model-path /w --port 30001",
]


@pytest.mark.parametrize("script", NAMING_GPUS)
@pytest.mark.parametrize(("table", "gpus"), [("", ("0", "1", "MIG-aaaa", SLICE)), ("gpus = [0]", ("0",))])
def test_gpus_are_the_tables_or_every_one_until_the_process_was_seen(load, cards, script, table, gpus):
    (model,) = load(NAMED + table, script).models
    assert (model.gpus, model.script.said.gpus) == (gpus, gpus if table else ())
    assert model.script.remarks == ()


def test_where_a_name_is_not_read_it_is_told_what_to_write(load):
    hidden = f"MODEL_NAME=$(pick)\n{SERVE} --port 30001"
    (model,) = load(f'{NAMED}served_names = ["a"]', hidden).models
    assert model.script.remarks == ()
    for script, name in ((hidden, "legacy"), (f"{hidden} --model-path org/b", "org/b")):
        (remark,) = load(NAMED, script).models[0].script.remarks
        assert remark.endswith(
            f"launch/legacy.sh:1 does not say MODEL_NAME plainly, and clients call the model {name}; "
            "write MODEL_NAME plainly, or served_names in its table"
        )


TABLES = {
    '{ file = "launch/legacy.sh", arguments = ["a"] }': '"arguments" is not known here; did you mean args?',
    '{ args = ["a"] }': 'names no file; write { file = "launch.sh", args = ["..."] }',
    '{ file = "launch/legacy.sh", args = "a" }': '"a" is not a list of strings; write ["...", "..."]',
    "{ file = 1 }": "1 is not usable; write one line of text in quotes",
}


@pytest.mark.parametrize(("table", "problem"), TABLES.items())
def test_a_script_table_that_is_wrong_is_told_at_its_line(problems, table, problem):
    assert problems(f"[models.legacy]\nscript = {table}\n") == [f"muxd.toml:2: models.legacy.script: {problem}"]


def test_a_script_for_all_models_is_none(problems):
    (problem,) = problems(f'[defaults]\nscript = "launch/legacy.sh"\n{NAMED}')
    assert problem == "muxd.toml:2: defaults.script: starts one server; write it to [models.NAME]"


def test_problems_of_files_and_scripts_are_told_together(problems):
    models = f'[proxy]\nlisten = "x"\n{NAMED}[models.other]\nscript = "gone.sh"\n'
    assert problems(models, "PORT=1\n./x") == [
        'muxd.toml:2: proxy.listen: "x" is not an address; write "127.0.0.1:30100", "0.0.0.0:30100" or "[::1]:30100"',
        "gone.sh: models.other.script: cannot be read: No such file or directory; correct the path, or what is there",
    ]


def test_what_two_models_cannot_share_is_blamed_on_the_scripts_line(problems, tmp_path):
    (tmp_path / "other.sh").write_text(LEGACY)
    models = f'{NAMED}[models.other]\nscript = "other.sh"\n'
    assert problems(models) == [
        'other.sh:1: models.other.served_names: "org/legacy" already means model legacy; give each name to one model',
        'other.sh:1: models.other.served_names: "old" already means model legacy; give each name to one model',
        "other.sh:3: models.other.port: 30001 is already the port of model legacy; use another",
    ]


def test_a_script_that_is_gone_is_nothing_to_the_proxy(tmp_path):
    file = tmp_path / "muxd.toml"
    file.write_text('[proxy]\nlisten = "127.0.0.1:1234"\n[models.a]\nscript = "gone.sh"\n')
    assert load_proxy_config(file, {"HOME": str(tmp_path)}).proxy.port == 1234
