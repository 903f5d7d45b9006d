"""sglangmux's command line: scripts as models, beside those of a file or alone."""

from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

import muxd.nvml
from muxd.config import load_config
from muxd.engines.observed_server import ObservedServer
from muxd.errors import ConfigError
from muxd.gpus import GpuIdentity
from muxd.importers.drop_in import SglangmuxArgs, model_name
from muxd.launchers.observed_scripts import completed
from tests.seeds import thorough
from tests.typed import run_muxd

SERVE = "python -m sglang.launch_server"


@pytest.fixture
def write(tmp_path, monkeypatch):
    """`write(NAME, PORT)`: a script in the folder that the command is given in."""
    monkeypatch.chdir(tmp_path)

    def write(name, port, before="", flags=""):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"{before}\n{SERVE} --model-path org/{path.stem} --port {port} {flags}\n")
        return Path(name)

    return write


@pytest.fixture
def problems(bash):
    def problems(added, file=None):
        with pytest.raises(ConfigError) as caught:
            load_config(file, bash.environ, added)
        return caught.value.problems

    return problems


def test_scripts_are_all_there_is_of_a_configuration(write, bash, tmp_path):
    config = load_config(None, bash.environ, SglangmuxArgs((write("a.sh", 30001), write("b.sh", 30002))))
    assert [(m.name, m.served_names, m.port, m.preload, m.cwd) for m in config.models] == [
        ("a", ("org/a",), 30001, True, tmp_path),
        ("b", ("org/b",), 30002, True, tmp_path),
    ]
    assert config.path is None
    assert config.daemon.state_dir == tmp_path / "home/.local/state/muxd"
    assert (config.proxy.host, config.proxy.port) == ("127.0.0.1", 30100)


def test_flags_say_what_sglangmux_means_by_them(write, bash, tmp_path):
    flags = {"host": "0.0.0.0", "listen_port": 8000, "upstream_timeout": 5.0, "start_timeout": 6.0}
    added = SglangmuxArgs((write("a.sh", 30001),), **flags, switch_timeout=7.0, log_dir=Path("logs"))
    config = load_config(None, bash.environ, replace(added, allow_anonymous=True))
    assert (config.proxy.host, config.proxy.port, config.proxy.upstream_timeout) == ("0.0.0.0", 8000, 5.0)
    assert config.proxy.allow_anonymous
    assert (config.models[0].start_timeout, config.models[0].switch_timeout) == (6.0, 7.0)
    assert config.daemon.log_dir == tmp_path / "logs"


def test_scripts_and_flags_come_beside_and_over_a_file(write, bash, tmp_path):
    file = tmp_path / "etc/muxd.toml"
    file.parent.mkdir()
    file.write_text(
        '[muxd]\nstate_dir = "s"\n[proxy]\nlisten = "127.0.0.1:1"\n'
        '[models.own]\nengine = "simulator"\nstart_timeout = 1\n'
    )
    config = load_config(
        file, bash.environ, SglangmuxArgs((write("a.sh", 30001),), listen_port=8000, start_timeout=6.0)
    )
    assert [(m.name, m.start_timeout, m.preload) for m in config.models] == [("own", 6.0, False), ("a", 6.0, True)]
    assert (config.proxy.host, config.proxy.port) == ("127.0.0.1", 8000)
    assert config.daemon.state_dir == tmp_path / "etc/s"
    assert config.models[1].cwd == tmp_path, "where the command was given, not where the file is"
    assert config.files == (file,)


def test_flags_alone_change_a_file(bash, tmp_path):
    file = tmp_path / "muxd.toml"
    file.write_text('[models.own]\nengine = "simulator"\n')
    assert load_config(file, bash.environ, SglangmuxArgs(host="::1")).proxy.host == "::1"


BLAME = "the command line: --host: 0.0.0.0 lets other machines in, and there is no API key: "
ADVICE = "make one with `muxctl keys add NAME`, or add --allow-anonymous if anybody may use the models"


def test_other_machines_are_let_in_without_a_key_only_by_a_flag_that_says_so(write, problems):
    assert problems(SglangmuxArgs((write("a.sh", 30001),), host="0.0.0.0")) == [BLAME + ADVICE]


