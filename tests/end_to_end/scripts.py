"""A real `muxd start SCRIPTS`, as sglangmux is started."""

import os
import subprocess
import sys
from pathlib import Path

from .muxd import DEADLINE, Muxd


class Scripts(Muxd):
    """Without a configuration; with `models`, beside one.  All of it is in `folder`, where it is started too."""

    def __init__(self, folder: Path, *words: str, models: str | None = None, deadline: float = DEADLINE) -> None:
        self._words = words
        self._alone = models is None
        super().__init__(folder, models or "", deadline=deadline)

    def _run(self, *words: str) -> subprocess.Popen[bytes]:
        where = ["--listen-port", str(self.port)] if self._alone else ["--config", str(self.config)]
        argv = [sys.executable, "-m", "muxd", *words, *where, *self._words]
        return subprocess.Popen(argv, stdout=self._log, stderr=self._log, cwd=self.folder, env=environ(self.folder))


def environ(folder: Path) -> dict[str, str]:
    """Where muxd's own files go when nobody says: as systemd would have it."""
    places = {"RUNTIME_DIRECTORY": str(folder), "STATE_DIRECTORY": f"{folder}/state"}
    return {**os.environ, **places, "PYTHONPATH": str(Path(__file__).parents[2])}
