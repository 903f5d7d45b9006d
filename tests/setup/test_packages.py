"""The wheel and the sdist: what somebody has who has nothing but one of them."""

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The folder with both."""
    folder = tmp_path_factory.mktemp("built")
    argv = [sys.executable, "-m", "hatchling", "build", "--directory", str(folder)]
    subprocess.run(argv, cwd=PROJECT, capture_output=True, timeout=120, check=True)
    return folder


@pytest.fixture(scope="module")
def unpacked(built, tmp_path_factory):
    """The wheel's files."""
    folder = tmp_path_factory.mktemp("site")
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def test_every_file_of_conf_is_in_the_wheel(unpacked):
    conf = PROJECT / "conf"
    ours = {str(path.relative_to(conf)) for path in conf.rglob("*") if path.is_file()}
    there = unpacked / "muxd/conf"
    assert {str(path.relative_to(there)) for path in there.rglob("*") if path.is_file()} == ours


def test_the_manual_pages_are_where_man_finds_them(unpacked):
    (data,) = unpacked.glob("*.data")
    pages = {str(path.relative_to(data)) for path in data.rglob("*") if path.is_file()}
    assert pages == {f"data/share/man/{path}" for path in ("man1/muxd.1", "man1/muxctl.1", "man5/muxd.toml.5")}


def test_no_test_and_no_leftover_is_in_the_wheel(unpacked):
    assert {path.name for path in unpacked.iterdir() if path.suffix not in (".dist-info", ".data")} == {
        "muxd",
        "muxctl",
    }
    assert not list(unpacked.rglob("__pycache__"))


@pytest.mark.parametrize("words", [["init", "--reference"], ["setup", "--systemd", "--print", "--hardened"]])
def test_a_wheel_alone_has_what_muxd_prints_of_conf(unpacked, tmp_path, words):
    argv = [sys.executable, "-P", "-m", "muxd", *words]
    environ = os.environ | {"PYTHONPATH": str(unpacked), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(argv, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=60, check=True)
    checkout = subprocess.run(
        [sys.executable, "-m", "muxd", *words], cwd=PROJECT, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == checkout.stdout


def test_the_sdist_can_be_tested(built):
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    tracked = subprocess.run(["git", "ls-files"], cwd=PROJECT, capture_output=True, text=True, timeout=60, check=False)
    if tracked.returncode != 0:
        pytest.skip("not a git checkout")
    missing = set(tracked.stdout.splitlines()) - names
    assert {name.partition("/")[0] for name in missing} <= {".ci"}
