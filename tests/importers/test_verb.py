"""`muxd import`: the whole file or none of it, and what has no equal on stderr."""

import json
import subprocess
import sys

import pytest

from muxd.arguments import PROGRAMS
from muxd.config.load import load_config
from muxd.importers import import_overlay
from muxd.importers.import_overlay import ImportOverlay, JointOverlay
from tests.typed import run_muxd

from .test_llmux import EXAMPLE


@pytest.fixture
def muxd(monkeypatch, capsys, tmp_path):
    """`muxd(*words)` in an empty folder: its exit status, its stdout and its stderr."""
    monkeypatch.chdir(tmp_path)

    def run(*words):
        return run_muxd(*words), *capsys.readouterr()

    return run


@pytest.fixture
def example(tmp_path):
    (tmp_path / "config.json").write_text(EXAMPLE)
    return "config.json"


def test_the_command_line_knows_the_programs_that_can_be_read():
    assert set(PROGRAMS) == import_overlay.PROGRAMS.keys()


def test_without_output_the_file_is_printed_and_the_remarks_are_on_stderr(muxd, example, tmp_path):
    status, out, err = muxd("import", "llmux", example)
    assert status == 0
    assert out.startswith("# muxd.toml, made of config.json by `muxd import llmux`.")
    assert '[models.small]\nengine = "vllm"\nmodel_path = "org/small-3b"\nport = 8001\n' in out
    assert 'listen = "127.0.0.1:3000"' in out
    remark = "config.json:15: port: llmux listens on every address without a key, muxd on loopback"
    assert [line for line in err.splitlines() if line.startswith(remark)]
    assert "# line 15: port: llmux listens on every address" in out
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def test_a_full_disk_behind_stdout_is_one_line(example, tmp_path):
    models = {f"m{number}": {"model_path": "b/c", "port": 1000 + number} for number in range(400)}
    (tmp_path / "many.json").write_text(json.dumps({"models": models}))
    for name in (example, "many.json"):  # one that fails as it is flushed, one as it is written
        command = [sys.executable, "-m", "muxd", "import", "llmux", name]
        with open("/dev/full", "w") as full:
            done = subprocess.run(command, cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, text=True)
        assert done.returncode == 1
        assert done.stderr.endswith("\nmuxd: cannot go on: no space left on device\n")
        assert "Traceback" not in done.stderr


def test_what_is_written_is_read_by_muxd(muxd, example, tmp_path):
    (tmp_path / "new").mkdir()
    status, out, _ = muxd("import", "llmux", example, "-o", "new/muxd.toml")
    assert (status, out) == (0, "wrote new/muxd.toml; next: muxd check --config new/muxd.toml\n")
    assert muxd("check", "--no-host", "--config", "new/muxd.toml")[0] == 0


def test_a_file_that_is_there_stays_unless_it_is_forced(muxd, example, tmp_path):
    (tmp_path / "muxd.toml").write_text("old")
    status, out, err = muxd("import", "llmux", example, "-o", "muxd.toml")
    told = "muxd.toml: is there already; --force replaces it, --output FILE names another, without --output it is only"
    assert (status, out) == (2, "")
    assert err.startswith(told)
    assert (tmp_path / "muxd.toml").read_text() == "old"
    assert muxd("import", "llmux", example, "-o", "muxd.toml", "--force")[0] == 0
    assert (tmp_path / "muxd.toml").read_text().startswith("# muxd.toml, made of config.json")


def test_what_is_imported_is_never_replaced(muxd, example, tmp_path):
    (tmp_path / "link.toml").symlink_to(example)
    for name in (example, f"./{example}", "link.toml"):
        status, out, err = muxd("import", "llmux", example, "-o", name, "--force")
        assert (status, out) == (2, "")
        assert err == f"{name.removeprefix('./')}: is the file that is imported; --output FILE names another\n"
    assert (tmp_path / example).read_text() == EXAMPLE


def test_no_folder_is_made_for_a_slip(muxd, example, tmp_path):
    status, out, err = muxd("import", "llmux", example, "-o", "nonexist/muxd.toml")
    assert (status, out) == (2, "")
    assert err == "nonexist/muxd.toml: there is no folder nonexist; make it, or name another\n"
    assert [path.name for path in tmp_path.iterdir()] == [example]


def test_who_may_not_read_what_is_imported_may_not_read_what_is_written(muxd, example, tmp_path):
    assert muxd("import", "llmux", example, "-o", "open.toml")[0] == 0
    (tmp_path / example).chmod(0o640)
    assert muxd("import", "llmux", example, "-o", "closed.toml")[0] == 0
    assert [(tmp_path / name).stat().st_mode & 0o777 for name in ("open.toml", "closed.toml")] == [0o644, 0o640]


SECRETS = """\
macros: {key: "${env.HIDDEN_KEY}"}
models:
  a:
    cmd: llama-server --port ${PORT} --alias ${env.HOME}
    env: ["HF_TOKEN=${env.HF_TOKEN}", "OTHER=${env.HF_TOKEN}", "PLAIN=1"]
  b:
    cmd: llama-server --port ${PORT} --api-key ${key}
"""


