"""One line on a terminal that follows an order, with the time that the order has taken so far."""

from typing import Any

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.text import Text

from muxctl.display.progress import Reporter, ending_text, eta_text, is_step, is_success, phase_text


class LiveLine(Reporter):
    """Redraws one line in place; at the end removes it and prints how the order ended."""

    def __init__(self, verb: str) -> None:
        super().__init__(verb)
        self._console = Console(highlight=False, soft_wrap=True)
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
        if is_step(line):
            self._progress.update(self._task, description=phase_text(line) + eta_text(self.verb, line))
        elif is_success(line):
            self._ending = ending_text(self.verb, line)
