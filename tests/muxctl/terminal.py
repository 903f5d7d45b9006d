"""A process on a pseudo terminal, read as far as a test wants to see."""

import os
import pty
import select
import signal
import subprocess
import termios
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

DEADLINE = 20.0


class Terminal:
    """`text` is everything that was shown so far, escape codes and all."""

    def __init__(
        self,
        argv: Sequence[str],
        *,
        cwd: Path,
        lines: int = 24,
        columns: int = 80,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self._ours, theirs = pty.openpty()
        termios.tcsetwinsize(theirs, (lines, columns))
        clean = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
        environ = clean | {"TERM": "xterm", "TZ": "UTC"} | dict(env or {})
        self.process = subprocess.Popen(
            argv, stdin=theirs, stdout=theirs, stderr=theirs, cwd=cwd, env=environ, start_new_session=True
        )
        os.close(theirs)
        self.text = ""
        self._seen = 0  # how much of it `until` has given away

    def until(self, wanted: str) -> str:
        """Read until it is shown; everything since the last `until`, and with it."""
        begin = self._seen
        while (found := self.text.find(wanted, begin)) < 0:
            assert self._read(), f"ended without {wanted!r}: {self.text[begin:]!r}"
        self._seen = found + len(wanted)
        return self.text[begin : self._seen]

    def ended(self) -> int:
        """Read to the end; the exit code."""
        while self._read():
            pass
        return self.process.wait(DEADLINE)

    def type(self, keys: str) -> None:
        os.write(self._ours, keys.encode())

    def resize(self, lines: int, columns: int) -> None:
        termios.tcsetwinsize(self._ours, (lines, columns))
        self.process.send_signal(signal.SIGWINCH)  # it has no controlling terminal, so the kernel does not

    def stopped(self) -> None:
        """Wait until the process has been stopped, as by ^Z."""
        deadline = time.monotonic() + DEADLINE
        while os.waitid(os.P_PID, self.process.pid, os.WSTOPPED | os.WNOHANG | os.WNOWAIT) is None:
            assert time.monotonic() < deadline, "it was not stopped"
            select.select([], [], [], 0.01)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._ours)

    def _read(self) -> str:
        readable, _, _ = select.select([self._ours], [], [], DEADLINE)
        assert readable, f"nothing more was shown after {self.text[-2000:]!r}"
        try:
            piece = os.read(self._ours, 1 << 16).decode(errors="replace")
        except OSError:  # how Linux says that nobody has the other end any more
            piece = ""
        self.text += piece
        return piece
