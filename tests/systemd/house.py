"""An installed muxd and its proxy in a guest: two simulated models that do not fit together."""

import json
import subprocess
from typing import Any

from tests.end_to_end.muxd import eventually
from tests.systemd.guest import Guest

CONFIG = """\
[muxd]
admin_group = "muxd"
shutdown_timeout = "5s"
[proxy]
managed = false
user = "muxd-proxy"
[defaults]
engine = "simulator"
stop_timeout = "3s"
simulation = { load_time = 0.3, sleep_time = 0.02, wake_time = 0.05, token_rate = 500, pace = 0.02 }
[models.alpha]
sleep_level = 1
memory = { weights = "28GiB", kv = "20GiB", overhead = "2GiB" }
[models.beta]
sleep_level = 2
memory = { weights = "40GiB", kv = "16GiB", overhead = "2GiB" }
"""

MUXD, PROXY, PORT = "muxd.service", "muxd-proxy.service", "muxd-proxy.socket"
CGROUP = "/sys/fs/cgroup/system.slice/muxd.service"
PYTHON = "/opt/muxd/bin/python"
ASK = "/run/ask.py"


class House:
    def __init__(self, guest: Guest, *, hardened: bool) -> None:
        self.guest = guest
        self.hardened = hardened
        self.run = guest.run
        with open(__file__.replace("house.py", "ask.py")) as file:
            guest.write(ASK, file.read())

    def begin_anew(self, config: str = CONFIG) -> None:
        """Stop what runs, forget failures, and bring everything up with this configuration."""
        self.run(f"systemctl stop {MUXD} {PORT} {PROXY}", check=False)
        self.run(f"systemctl reset-failed {MUXD} {PORT} {PROXY}", check=False)
        self.guest.write("/etc/muxd/muxd.toml", config)
        self.run(f"systemctl start {MUXD} {PORT}")
        self.since = self.run("date +@%s.%N").stdout.strip()

    def ask(self, model: str, count: int = 1, at_once: int = 1, key: str = "none") -> list[str]:
        """What the proxy answered to so many requests."""
        return self.run(f"API_KEY={key} {PYTHON} {ASK} {model} {count} {at_once}").stdout.splitlines()

    def asking(self, model: str, count: int, at_once: int, more: str = "") -> "subprocess.Popen[str]":
        """The same, while it goes on; `more` of ask.py's arguments."""
        return self.guest.start(f"{PYTHON} {ASK} {model} {count} {at_once} {more}")

    def muxctl(self, words: str, user: str | None = None) -> "subprocess.CompletedProcess[str]":
        return self.run(f"muxctl {words}", user=user, check=False)

    def status(self, model: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.muxctl(f"status {model} --json").stdout)
        return found

    def main_pid(self, unit: str = MUXD) -> int:
        return self.guest.main_pid(unit)

    def show(self, name: str, unit: str = MUXD) -> str:
        return self.guest.show(unit, name)

    def until_active_again(self, old_pid: int, unit: str = MUXD) -> None:
        def is_new() -> bool:
            return self.show("ActiveState", unit) == "active" and self.main_pid(unit) not in (0, old_pid)

        eventually(is_new, f"{unit} is up again")

    def members(self) -> dict[int, str]:
        """Every process of the service: pid -> the cgroup it is in, below the service's own."""
        files = self.run(f"cd {CGROUP} 2>/dev/null && grep -rs '' --include=cgroup.procs .", check=False)
        lines = (line.rsplit(":", 1) for line in files.stdout.splitlines())
        return {int(pid): file.removeprefix("./").removesuffix("cgroup.procs").rstrip("/") for file, pid in lines}

    def alive(self, pids: set[int]) -> set[int]:
        return {pid for pid in pids if self.guest.path(f"/proc/{pid}").exists()}

    def journal(self, options: str = "", unit: str = MUXD) -> list[dict[str, str]]:
        """What the service itself wrote since this test began; not what systemd says of it."""
        self.run("journalctl --sync")
        found = self.run(f"journalctl _SYSTEMD_UNIT={unit} --since={self.since} --output=json {options}")
        return [json.loads(line) for line in found.stdout.splitlines()]
