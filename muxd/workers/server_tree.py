"""The processes of one server, and commands that muxd runs beside them: steps of a sleep or a wake."""

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import trio

from muxd.children import Child
from muxd.engines.diagnosis import quote
from muxd.engines.engine_client import HookFailed
from muxd.errors import in_words
from muxd.shim.processes import descendants, listeners

#: Bytes of a command's output of which the end is quoted when it fails.
QUOTED = 4096

#: In the launch's work folder: what the last command wrote.
OUTPUT = "step-output"


class ChildTree:
    """The processes of a child.

    Commands get the server's environment and token: what a killed muxd leaves of them is swept like the server.
    """

    def __init__(self, child: Child, port: int, env: Mapping[str, str], cwd: Path, workdir: Path) -> None:
        self._child = child
        self._port = port
        self._env = {**env, "MUXD_TOKEN": child.record.token}
        self._cwd = cwd
        self._output = workdir / OUTPUT

    def pids(self) -> list[int]:
        return self._child.pids()

    def listener(self) -> int:
        own = listeners(self._port, descendants(self._child.shim_pid))
        pids = [process.pid for process in own]
        return pids[0] if pids else self._child.pid or 0

    async def run(self, argv: Sequence[str]) -> None:
        try:
            with self._output.open("wb") as output:
                process = await trio.lowlevel.open_process(
                    list(argv),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    cwd=self._cwd,
                    env=self._env,
                    start_new_session=True,
                )
        except OSError as error:
            raise HookFailed(f"could not be executed: {in_words(error)}") from None
        try:
            await process.wait()
        finally:  # also what it has left in the background
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            with trio.CancelScope(shield=True):
                await process.wait()
        if status := process.returncode:
            how = f"was killed by signal {-status}" if status < 0 else f"exited with status {status}"
            raise HookFailed(f"{how}{self._said()}")

    def _said(self) -> str:
        """Return the last line that a command wrote, after a colon; "" where it wrote nothing."""
        with suppress(OSError), self._output.open("rb") as output:
            output.seek(max(0, output.seek(0, os.SEEK_END) - QUOTED))
            if lines := output.read().decode(errors="replace").strip().splitlines():
                return f": {quote(lines[-1])}"
        return ""
