"""`muxd setup`: files written below a root, shown and removed; tests/systemd follows it on a booted systemd."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from muxd.setup import verb
from muxd.setup.conf_files import conf_folder
from muxd.setup.service_files import MARK, closed_to_others
from tests.typed import run_muxd

PROJECT = Path(__file__).parents[2]
UNITS = "etc/systemd/system"
MAN = "usr/local/share/man"
DROP_IN = f"{UNITS}/muxd.service.d/hardening.conf"


@pytest.fixture
def setup(tmp_path, monkeypatch, capsys):
    """Runs `muxd setup --systemd --root ROOT`; returns its status, and what it said on both streams."""

    def run(*words, root=tmp_path / "root", **environ):
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        status = run_muxd("setup", "--systemd", "--root", str(root), *words)
        return status, "".join(capsys.readouterr())

    return run


def written(root):
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


def programs():
    return Path(sys.prefix) / "bin"


def test_every_file_has_the_paths_of_this_installation(setup, tmp_path):
    status, said = setup()
    root = tmp_path / "root"
    assert status == 0, said
    assert written(root) == {
        f"{UNITS}/muxd.service", f"{UNITS}/muxd-proxy.service", f"{UNITS}/muxd-proxy.socket",
        "etc/sysusers.d/muxd.conf", "etc/tmpfiles.d/muxd.conf", f"{MAN}/man1/muxd.1", f"{MAN}/man1/muxctl.1",
        f"{MAN}/man5/muxd.toml.5",
    }  # fmt: skip
    unit = (root / UNITS / "muxd.service").read_text()
    assert f"ExecStart={programs()}/muxd start --config /etc/muxd/muxd.toml\n" in unit
    assert f"ExecReload={programs()}/muxctl reload\n" in unit
    assert "/opt/muxd/bin" not in unit
    assert f"wrote {root}/{UNITS}/muxd.service" in said


def test_what_it_wrote_is_what_conf_has(setup, tmp_path):
    setup("--hardened")
    root = tmp_path / "root"
    for name in ("systemd/muxd.service", "systemd/muxd.service.d/hardening.conf", "sysusers.d/muxd.conf"):
        place = root / "etc" / name.replace("systemd/", "systemd/system/")
        expected = (PROJECT / "conf" / name).read_text().replace("/opt/muxd/bin", str(programs()))
        assert place.read_text() == MARK + expected


def test_a_second_run_changes_nothing_and_says_so(setup, tmp_path):
    setup()
    before = (tmp_path / "root" / UNITS / "muxd.service").stat().st_mtime_ns
    _, said = setup()
    assert said.count("unchanged ") == 8
    assert (tmp_path / "root" / UNITS / "muxd.service").stat().st_mtime_ns == before


def test_a_removal_is_not_shown(setup, tmp_path):
    status, said = setup("--remove", "--print")
    assert (status, said.count("leave one out"), written(tmp_path)) == (2, 1, set())


def test_a_place_that_takes_no_files_is_told_with_its_option(setup):
    status, said = setup(root=Path("/proc/nothing"))
    assert status == 1
    assert said.endswith("--root DIR names another place\n")


def test_an_older_file_of_its_own_is_replaced(setup, tmp_path):
    setup()
    unit = tmp_path / "root" / UNITS / "muxd.service"
    unit.write_text(MARK + "[Unit]\n")
    assert f"replaced {unit}" in setup()[1]


def test_a_file_that_somebody_else_wrote_is_kept_and_nothing_else_is_written(setup, tmp_path):
    unit = tmp_path / "root" / UNITS / "muxd.service"
    unit.parent.mkdir(parents=True)
    unit.write_text("[Unit]\nDescription=mine\n")
    status, said = setup()
    assert status == 2
    assert f"{unit} is not of muxd setup; --force replaces it" in said
    assert written(tmp_path / "root") == {f"{UNITS}/muxd.service"}
    assert setup("--force")[0] == 0
    assert unit.read_text().startswith(MARK)


def test_hardening_stays_until_it_is_removed(setup, tmp_path):
    setup("--hardened")
    _, said = setup()
    assert "muxd stays without root; remove that file" in said
    assert DROP_IN in written(tmp_path / "root")


def test_remove_takes_what_it_wrote_and_nothing_else(setup, tmp_path):
    setup("--hardened")
    mine = tmp_path / "root" / UNITS / "muxd.service.d/mine.conf"
    mine.write_text("[Service]\n")
    socket = tmp_path / "root" / UNITS / "muxd-proxy.socket"
    socket.write_text("[Socket]\n")
    status, said = setup("--remove")
    assert status == 0
    assert written(tmp_path / "root") == {f"{UNITS}/muxd.service.d/mine.conf", f"{UNITS}/muxd-proxy.socket"}
    assert f"left {socket}: it is not of muxd setup" in said
    socket.unlink()
    assert "there is nothing to remove" in setup("--remove")[1]


def test_print_shows_every_file_under_its_path_and_writes_nothing(setup, tmp_path):
    status, said = setup("--print", "--hardened")
    assert status == 0
    assert said.count(MARK) == 9
    assert f"# {tmp_path}/root/{DROP_IN}\n" in said
    assert not (tmp_path / "root").exists()


def test_a_user_has_a_service_of_their_own(setup, tmp_path):
    status, said = setup("--user", XDG_CONFIG_HOME="/home/ann/.config")
    assert status == 0, said
    assert written(tmp_path / "root") == {"home/ann/.config/systemd/user/muxd.service"}


def test_the_users_unit_keeps_what_matters_in_that_of_the_system():
    """Whatever both have is equal; what the user's lacks is of root, or follows from where a user's files are."""

    def settings(name):
        lines = (PROJECT / "conf/systemd" / name).read_text().splitlines()
        return dict(line.partition("=")[::2] for line in lines if "=" in line and not line.startswith("#"))

    ours, system = settings("user/muxd.service"), settings("muxd.service")
    differ = {key for key in ours if ours[key] != system[key]}
    assert differ == {"ExecStart", "ExecStopPost", "Environment", "WantedBy"}
    assert {
        "KillMode",
        "ExecStopPost",
        "Delegate",
        "OOMPolicy",
        "FileDescriptorStoreMax",
        "WatchdogSec",
        "TimeoutStopSec",
    } <= set(ours)


def test_systemd_has_nothing_to_say_about_the_users_unit(setup, tmp_path):
    if shutil.which("systemd-analyze") is None:
        pytest.skip("needs systemd-analyze")
    setup("--user", XDG_CONFIG_HOME="/c")
    unit = tmp_path / "root/c/systemd/user/muxd.service"
    argv = ["systemd-analyze", "--user", "verify", str(unit)]
    environ = os.environ | {"XDG_RUNTIME_DIR": str(tmp_path)}
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, env=environ, check=False)
    assert done.stdout + done.stderr == ""


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
def test_without_root_it_says_what_to_do_instead():
    argv = ["setpriv", "--reuid=65534", "--clear-groups", sys.executable, "-m", "muxd", "setup", "--systemd"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, cwd=PROJECT, check=False)
    assert done.returncode == 2
    assert done.stderr == "muxd setup: /etc is root's: sudo muxd setup --systemd, or --user for a service of your own\n"


def test_a_folder_that_the_hardened_user_may_not_enter_is_found(tmp_path):
    (tmp_path / "home/bin").mkdir(parents=True)
    (tmp_path / "home").chmod(0o700)
    tmp_path.chmod(0o755)
    found = closed_to_others(tmp_path / "home/bin/muxd")
    assert found is not None
    assert found in (tmp_path / "home", *tmp_path.parents)  # pytest's own folders may be closed, too


def test_what_systemd_says_against_it_is_told(monkeypatch):
    monkeypatch.setattr(verb.shutil, "which", lambda name: name)
    with pytest.raises(verb.SetupFailed, match="sh -c echo no bus >&2; exit 1: no bus; repair that"):
        verb._call_systemd([["sh", "-c", "echo no bus >&2; exit 1"]])


def test_the_reference_is_printed(capsys):
    assert run_muxd("init", "--reference") == 0
    assert capsys.readouterr().out == (conf_folder() / "muxd.toml").read_text()
