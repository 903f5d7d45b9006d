"""A machine without SGLang, GPU or network: interpreters are small scripts."""

import pytest

from muxd.check.verb import check
from muxd.gpus import GpuMemory
from tests.interpreters import make_interpreter

GiB = 1 << 30


@pytest.fixture
def interpreter(tmp_path):
    """`interpreter(name, answer, rejected)`: a python that has an SGLang which says so, and has that against args."""

    def interpreter(name="python", **said):
        return make_interpreter(tmp_path / name, **said)

    return interpreter


@pytest.fixture
def report(tmp_path, capsys):
    """`report(text, gpus=(140,))`: the exit status, and the lines of the report as (mark, subject, text)."""
    (tmp_path / "home").mkdir()

    def report(text, *, gpus=(140,), no_gpus="no driver", added=None, strict=False, host=True, **more):
        file = tmp_path / "muxd.toml"
        file.write_text(f"[muxd]\nsocket = '{tmp_path}/s'\n{text}")
        known = [GpuMemory(str(number), "NVIDIA H200", size * GiB, 0) for number, size in enumerate(gpus)]
        environ = {"HOME": str(tmp_path / "home"), "PATH": f"{tmp_path}:/usr/bin:/bin"} | more
        status = check(file, environ, added, gpus=lambda: (known, no_gpus), strict=strict, host=host)
        head, *lines = capsys.readouterr().out.replace(f"{tmp_path}/", "").splitlines()
        assert head.startswith("muxd.toml: ")
        found = [line.split(maxsplit=2) for line in lines]
        return status, [tuple(parts) for parts in found]

    return report


@pytest.fixture
def folder(tmp_path):
    """`folder(name, files)` makes a model's folder; sizes for its weights, text for the rest."""

    def folder(name="models/qwen", **files):
        made = tmp_path / name
        made.mkdir(parents=True)
        for file, content in (
            {"config.json": '{"architectures": ["X"]}', "model.safetensors": 3 << 20} | files
        ).items():
            if isinstance(content, int):
                with open(made / file, "wb") as out:
                    out.truncate(content)
            elif content is not None:
                (made / file).write_text(content)
        return made

    return folder


@pytest.fixture
def told(report, interpreter):
    """What is said of model a with these lines in its table."""
    interpreter()

    def told(text, **options):
        _, lines = report(f"[models.a]\npython = './python'\n{text}\n", **options)
        return [(mark, text) for mark, subject, text in lines if subject == "a"]

    return told


A = "[models.a]\nmodel_path = 'Qwen/Qwen3-14B'\n"


def of(lines, *subjects):
    """The lines of a report that are about one of these."""
    return [line for line in lines if line[1] in subjects]