def test_the_flag_is_to_blame_where_a_file_says_loopback(bash, problems, tmp_path):
    file = tmp_path / "muxd.toml"
    model = '[models.own]\nengine = "simulator"\n'
    file.write_text(f'[proxy]\nlisten = "127.0.0.1:1"\n{model}')
    assert problems(SglangmuxArgs(host="0.0.0.0"), file) == [BLAME + ADVICE]
    file.write_text(f'{model}[[keys]]\nname = "a"\nsecret_sha256 = "{"0" * 64}"\n')
    assert load_config(file, bash.environ, SglangmuxArgs(host="0.0.0.0")).proxy.host == "0.0.0.0"


def test_scripts_share_every_gpu_until_all_of_them_were_seen_and_then_all_that_any_of_them_uses(
    write, bash, monkeypatch, tmp_path
):
    monkeypatch.setattr(
        muxd.nvml, "installed_gpus", lambda: [GpuIdentity(str(index), f"GPU-{index}") for index in range(4)]
    )
    scripts = SglangmuxArgs(tuple(write(f"{number}.sh", 30000 + number) for number in range(2)))
    config = load_config(None, bash.environ, scripts)
    assert [model.gpus for model in config.models] == [("0", "1", "2", "3")] * 2
    assert [model.script.env for model in config.models] == [{}, {}]
    first, second = (model.script.digest for model in config.models)
    known = {first: ObservedServer(port=30000, model="org/0", gpus=("0",))}
    assert [model.gpus for model in completed(config, known).models] == [("0", "1", "2", "3")] * 2
    known[second] = ObservedServer(port=30001, model="org/1", gpus=("2",))
    assert [model.gpus for model in completed(config, known).models] == [("0", "2")] * 2
    config.daemon.state_dir.mkdir(parents=True)
    (config.daemon.state_dir / "scripts.json").write_bytes(msgspec.json.encode(known))
    assert load_config(None, bash.environ, scripts) == replace(completed(config, known), read_at=0)


@pytest.mark.parametrize(
    ("file", "name"),
    [("qwen.sh", "qwen"), ("Qwen 2.5 (7B).sh", "qwen-2.5--7b-"), ("run_model-a.bash", "run_model-a"), ("-x.sh", "x"),
     ("llama", "llama"), ("Größe.sh", "gr--e")],
)  # fmt: skip
def test_a_model_is_called_as_its_file(file, name):
    assert model_name(Path(file)) == name


def test_two_files_of_one_name_are_told_apart_by_their_folders(write, problems):
    scripts = write("a.sh", 30001), write("other/A.sh", 30002), write("b.sh", 30001)
    assert problems(SglangmuxArgs(scripts)) == [
        "other/A.sh: models.a: other/A.sh would be model a, as a.sh is; rename one of the files",
        "b.sh:2: models.b.port: 30001 is already the port of model a; use another",
    ]


def test_a_file_that_has_the_name_of_a_model_is_refused(write, problems, tmp_path):
    file = tmp_path / "muxd.toml"
    file.write_text('[models.a]\nengine = "simulator"\n')
    (problem,) = problems(SglangmuxArgs((write("a.sh", 30001),)), file)
    assert problem == f"a.sh: models.a: a.sh would be model a, as a model in {file} is; rename one of the files"


def test_a_name_that_leaves_nothing_is_refused(write, problems):
    (problem,) = problems(SglangmuxArgs((write("___.sh", 30001), write("a.sh", 30002))))
    assert problem.endswith("___.sh has a name that makes none for a model; rename it")


def test_a_port_of_the_proxy_is_no_scripts(write, problems):
    (problem,) = problems(SglangmuxArgs((write("a.sh", 8000),), listen_port=8000))
    assert problem == "a.sh:2: models.a.port: 8000 is already the port of the proxy; use another"


@pytest.mark.parametrize(
    "flags", [["--host", "0.0.0.0", "--allow-anonymous"], *thorough(["--allow-anonymous", "--host", "::"])]
)
def test_the_command_line_has_the_flag(tmp_path, capsys, flags):
    file = tmp_path / "muxd.toml"
    file.write_text('[models.own]\nengine = "simulator"\n')
    words = ["check", "--config", str(file), *flags]
    assert run_muxd(*words) == 0
    words.remove("--allow-anonymous")
    capsys.readouterr()
    assert run_muxd(*words) == 2
    assert "or add --allow-anonymous if anybody may use the models" in capsys.readouterr().out
