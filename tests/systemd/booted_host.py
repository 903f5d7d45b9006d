"""An installed muxd and its proxy in a guest: two simulated models that do not fit together."""

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
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
simulation = { load_time = 1, sleep_time = 0.02, wake_time = 0.05, token_rate = 500, pace = 0.02 }
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
SQUAT = "/run/squat.py"

#: The same, where muxd runs the proxy itself.
MANAGED = CONFIG.replace("managed = false\n", 'managed = true\nmetrics_listen = "127.0.0.1:30101"\n')
METRICS = "http://127.0.0.1:30101/metrics"


class BootedHost:
    def __init__(self, guest: Guest, *, hardened: bool) -> None:
        self.guest = guest
        self.hardened = hardened
        self.run = guest.run
        for program in (ASK, SQUAT):
            guest.write(program, Path(__file__).with_name(Path(program).name).read_text())

    def begin_anew(self, config: str = CONFIG) -> None:
        """Stop what runs, forget failures, and bring everything up with this configuration."""
        units = MUXD if config == MANAGED else f"{MUXD} {PORT}"
        self.run(f"systemctl stop {MUXD} {PORT} {PROXY}", check=False)
        self.run(f"systemctl reset-failed {MUXD} {PORT} {PROXY}", check=False)
        self.guest.write("/etc/muxd/muxd.toml", config)
        self.run(f"systemctl start {units}")
        self.since = self.run("date +@%s.%N").stdout.strip()

    def ask(self, model: str, count: int = 1, at_once: int = 1, key: str = "none") -> list[str]:
        """What the proxy answered to so many requests."""
        return self.run(f"API_KEY={key} {PYTHON} {ASK} {model} {count} {at_once}").stdout.splitlines()

    def asking(self, model: str, count: int, at_once: int, more: str = "") -> "subprocess.Popen[str]":
        """The same, while it goes on; `more` of ask.py's arguments."""
        return self.guest.start(f"{PYTHON} {ASK} {model} {count} {at_once} {more}")

    def metrics(self) -> str:
        """The page at the port of its own."""
        fetch = f"import urllib.request as r; print(r.urlopen('{METRICS}', timeout=60).read().decode())"
        return self.run(f'{PYTHON} -c "{fetch}"', check=False).stdout

    @contextmanager
    def squatting(self) -> Iterator[dict[str, int]]:
        """Meanwhile another user tries to take both ports, and connects to them; what came of it is told after."""
        seen: dict[str, int] = {}
        self.run("touch /run/squatting")
        with self.guest.start(f"runuser -u bob -- {PYTHON} {SQUAT} /run/squatting 30100 30101") as squat:
            assert squat.stdout is not None
            assert squat.stdout.readline() == "began\n"
            try:
                yield seen
            finally:
                self.run("rm /run/squatting")
                seen |= json.loads(squat.stdout.read())

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
