import os
import shlex
import sys

import pytest

from muxd.engines import engine_packages
from muxd.engines.kind import NotInstalled
from muxd.engines.sglang.interpreters import PACKAGE, find_sglang
from tests.real.install import DEFAULT, SGLangInstallation

REAL = SGLangInstallation(DEFAULT).python
needs_sglang = pytest.mark.skipif(
    bool(SGLangInstallation(DEFAULT).missing_steps()), reason="needs `make real-sglang`, to its end"
)


@pytest.fixture
def environment(tmp_path):
    """`environment(name)` is like a virtual environment: its bin/python runs this Python with a package of its own."""

    def environment(name, *, package="sglang", version="9.8.7"):
        packages = tmp_path / name / "lib"
        (packages / package).mkdir(parents=True)
        (packages / package / "__init__.py").write_text("raise RuntimeError('it was imported')\n")
        if version is not None:
            (packages / f"{package}-{version}.dist-info").mkdir()
            metadata = f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n"
            (packages / f"{package}-{version}.dist-info/METADATA").write_text(metadata)
        return script(tmp_path / name / "bin/python", f'PYTHONPATH={packages} exec {sys.executable} "$@"')

    return environment


def sglang_of(path, environ):
    try:
        return PACKAGE.look(path, environ).version
    except NotInstalled:
        return None


def script(file, text):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"#!/bin/sh\n{text}\n")
    file.chmod(0o755)
    return file


def test_sglang_is_found_without_importing_it(environment):
    assert sglang_of(str(environment("venv")), os.environ) == "9.8.7"


def test_sglang_of_which_no_version_is_known_is_found_too(environment):
    assert sglang_of(str(environment("venv", version=None)), os.environ) == "of unknown version"


def test_an_interpreter_without_it_has_none(environment):
    assert sglang_of(str(environment("venv", package="other")), os.environ) is None


def test_a_folder_that_is_only_called_so_is_not_it(tmp_path, monkeypatch):
    (tmp_path / "sglang").mkdir()
    monkeypatch.chdir(tmp_path)
    assert sglang_of(sys.executable, {**os.environ, "PYTHONPATH": str(tmp_path)}) is None


@pytest.mark.parametrize("text", ["exit 1", "echo sglang 1.2; exit 1", "echo hello", "kill -9 $$"])
def test_a_program_that_is_no_python_has_none(tmp_path, text):
    assert sglang_of(str(script(tmp_path / "python", text)), os.environ) is None


def test_the_answer_is_the_last_line_of_however_much_is_printed(tmp_path, monkeypatch):
    monkeypatch.setattr(engine_packages, "LARGEST_ANSWER", 100)
    text = """for n in 1 2 3 4 5 6 7 8 9; do echo noise noise noise noise; done; echo 'sglang {"version": "7"}'"""
    assert sglang_of(str(script(tmp_path / "python", text)), os.environ) == "7"


def test_what_cannot_be_run_has_none(tmp_path):
    (tmp_path / "python").write_bytes(b"\0")
    (tmp_path / "python").chmod(0o755)
    assert sglang_of(str(tmp_path / "python"), os.environ) is None


def test_an_interpreter_that_does_not_end_is_ended_with_all_its_processes(tmp_path, monkeypatch):
    monkeypatch.setattr(engine_packages, "PATIENCE", 0.2)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    endless = script(tmp_path / "python", f"sleep 1000 > {shlex.quote(str(pipe))} & wait")
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    assert sglang_of(str(endless), os.environ) is None
    os.set_blocking(reader, True)
    assert os.read(reader, 1) == b""  # the end of the last one that could write
    os.close(reader)


def test_the_activated_environment_is_asked_before_the_path(environment, tmp_path):
    active, other = environment("active"), environment("other")
    environ = {"PATH": str(other.parent), "VIRTUAL_ENV": str(active.parents[1]), "HOME": str(tmp_path)}
    found, asked = find_sglang(environ, places=())
    assert (str(found), asked[-1]) == ("SGLang 9.8.7", str(active))


def test_the_path_and_the_usual_places_are_asked(environment, tmp_path):
    plain = script(tmp_path / "path/python3", "exit 0")
    usual = environment("usual")
    environ = {"PATH": str(plain.parent), "HOME": str(tmp_path)}
    found, asked = find_sglang(environ, places=("/no/such/python", str(usual)))
    assert found is not None
    assert (found.path, found.version) == (str(usual), "9.8.7")
    assert asked[-2:] == [str(plain), str(usual)]


def test_without_any_all_that_were_asked_are_told_once(tmp_path):
    plain = script(tmp_path / "path/python3", "exit 0")
    environ = {"PATH": f"{plain.parent}:{plain.parent}", "VIRTUAL_ENV": "/no/such", "HOME": str(tmp_path)}
    found, asked = find_sglang(environ, places=(str(plain),))
    assert (found, asked) == (None, [sys.executable, str(plain)])


@needs_sglang
def test_the_real_sglang_is_found():
    version = sglang_of(str(REAL), os.environ)
    assert version is not None
    assert version[0].isdigit()


@needs_sglang
def test_the_real_sglang_says_which_arguments_it_does_not_take():
    model = ["--model-path", "x", "--enable-memory-saver"]
    asked = {
        "good": [*model, "--tp", "2"],
        "unknown": [*model, "--contxt-length", "5", "--is-embeding"],
        "none": [*model, "--tp"],
        "beginning": [*model, "--kv-cache-dtype", "fp8"],
        "three": [*model, "--dtype", "bfloat61", "--random-seed=x", "--tokenizer", "y", "--no-such-flag", "5"],
        "loose": [*model, "--is-embedding", "x"],
        "empty": [*model, ""],
    }
    rejected = PACKAGE.rejected_args(str(REAL), os.environ, asked)
    found = {name: [arg.text for arg in args] for name, args in rejected.items()}
    assert found.pop("beginning")[0].startswith(
        "--kv-cache-dtype: fp8 is no value of it; did you mean fp8_e5m2 or fp8_e4m3? There are "
    )
    tokenizer, dtype, seed, last = found.pop("three")
    assert dtype.startswith("--dtype: bfloat61 is no value of it; did you mean bfloat16? There are auto, half, ")
    assert seed == "argument --random-seed: invalid int value: 'x'"
    assert tokenizer.startswith("--tokenizer is the beginning of --tokenizer-path, ")
    assert tokenizer.endswith("; write one of them in full")
    assert last == "it knows no --no-such-flag; remove it"
    assert found == {
        "unknown": [
            "it knows no --contxt-length; did you mean --context-length?",
            "it knows no --is-embeding; did you mean --is-embedding?",
        ],
        "none": ["argument --tp-size/--tensor-parallel-size: expected one argument"],
        "loose": ["x belongs to no flag; remove it, or write its flag first"],
        "empty": ["an empty word belongs to no flag; remove it, or write its flag first"],
    }
    assert rejected["none"][0].words == {"--tp-size", "--tensor-parallel-size"}
