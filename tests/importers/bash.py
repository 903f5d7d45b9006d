"""The truth about a script: bash runs it, with programs in its PATH that only note how they were started."""

import json
import os
import stat
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

#: What scripts start servers with; here they note their arguments and end well.
PROGRAMS = ("python", "python3", "sglang", "docker", "uv")

#: What would reach beyond the script: other people's processes, terminals, devices.  Here they do nothing.
HARMLESS = ("pkill", "pgrep", "killall", "ps", "tmux", "screen", "srun", "sbatch", "fuser", "nvidia-smi", "systemd-run")

#: Variables whose values are noted too: what the server's environment says.
NOTED = ("MODEL_NAME", "PORT", "CUDA_VISIBLE_DEVICES")

_PROGRAM = f"""\
#!{sys.executable} -IS
import json, os, sys
variables = {{name: os.environ[name] for name in {NOTED!r} if name in os.environ}}
with open(os.environ["STARTED"], "a") as file:
    file.write(json.dumps([[os.path.basename(sys.argv[0]), *sys.argv[1:]], variables]) + "\\n")
"""


@dataclass(frozen=True)
class Started:
    """A program as it was started."""

    argv: list[str]
    environ: dict[str, str]


class Bash:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._programs = folder / "bin"
        self._programs.mkdir()
        for name in PROGRAMS:
            program = self._programs / name
            program.write_text(_PROGRAM)
            program.chmod(program.stat().st_mode | stat.S_IXUSR)
        for name in HARMLESS:
            (self._programs / name).symlink_to("/bin/true")

    @property
    def environ(self) -> dict[str, str]:
        """What scripts run with."""
        return {"PATH": f"{self._programs}:/usr/bin:/bin", "HOME": str(self.folder / "home"), "EMPTY": "", "GIVEN": "7"}

    def run(
        self, script: Path, environ: dict[str, str] | None = None, shell: str = "bash", args: Sequence[str] = ()
    ) -> list[Started]:
        """Everything that the script started, in its order."""
        noted = self.folder / "started"
        noted.unlink(missing_ok=True)
        env = (self.environ if environ is None else environ) | {"STARTED": str(noted)}
        subprocess.run(
            [shell, str(script), *args], env=env, cwd=self.folder, stdin=subprocess.DEVNULL, capture_output=True,
            timeout=20, check=False,
        )  # fmt: skip
        lines = noted.read_text().splitlines() if noted.exists() else []
        return [Started(*json.loads(line)) for line in lines]


def write(bash: Bash, text: str) -> Path:
    (bash.folder / "more.env").write_text("# settings\nPORT=31000\nexport MODEL_NAME='org/a b'\n")
    script = bash.folder / "script.sh"
    script.write_text(text)
    return script


def program_of(arguments: list[str]) -> list[str]:
    """What `nohup`, `env` and the like would start in the end."""
    start = next((n for n, argument in enumerate(arguments) if os.path.basename(argument) in PROGRAMS), 0)
    return [os.path.basename(arguments[start]), *arguments[start + 1 :]]
