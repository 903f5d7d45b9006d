import os
import sys
import tomllib
from argparse import Namespace
from pathlib import Path

import pytest

from muxd.check.verb import check
from muxd.config import load_config
from muxd.errors import ConfigError
from muxd.gpus import GpuMemory
from muxd.init.verb import init
from tests.host.hub import Hub, model
from tests.real.install import DEFAULT, SGLangInstallation
from tests.typed import run_muxd

GiB = 1 << 30
TINY = DEFAULT / "models"


@pytest.fixture
def environ(tmp_path, hub):
    """Return the environment of a user with a cache, and with a python3 that has nothing installed."""
    program = tmp_path / "bin/python3"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    return {"HOME": str(tmp_path / "home"), "PATH": str(program.parent), "HF_HUB_CACHE": str(hub.cache)}


@pytest.fixture
def sglang(tmp_path, environ):
    """Make an activated environment that has SGLang."""
    (tmp_path / "venv/lib/sglang").mkdir(parents=True)
    (tmp_path / "venv/lib/sglang/__init__.py").touch()
    program = tmp_path / "venv/bin/python"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nPYTHONPATH={tmp_path}/venv/lib exec {sys.executable} "$@"\n')
    program.chmod(0o755)
    environ["VIRTUAL_ENV"] = str(tmp_path / "venv")
    return str(program)


