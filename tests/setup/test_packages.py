"""The wheel and the sdist: what somebody has who has nothing but one of them."""

import email
import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.typed import run_muxd

PROJECT = Path(__file__).parents[2]
# The labels of `[project.urls]` that say "this is the project's own", without case and punctuation: the packaging
# standards' "Well-known Project URLs in Metadata".
OWN = {
    *("homepage", "source", "repository", "sourcecode", "github", "download", "releasenotes", "documentation", "docs"),
    *("changelog", "changes", "whatsnew", "issues", "bugs", "issue", "tracker", "issuetracker", "bugtracker"),
    *("history", "funding", "sponsor", "donate", "donation"),
}


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
def test_a_wheel_alone_has_what_muxd_prints_of_conf(unpacked, tmp_path, capsys, words):
    argv = [sys.executable, "-P", "-m", "muxd", *words]
    environ = os.environ | {"PYTHONPATH": str(unpacked), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(argv, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=60, check=True)
    assert run_muxd(*words) == 0
    assert done.stdout == capsys.readouterr().out


def test_the_addresses_in_the_metadata_are_of_what_muxd_works_with(unpacked):
    """And none is called muxd's own: a label as Homepage would be, or a repository, whose stars an index would show."""
    (folder,) = unpacked.glob("*.dist-info")
    fields = email.message_from_string((folder / "METADATA").read_text()).get_all("Project-URL")
    addresses = dict(field.split(", ", 1) for field in fields)
    assert addresses == tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["urls"]
    assert len(addresses) == len(fields) >= 4
    for label, address in addresses.items():
        assert len(label) <= 32
        assert re.sub(r"[^a-z0-9]", "", label.lower()) not in OWN
        assert urlsplit(address).scheme == "https"
        assert not re.search(r"(^|\.)(github|gitlab|codeberg|bitbucket)\.", urlsplit(address).netloc)


def test_the_sdist_can_be_tested(built):
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    tracked = subprocess.run(["git", "ls-files"], cwd=PROJECT, capture_output=True, text=True, timeout=60, check=False)
    if tracked.returncode != 0:
        pytest.skip("not a git checkout")
    missing = set(tracked.stdout.splitlines()) - names
    assert {name.partition("/")[0] for name in missing} <= {".ci"}
