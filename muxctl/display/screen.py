"""`muxctl status --watch` on a terminal: redrawn in place, on the alternate screen.

On the alternate screen, a table that is higher than the window, or a window that changes its size,
leaves no rubbish in the scrollback.  At the end the last view is printed there, to be read and copied.
"""

import os
import signal
import time
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

from muxctl.display.colour import coloured
from muxctl.display.tables import duration
from muxctl.display.view import Compose, View, trouble_text
from muxctl.exit_codes import CommandFailed
from muxctl.times import stamp

# Signals that are blocked, and handled in `wait`: none may come in the middle of a drawing.
_SIGNALS = {signal.SIGWINCH, signal.SIGTSTP, signal.SIGTERM}


class Screen(View):
    """The view that redraws the status in place."""

    def __init__(self, pace: str) -> None:
        self._pace = pace
        self._console = Console(highlight=False)
        self._live = Live(
            console=self._console, screen=True, auto_refresh=False, redirect_stdout=False, redirect_stderr=False
        )
        self._compose: Compose = lambda width, height: []
        self._trouble_since: float | None = None

    def __enter__(self) -> "Screen":
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        self._live.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._live.stop()
        if exc[0] is KeyboardInterrupt:
            for line in self._compose(self._console.width, None):
                self._console.print(coloured(line), soft_wrap=True)

    def show(self, value: dict[str, Any], compose: Compose) -> None:
        self._trouble_since = None
        self._compose = compose
        self._draw()

    def trouble(self, failure: CommandFailed) -> None:
        if self._trouble_since is None:
            self._trouble_since = time.monotonic()
        waited = duration(time.monotonic() - self._trouble_since)
        lines = [*trouble_text(failure).splitlines(), f"waiting for it, {waited} so far"]
        self._compose = lambda width, height: lines
        self._draw()

    def wait(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        takes = {signal.SIGWINCH: self._draw, signal.SIGTSTP: self._pause, signal.SIGTERM: _terminated}
        while (left := end - time.monotonic()) > 0 and (taken := signal.sigtimedwait(_SIGNALS, left)) is not None:
            takes[signal.Signals(taken.si_signo)]()

    def _draw(self) -> None:
        width, height = self._console.size
        lines = self._compose(width, height - 2)
        footer = Text(f"{stamp(time.time())}, {self._pace}; Ctrl-C ends", style="dim")
        text = Text("\n").join([*map(coloured, lines), Text(""), footer])
        self._live.update(text, refresh=True)

    def _pause(self) -> None:
        """Give the shell its own screen back and stop this process, as ^Z asks; redraw once it continues."""
        self._live.stop()
        os.kill(os.getpid(), signal.SIGSTOP)
        self._live.start()
        self._draw()


def _terminated() -> None:
    raise SystemExit(128 + signal.SIGTERM)
