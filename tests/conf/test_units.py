"""The systemd units, as far as they can be held without booting one; tests/systemd boots them."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from muxd.config.schema import Daemon, Proxy

CONF = Path(__file__).parents[2] / "conf"
SYSTEMD = CONF / "systemd"
UNITS = ["muxd.service", "muxd-proxy.service", "muxd-proxy.socket"]
HARDENING = "muxd.service.d/hardening.conf"

FACTS = {
    "muxd.service": [
        "Type=notify",
        "NotifyAccess=main",
        "Nice=-10",  # of muxd alone, see tests/shim/test_fork
        "Restart=on-failure",
        "RestartPreventExitStatus=2",
        "WatchdogSec=30",
        "Environment=PYTHONFAULTHANDLER=1",
        "TimeoutStopSec=180",
        "KillMode=process",  # a crash leaves models and proxy to the next muxd
        "ExecStopPost=-/opt/muxd/bin/muxd sweep --after-service --config /etc/muxd/muxd.toml",
        "RuntimeDirectoryPreserve=restart",
        "Delegate=yes",
        "OOMPolicy=continue",
        "TasksMax=infinity",
        "LimitMEMLOCK=infinity",
        "LimitNOFILE=65536",
        "RuntimeDirectory=muxd",
        "RuntimeDirectoryMode=0755",
        "StateDirectory=muxd",
        "LogsDirectory=muxd",
        "CacheDirectory=muxd",
        "ExecReload=/opt/muxd/bin/muxctl reload",
        "NoNewPrivileges=yes",
        "PrivateDevices=no",  # yes would hide the GPUs
        "DevicePolicy=closed",
        "DeviceAllow=char-nvidia* rw",
        "ProtectControlGroups=no",  # yes would take the delegated cgroups away
    ],
    HARDENING: [
        "User=muxd",
        "NoNewPrivileges=yes",
        "PrivateDevices=no",  # yes would hide the GPUs
        "DevicePolicy=closed",
        "DeviceAllow=char-nvidia* rw",
        "ProtectControlGroups=no",  # yes would take the delegated cgroups away
    ],
    "muxd-proxy.service": [
        "User=muxd-proxy",
        "Wants=muxd.service",
        "Restart=always",
        "StartLimitIntervalSec=0",
        "LogsDirectory=muxd-proxy",
    ],
    "muxd-proxy.socket": ["Backlog=4096"],
}


def lines(name):
    return (SYSTEMD / name).read_text().splitlines()


def setting(name, key):
    (value,) = (line.partition("=")[2] for line in lines(name) if line.startswith(f"{key}="))
    return value


@pytest.mark.parametrize(("name", "line"), [(name, line) for name, facts in FACTS.items() for line in facts])
def test_a_unit_has_what_was_found_to_matter(name, line):
    assert line in lines(name)


def test_what_would_break_engines_or_couple_the_proxy_to_muxd_is_in_no_unit():
    assert not any(
        line.startswith("MemoryDenyWriteExecute=") for name in ("muxd.service", HARDENING) for line in lines(name)
    )  # engines compile code
    assert not any(line.startswith(("Requires=muxd.service", "BindsTo=")) for line in lines("muxd-proxy.service"))


def test_the_sockets_address_is_the_proxys_default():
    assert setting("muxd-proxy.socket", "ListenStream") == f"{Proxy().host}:{Proxy().port}"


@pytest.mark.parametrize(
    ("name", "drain"),
    [("muxd.service", Daemon(*[Path()] * 3).shutdown_timeout), ("muxd-proxy.service", Proxy().drain_timeout)],
)
def test_a_stop_has_the_time_that_a_drain_takes(name, drain):
    assert float(setting(name, "TimeoutStopSec")) > drain + 5


def test_muxd_and_the_proxy_know_the_same_api_keys():
    files = {name: [line for line in lines(name) if line.startswith("EnvironmentFile=")] for name in UNITS}
    assert set(files["muxd-proxy.service"]) == {"EnvironmentFile=-/etc/muxd/keys.env"} <= set(files["muxd.service"])


def test_every_user_that_a_unit_names_is_made():
    made = {line.split()[1] for line in (CONF / "sysusers.d/muxd.conf").read_text().splitlines() if line[:2] == "u "}
    assert {setting(HARDENING, "User"), setting("muxd-proxy.service", "User")} == made


@pytest.fixture
def verify(tmp_path):
    """Runs systemd-analyze on the units as they would be installed, their programs put where there are some."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("needs systemd-analyze")

    def run(change=lambda text: text):
        shutil.copytree(SYSTEMD, tmp_path, dirs_exist_ok=True)
        for name in [*UNITS, HARDENING]:
            text = (SYSTEMD / name).read_text()
            for program in ("muxd", "muxctl"):
                text = text.replace(f"/opt/muxd/bin/{program} ", f"{sys.executable} ")
            (tmp_path / name).write_text(change(text))
        argv = ["systemd-analyze", "verify", *(str(tmp_path / name) for name in UNITS)]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
        return done.stdout + done.stderr  # its exit status is 0 whatever it finds

    return run


def test_systemd_has_nothing_to_say_about_the_units(verify):
    assert verify() == ""


@pytest.mark.parametrize("name", ["muxd.service", "muxd-proxy.service"])
def test_a_unit_is_as_little_exposed_as_a_gpu_allows(name):
    if shutil.which("systemd-analyze") is None:
        pytest.skip("needs systemd-analyze")
    argv = ["systemd-analyze", "security", "--offline=yes", "--threshold=40", str(SYSTEMD / name)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("key", ["TasksMax=", "NoNewPrivileges=", "Backlog="])
def test_systemd_would_say_so_if_a_key_were_misspelt(verify, key):
    """In any of the files: the drop-in is read too."""
    assert f"Xyz{key[:-1]}" in verify(lambda text: text.replace(f"\n{key}", f"\nXyz{key}"))


@pytest.mark.skipif(shutil.which("systemd-sysusers") is None, reason="needs systemd-sysusers")
def test_the_users_are_made_in_an_empty_system(tmp_path):
    file = CONF / "sysusers.d/muxd.conf"
    argv = ["systemd-sysusers", f"--root={tmp_path}", "--replace=/etc/sysusers.d/muxd.conf", "-"]
    (tmp_path / "etc").mkdir()
    done = subprocess.run(argv, input=file.read_text(), capture_output=True, text=True, timeout=60, check=True)
    assert "warning" not in done.stderr.lower()
    users = (tmp_path / "etc/passwd").read_text()
    assert ":muxd and its models:/var/cache/muxd:" in users
    assert "muxd-proxy:x:" in users
    groups = dict(line.split(":x:") for line in (tmp_path / "etc/group").read_text().splitlines())
    assert groups["video"].endswith(":muxd")
    assert groups["render"].endswith(":muxd")
