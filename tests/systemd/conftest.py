"""A machine with muxd installed as conf/README.md says, once with muxd as root and once hardened.

Not part of the ordinary test run: python tests/systemd/root.py && pytest tests/systemd, as root.
"""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.systemd import root
from tests.systemd.booted_host import CONFIG, BootedHost
from tests.systemd.guest import Guest
from tests.systemd.opt import PROJECT, lay_out

#: What the commands of the install page may say on stderr.
NEWS = ("Creating ", "Created symlink ")


@pytest.fixture(scope="session")
def debian() -> Path:
    where = root.place()
    if lines := root.missing(where):
        pytest.skip("; ".join(lines))
    version = subprocess.run(["chroot", where, "python3", "--version"], capture_output=True, text=True, check=True)
    if not version.stdout.startswith(f"Python {sys.version_info.major}.{sys.version_info.minor}."):
        pytest.skip(f"{where} has {version.stdout.strip()}: run these tests with the same")
    return where


@pytest.fixture(scope="session")
def opt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("opt") / "muxd"
    folder.mkdir()
    lay_out(folder)
    return folder


@pytest.fixture(scope="session", params=["root", "hardened"])
def installed(request: pytest.FixtureRequest, debian: Path, opt: Path) -> Iterator[BootedHost]:
    """Everything is done with the commands of the install page; they must say nothing on stderr."""
    with Guest(debian, shares={opt: "/opt/muxd", PROJECT / "conf": "/src/conf"}) as guest:
        steps = install_page()
        follow(guest, steps["The service's files, and the configuration"])
        guest.write("/etc/muxd/muxd.toml", CONFIG)
        follow(guest, "ln -sf /opt/muxd/bin/muxctl /usr/local/bin/muxctl\n" + steps["The service"])
        if request.param == "hardened":
            follow(guest, steps["Without root"])
        follow(guest, steps["The proxy as a service of its own"])
        guest.run("useradd --groups muxd alice; useradd bob")
        yield BootedHost(guest, hardened=request.param == "hardened")


@pytest.fixture
def booted(installed: BootedHost) -> BootedHost:
    """The installed one with everything up and nothing loaded."""
    installed.begin_anew()
    return installed


def install_page() -> dict[str, str]:
    """Its commands, by the title of the section, without what is said in brackets."""
    text = (PROJECT / "conf/README.md").read_text()
    sections = re.findall(r"^## \d\. ([^(\n]*?)(?: \([^\n]*)?$.*?^```sh\n(.*?)^```$", text, re.M | re.S)
    return dict(sections)


def follow(guest: Guest, commands: str) -> None:
    for command in commands.splitlines():
        done = guest.run(f"cd /src && {command}")
        complaints = [line for line in done.stderr.splitlines() if not line.startswith(NEWS)]
        assert not complaints, f"{command}: {done.stderr}"
