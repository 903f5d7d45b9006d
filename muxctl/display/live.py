"""One line on a terminal that follows an order, with the time that it has taken so far; a validation's rows above."""

from typing import Any

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.text import Text

from muxctl.display.cycles import CycleRows, step_text
from muxctl.display.progress import Reporter, eta_text, is_step, is_success, phase_text


class LiveLine(Reporter):
    """Redraws one line in place; at the end removes it and prints how the order ended."""

    def __init__(self, verb: str, replicas: int | None = None) -> None:
        super().__init__(verb, replicas)
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
            self.has_begun = True
            self._progress.update(self._task, description=phase_text(line) + eta_text(self.verb, line))
        elif is_success(line):
            self._ending = self.ending_text(line)


class LiveCycles(LiveLine):
    """Prints a row for each cycle of a validation above the line that says what goes on."""

    def __init__(self) -> None:
        super().__init__("validate")
        self._table = CycleRows()

    def take(self, line: dict[str, Any]) -> None:
        if is_step(line):
            self._progress.update(self._task, description=step_text(line) + eta_text(self.verb, line))
        elif line["type"] == "cycle":
            for row in self._table.rows(line):
                self._console.print(_coloured(row))
        elif is_success(line):
            *notes, self._ending = self._table.ending(line)
            for note in notes:
                self._console.print(Text(note))


def _coloured(row: str) -> Text:
    text = Text(row)
    text.highlight_regex(r"^(?P<bold>.*LEVEL .*)|(?P<green>ok$)|(?P<red>FAILED$|  NO  |^  level .*)")
    return text