@pytest.fixture
def run(tmp_path, environ, capsys, monkeypatch):
    """Return a function that runs `muxd init` in an empty folder, with GPUs of these GiB, and returns its output."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")

    def run(*gpus: int, **given):
        options = {"output": Path("muxd.toml"), "models": [], "force": False, "print": False} | given
        known = [GpuMemory(str(index), "NVIDIA H200", size * GiB, 0) for index, size in enumerate(gpus)]
        assert init(Namespace(**options), environ, lambda: (known, "no driver")) == 0
        return capsys.readouterr()

    return run


def test_a_machine_with_everything_gets_a_configuration_that_can_be_started(run, environ, hub, sglang, tmp_path):
    hub.add("Qwen/Qwen3-14B", {"model.safetensors": 28 * GiB - 5})
    hub.add("BAAI/bge-m3", {"model.safetensors": GiB}, {"architectures": ["XLMRobertaModel"]})
    hub.add("org/huge", {"model.safetensors": 150 * GiB})
    local = model(tmp_path / "models/My.Model")
    said = run(140, 140, models=[tmp_path / "models"])
    config = load_config(Path("muxd.toml"), environ)
    bge, huge, qwen, mine = config.models
    assert (qwen.name, qwen.model_path, qwen.served_names) == ("qwen3-14b", "Qwen/Qwen3-14B", ("Qwen/Qwen3-14B",))
    assert (qwen.engine_options.python, qwen.env) == (sglang, {"HF_HUB_CACHE": str(hub.cache)})
    assert qwen.memory is not None
    assert (qwen.memory.weights, qwen.sleep_level) == (28 * GiB, 2)
    assert (bge.gpus, huge.gpus, bge.args) == (("0",), ("0", "1"), ("--is-embedding",))
    assert (mine.name, mine.model_path, mine.served_names) == ("my.model", str(local), ("My.Model",))
    assert said.err == ""
    assert said.out.splitlines() == [
        "GPU 0: NVIDIA H200, 140 GiB",
        "GPU 1: NVIDIA H200, 140 GiB",
        f"SGLang of unknown version: {sglang}",
        f"4 models to serve; the cache of the Hub is {hub.cache}",
        "  bge-m3     1 GiB on GPU 0  BAAI/bge-m3",
        "  huge       150 GiB on GPU 0, 1  org/huge",
        "  qwen3-14b  28 GiB on GPU 1  Qwen/Qwen3-14B",
        f"  my.model   1 GiB on GPU 0  {local}",
        "wrote muxd.toml",
        "next:",
        "  muxd check",
        "  muxd start",
        "  curl http://127.0.0.1:30100/v1/chat/completions -H 'content-type: application/json' "
        """-d '{"model": "huge", "messages": [{"role": "user", "content": "Hello"}]}'""",
    ]


def test_the_file_reads_as_a_person_would_have_written_it(run, hub, sglang):
    hub.add("Qwen/Qwen2.5-7B", {"model.safetensors": 15 * GiB})
    run(80)
    text = Path("muxd.toml").read_text()
    assert text.startswith("# muxd.toml, as `muxd init` found this machine.")
    assert text.endswith(
        '\n[models."qwen2.5-7b"]\nmodel_path = "Qwen/Qwen2.5-7B"\nserved_names = ["Qwen/Qwen2.5-7B"]\n'
        'gpus = [0]\nmemory = { weights = "15GiB" }\n'
    )
    assert f'\npython = "{sglang}"\n' in text


def test_a_machine_with_nothing_is_told_all_that_is_missing(run, hub, environ, tmp_path):
    said = run()
    assert said.out.splitlines() == [
        "no GPU: no driver; gpus = [0] is written, correct it where that is wrong",
        f"no SGLang; asked {sys.executable}, {tmp_path}/bin/python3",
        f"no models to serve; the cache of the Hub is {hub.cache}, where no folder is to be seen",
        "wrote muxd.toml",
        "still to do:",
        "  muxd.toml: models: no model; add a table [models.NAME]",
        "  muxd.toml: defaults.python: give the path of an interpreter that has SGLang,",
        "    or activate its environment and let `muxd init --force` find it",
        "then:",
        "  muxd check",
        "  muxd start",
    ]


def test_the_example_of_a_file_without_models_is_one(run, environ):
    run()
    text = Path("muxd.toml").read_text()
    assert tomllib.loads(text).keys() == {"proxy", "defaults"}
    _, example = text.split("# TODO: no model was found")
    taken = "\n".join(
        line.removeprefix("#") if line[1:2] not in (" ", "") else line for line in example.splitlines()[1:]
    )
    Path("example.toml").write_text(taken)
    (model,) = load_config(Path("example.toml"), environ).models
    assert (model.name, model.model_path, model.gpus) == ("qwen", "Qwen/Qwen3-14B", ("0",))


def test_without_any_python3_the_file_is_still_one_that_can_be_checked(run, hub, environ, capsys):
    hub.add("org/a")
    environ["PATH"] = "/nowhere"
    run()
    assert load_config(Path("muxd.toml"), environ).models[0].engine_options.python == sys.executable
    assert "# TODO: no SGLang was found." in Path("muxd.toml").read_text()


def test_what_was_skipped_is_told_once_with_the_reason(run, hub, tmp_path):
    hub.add("org/a", {})
    (hub.cache / "datasets--squad").mkdir()
    model(tmp_path / "models/od\x1bd\n", config={"architectures": ["\x1b[31mForCausalLM\nx"]})
    said = run(80, models=[tmp_path / "models", hub.cache])
    start = said.out.splitlines().index("3 skipped:")
    assert said.out.splitlines()[start + 1 : start + 4] == [
        "  squad: a data set",
        "  org/a: no weights",
        f"  {tmp_path}/models/od?d?: its path has characters that a configuration cannot hold; rename it",
    ]


def test_a_model_of_the_cache_that_a_folder_has_too_is_one(run, hub, environ):
    hub.add("Qwen/Qwen3-14B")
    run(models=[hub.cache])
    assert [model.name for model in load_config(Path("muxd.toml"), environ).models] == ["qwen3-14b"]


def test_a_model_that_is_too_large_is_a_thing_to_do(run, hub, sglang):
    hub.add("org/huge", {"model.safetensors": 900 * GiB})
    said = run(80, 80)
    assert "  huge  900 GiB on GPU 0, 1, which is too small for it  org/huge" in said.out.splitlines()
    assert "  muxd.toml: models.huge: 900 GiB of weights do not fit on the GPUs; remove it" in said.out.splitlines()
    assert "\n# TODO: too large for the GPUs that were found.\n" in Path("muxd.toml").read_text()


def test_what_check_would_say_is_a_thing_to_do(run, hub, sglang):
    hub.add("org/a")
    Path("muxd.d").mkdir()
    Path("muxd.d/x.toml").write_text("[policy]\nwait_target = 'x'\n")
    said = run()
    assert '  muxd.d/x.toml:2: policy.wait_target: "x" is not a duration; ' in said.out


def test_print_writes_nothing_but_the_configuration_to_stdout(run, hub, environ, tmp_path):
    hub.add("org/a")
    said = run(print=True)
    assert list(Path().iterdir()) == []
    assert tomllib.loads(said.out)["models"]["a"]["model_path"] == "org/a"
    assert said.err.splitlines()[-1] == "  a  1 GiB on GPU 0  org/a"


def test_another_output_is_named_in_the_commands_that_follow(run, tmp_path):
    said = run(output=tmp_path / "a b/muxd.toml")
    assert f"  muxd check --config '{tmp_path}/a b/muxd.toml'" in said.out.splitlines()
    assert (tmp_path / "a b/muxd.toml").exists()


def test_a_file_that_is_there_is_left_alone_unless_forced(run):
    Path("muxd.toml").write_text("mine")
    with pytest.raises(ConfigError, match="is there already; --force replaces it"):
        run()
    assert Path("muxd.toml").read_text() == "mine"
    run(force=True)
    assert Path("muxd.toml").read_text() != "mine"


def test_a_folder_that_is_none_is_told_before_anything_is_written(run, tmp_path):
    with pytest.raises(ConfigError) as caught:
        run(models=[tmp_path, tmp_path / "none"])
    assert caught.value.problems == [f"{tmp_path}/none: no such folder; correct what --models names"]
    assert list(Path().iterdir()) == []


def test_a_thousand_models_can_be_loaded(run, hub, environ):
    for number in range(1000):
        hub.add(f"Org-{number % 7}/Model.{number // 3}", {"model.safetensors": 5 * GiB})
    run(*[80] * 8)
    assert len(load_config(Path("muxd.toml"), environ).models) == 1000


def test_a_cache_whose_path_is_not_utf_8_is_no_accident(run, environ, tmp_path):
    odd = Hub(tmp_path / os.fsdecode(b"hub\xff"))
    odd.add("org/a")
    odd.add("org/b", main=False)
    environ["HF_HUB_CACHE"] = str(odd.cache)
    run(models=[odd.cache])
    assert "models" not in tomllib.loads(Path("muxd.toml").read_text())


def test_the_command_line_does_it_all_on_this_machine(hub, environ, tmp_path, capsys, monkeypatch):
    """With the real NVML, where there is one."""
    hub.add("org/a")
    model(tmp_path / "models/b")
    model(tmp_path / "more/c")
    words = ["init", "--output", str(tmp_path / "new.toml")]
    words += ["--models", str(tmp_path / "models"), str(tmp_path / "more")]
    monkeypatch.setenv("HF_HUB_CACHE", str(hub.cache))
    env = dict(os.environ)
    assert (run_muxd(*words), capsys.readouterr().err) == (0, "")
    assert [model.name for model in load_config(tmp_path / "new.toml", env).models] == ["a", "b", "c"]
    check(tmp_path / "new.toml", env)
    faults = [line for line in capsys.readouterr().out.splitlines() if line.lstrip().startswith("WRONG")]
    assert not [line for line in faults if "engine_missing" not in line], "but SGLang, where there is none"
    assert run_muxd(*words) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)


@pytest.mark.skipif(bool(SGLangInstallation(DEFAULT).missing_steps()), reason="needs `make real-sglang`, to its end")
def test_the_tiny_models_of_the_tests_are_found(run, environ):
    run(models=[TINY])
    assert [model.name for model in load_config(Path("muxd.toml"), environ).models] == ["tiny-a", "tiny-b"]