def test_a_secret_of_llama_swaps_environment_stays_there_or_is_its_owners_alone(muxd, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf-very-secret")
    monkeypatch.setenv("HIDDEN_KEY", "sk-very-hidden")
    (tmp_path / "plain.yaml").write_text(
        SECRETS.replace(', "OTHER=${env.HF_TOKEN}"', "").replace("--api-key ${key}", "")
    )
    status, _, err = muxd("import", "llama-swap", "plain.yaml", "-o", "plain.toml")
    assert (status, "secret" in (tmp_path / "plain.toml").read_text()) == (0, False)
    assert (tmp_path / "plain.toml").stat().st_mode & 0o777 == 0o644
    told = "models.a.env: HF_TOKEN is left out: a server has muxd's own environment, which must have it"
    assert f"plain.yaml:5: {told}" in err
    (tmp_path / "secret.yaml").write_text(SECRETS)
    status, _, err = muxd("import", "llama-swap", "secret.yaml", "-o", "secret.toml")
    written = (tmp_path / "secret.toml").read_text()
    assert (status, "hf-very-secret" in written, "sk-very-hidden" in written) == (0, True, True)
    assert (tmp_path / "secret.toml").stat().st_mode & 0o777 == 0o600
    told = "is written as its value, in plain text; a file that --output names is its owner's alone (mode 0600)"
    assert [line for line in err.splitlines() if told in line] == [
        f"secret.yaml:5: models.a.env: ${{env.HF_TOKEN}} {told}",
        f"secret.yaml:7: models.b.cmd: ${{env.HIDDEN_KEY}} {told}",
    ]
    assert "very-secret" not in err


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"models": {"a": {"model_path": "b/c", "port": 1, "prot": 2}}}', "config.json:1: models.a.prot: unknown key"),
        ('{"models": {"a": {"model_path": "$X", "port": 1}}}', 'config.json:1: models.a.model_path: "$X" is neither'),
        ('{"models": ', "config.json:1: not JSON: Expecting value (column 12); correct this line"),
    ],
)
def test_of_a_file_with_a_fault_nothing_is_written(muxd, tmp_path, text, told):
    (tmp_path / "config.json").write_text(text)
    status, out, err = muxd("import", "llmux", "config.json", "-o", "muxd.toml")
    assert (status, out) == (2, "")
    assert told in err
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def test_names_and_texts_of_the_file_end_no_line(muxd, tmp_path):
    """A name with a separator of lines in it could otherwise add lines to what is told."""
    (tmp_path / "a\nb.json").write_text(
        '{"models": {"x\\u2028y": {"model_path": "b/c", "port": 1, "extra_args": ["--port", "\\n[evil]\\nx = 1"],'
        ' "checkpoint_path": "\\n[evil]"}}}'
    )
    status, out, err = muxd("import", "llmux", "a\nb.json")
    assert status == 0
    assert "made of a?b.json by" in out
    assert "models.x?y.checkpoint_path: no equal" in err
    assert not [line for line in (*out.split("\n"), *err.splitlines()) if line.startswith(("[evil]", "y"))]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["olama", "x"], "argument PROGRAM: 'olama' is not known; there are llmux"),
        (["llmux"], "required: FILE"),
        (["llmux", "x", "y"], "did you mean --output y?"),
        (["llmux", "x", "-f"], "muxd import has no -f; did you mean --output?"),
    ],
)
def test_a_slip_is_told_with_what_was_meant(muxd, words, told):
    status, _, err = muxd("import", *words)
    assert status == 2
    assert told in err


def test_check_reads_it_directly_and_warns_of_what_has_no_equal(muxd, example):
    status, out, _ = muxd("check", "--no-host", "--llmux", example)
    assert status == 0
    assert "2 models, proxy 127.0.0.1:3000" in out
    assert "warn  import  " in out
    assert muxd("check", "--no-host", "--strict", "--llmux", example)[0] == 2


def test_flags_of_the_command_line_go_before_it(muxd, example):
    words = ["check", "--no-host", "--llmux", example, "--host", "0.0.0.0"]
    status, out, _ = muxd(*words, "--allow-anonymous", "--listen-port", "3131")
    assert status == 0
    assert "2 models, proxy 0.0.0.0:3131" in out
    assert muxd(*words)[0] == 2, "nobody is let in from elsewhere without a word"


def test_models_of_a_file_of_muxd_and_of_llmux_stand_side_by_side(muxd, example, tmp_path):
    (tmp_path / "muxd.toml").write_text("[models.own]\nengine = 'simulator'\n")
    assert "3 models" in muxd("check", "--no-host", "--llmux", example, "--config", "muxd.toml")[1]


def test_a_reload_reads_the_file_again(example, tmp_path, monkeypatch):
    overlay = JointOverlay((ImportOverlay("llmux", tmp_path / example),))
    environ = {"HOME": str(tmp_path), "PATH": str(tmp_path)}
    (tmp_path / "python3").write_text("#!/bin/sh\n")
    (tmp_path / "python3").chmod(0o755)
    assert load_config(None, environ, overlay).proxy.port == 3000
    (tmp_path / example).write_text(EXAMPLE.replace("3000", "3002"))
    assert load_config(None, environ, overlay).proxy.port == 3002
