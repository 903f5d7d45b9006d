"""The truth about a script: bash runs it, with programs in its PATH that only note how they were started."""

import os
import stat
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

#: What scripts start servers with; here they note their arguments and end well.
PROGRAMS = ("python", "python3", "sglang", "docker", "uv")

#: What would reach beyond the script: other people's processes, terminals, devices.  Here they do nothing.
HARMLESS = ("pkill", "pgrep", "killall", "ps", "tmux", "screen", "srun", "sbatch", "fuser", "nvidia-smi", "systemd-run")

#: Variables whose values are noted too: what the server's environment says.
NOTED = ("MODEL_NAME", "PORT", "CUDA_VISIBLE_DEVICES")

#: Each start is noted as words that end with a NUL: how many arguments, the program, these, and "=VALUE" or "" for each
#: of NOTED.  A shell takes a twentieth of the time that Python would.
_PROGRAM = f"""\
#!/bin/sh
printf '%s\\0' "$#" "${{0##*/}}" "$@" {" ".join(f'"${{{name}+=${name}}}"' for name in NOTED)} >> "$STARTED"
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
        words = iter(os.fsdecode(noted.read_bytes()).split("\0")[:-1] if noted.exists() else [])
        return [_started(int(count), words) for count in words]


def _started(count: int, words: Iterator[str]) -> Started:
    argv = list(islice(words, count + 1))
    values = zip(NOTED, islice(words, len(NOTED)), strict=True)
    return Started(argv, {name: value[1:] for name, value in values if value})


def write(bash: Bash, text: str) -> Path:
    (bash.folder / "more.env").write_text("# settings\nPORT=31000\nexport MODEL_NAME='org/a b'\n")
    script = bash.folder / "script.sh"
    script.write_text(text)
    return script


def program_of(arguments: list[str]) -> list[str]:
    """What `nohup`, `env` and the like would start in the end."""
    start = next((n for n, argument in enumerate(arguments) if os.path.basename(argument) in PROGRAMS), 0)
    return [os.path.basename(arguments[start]), *arguments[start + 1 :]]
