"""A machine booted with real systemd: a Debian root in systemd-nspawn, pristine at every boot, without a network."""

import os
import signal
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path

from tests.end_to_end.muxd import eventually

#: For one command, and for boot and power-off.
PATIENCE = 90.0

ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}


class Guest:
    """Use it as a context: booted inside, powered off after."""

    def __init__(self, root: Path, *, shares: dict[Path, str]) -> None:
        """`shares`: folders of this machine -> where they are seen inside, read-only."""
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  closed in __exit__
        binds = [f"--bind-ro={here}:{there}" for here, there in shares.items()]
        self._nspawn = subprocess.Popen(
            [
                *("systemd-nspawn", "--quiet", "--boot", "--directory", str(root), "--volatile=overlay"),
                *("--machine", f"muxd-test-{os.getpid()}", "--register=no", "--keep-unit", "--private-network"),
                *binds,
            ],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,
            env={**os.environ, "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"},
        )

    def __enter__(self) -> "Guest":
        try:
            self._init = eventually(self._find_init, "systemd runs", PATIENCE)
            eventually(self._is_up, "systemd has started", PATIENCE)
        except AssertionError:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(AttributeError, subprocess.SubprocessError):
            self.run("systemctl poweroff")
            self._nspawn.wait(PATIENCE)
        if self._nspawn.poll() is None:
            os.killpg(self._nspawn.pid, signal.SIGKILL)
            self._nspawn.wait()
        self._log.close()

    def _find_init(self) -> int | None:
        """Its pid on this machine."""
        assert self._nspawn.poll() is None, f"the guest did not boot:\n{self._console()}"
        children = Path(f"/proc/{self._nspawn.pid}/task/{self._nspawn.pid}/children").read_text().split()
        names = {int(pid): Path(f"/proc/{pid}/comm").read_text().strip() for pid in children}
        return next((pid for pid, name in names.items() if name == "systemd"), None)

    def _is_up(self) -> bool:
        assert self._nspawn.poll() is None, f"the guest did not boot:\n{self._console()}"
        state = self.run("systemctl is-system-running", check=False).stdout.strip()
        assert state != "degraded", self.run("systemctl --failed --no-pager", check=False).stdout
        return state == "running"

    def _console(self) -> str:
        self._log.seek(0)
        return self._log.read().decode(errors="replace")

    # What is done inside

    def _argv(self, command: str, user: str | None) -> list[str]:
        as_user = ["runuser", "-u", user, "--"] if user else []
        return ["nsenter", "--target", str(self._init), "--all", *as_user, "bash", "-c", command]

    def run(self, command: str, *, user: str | None = None, check: bool = True) -> subprocess.CompletedProcess[str]:
        """A shell command and its outcome; `check`: it must succeed."""
        done = subprocess.run(
            self._argv(command, user), capture_output=True, text=True, env=ENVIRONMENT, timeout=PATIENCE, check=False
        )
        assert not check or done.returncode == 0, f"{command}: exit {done.returncode}\n{done.stdout}{done.stderr}"
        return done

    def start(self, command: str) -> subprocess.Popen[str]:
        """A shell command that goes on; its output comes line by line."""
        return subprocess.Popen(
            self._argv(command, None), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=ENVIRONMENT
        )

    def path(self, inside: str) -> Path:
        """A place inside, as this machine can read and write it; not one that is an absolute link."""
        return Path(f"/proc/{self._init}/root{inside}")

    def write(self, inside: str, text: str) -> None:
        self.path(inside).parent.mkdir(parents=True, exist_ok=True)
        self.path(inside).write_text(text)

    def show(self, unit: str, name: str) -> str:
        """A property of a unit."""
        return self.run(f"systemctl show --value --property {name} {unit}").stdout.strip()

    def main_pid(self, unit: str) -> int:
        return int(self.show(unit, "MainPID"))
