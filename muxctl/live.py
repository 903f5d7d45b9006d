"""One line on a terminal that follows a switch, with the time it has taken so far."""

from typing import Any

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.text import Text

from muxctl.progress import Reporter, eta_text, phase_text, ready_text


class LiveLine(Reporter):
    """Redraws one line in place and takes it away in the end; then says how it ended."""

    def __init__(self) -> None:
        self._console = Console(highlight=False)
        columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
        self._progress = Progress(*columns, console=self._console, transient=True)
        self._task = self._progress.add_task("asking muxd", total=None)
        self._ending = ""

    def __enter__(self) -> None:
        self._progress.start()

    def __exit__(self, *exc: object) -> None:
        self._progress.stop()
        if self._ending:
            self._console.print(Text(self._ending, style="green"))

    def take(self, line: dict[str, Any]) -> None:
        if line["type"] == "switching":
            self._progress.update(self._task, description=phase_text(line) + eta_text(line))
        elif line["type"] == "ready":
            self._ending = ready_text(line)
