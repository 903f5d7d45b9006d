"""The cycles of a validation as the rows of a table, each printed when it is over."""

from collections.abc import Callable
from typing import Any

from muxctl.display.progress import Reporter, phase_text
from muxctl.display.tables import duration, padded, plain

#: The columns behind the worker's: heading, and what stands there, from the line of a cycle.
_COLUMNS: tuple[tuple[str, Callable[[dict[str, Any]], str]], ...] = (
    ("LEVEL", lambda line: str(line["level"])),
    ("CYCLE", lambda line: str(line["cycle"])),
    ("SLEEP s", lambda line: _seconds(line["sleep_s"])),
    ("WAKE s", lambda line: _seconds(line["wake_s"])),
    ("FIRST TOKEN s", lambda line: _seconds(line["first_token_s"])),
    ("GPU MiB BEFORE", lambda line: _mib(line["gpu_mib"]["before"])),
    ("ASLEEP", lambda line: _mib(line["gpu_mib"]["asleep"])),
    (" AWAKE", lambda line: _mib(line["gpu_mib"]["awake"])),
    ("HOST MiB BEFORE", lambda line: _mib(line["host_mib"]["before"])),
    ("ASLEEP", lambda line: _mib(line["host_mib"]["asleep"])),
    (" AWAKE", lambda line: _mib(line["host_mib"]["awake"])),
    ("SAME ANSWER", lambda line: {True: "yes", False: "NO", None: "-"}[line["identical"]]),
    ("RESULT", lambda line: "ok" if line["passed"] else "FAILED"),
)

_UNKNOWN = {
    "gpu_mib": "GPU memory: nobody can measure it on this host",
    "host_mib": "host memory: muxd may not look at the model's processes",
}


class CycleRows:
    """Makes the table's lines: headings before the first row, and after the last what could not be measured."""

    def __init__(self) -> None:
        self._worker_width = 0  # 0: there is one worker, which has the model's name
        self._has_begun = False
        self._missing = dict.fromkeys(_UNKNOWN, True)
        self._unproven = ""

    def rows(self, line: dict[str, Any]) -> list[str]:
        """Return the row of a cycle, after the headings if it is the first; then why it failed, if it did."""
        lines = []
        if not self._has_begun:
            self._has_begun = True
            several = line["worker"] != line["model"]
            self._worker_width = max(len("WORKER"), len(line["worker"]) + 1) if several else 0
            lines.append(self._joined("WORKER", [heading for heading, _ in _COLUMNS]))
        for key in _UNKNOWN:
            self._missing[key] = self._missing[key] and all(size is None for size in line[key].values())
        self._unproven = line["unproven"] or self._unproven
        lines.append(self._joined(line["worker"], [show(line) for _, show in _COLUMNS]))
        if line["error"]:
            lines.append(f"  level {line['level']}: {plain(line['error'])}")
        return lines

    def ending(self, line: dict[str, Any]) -> list[str]:
        """Return what is to be said after the last row."""
        missing = [text for key, text in _UNKNOWN.items() if self._missing[key] and self._has_begun]
        missing += [f"answers: nothing to compare: {plain(self._unproven)}"] if self._unproven else []
        return [*missing, f"{line['model']} is {line['state']} after {duration(line['elapsed_s'])}"]

    def _joined(self, worker: str, cells: list[str]) -> str:
        right = (padded(cell, len(heading), right=True) for cell, (heading, _) in zip(cells, _COLUMNS, strict=True))
        return "  ".join([*([padded(worker, self._worker_width)] if self._worker_width else []), *right]).rstrip()


class CycleLines(Reporter):
    """Prints a row for each cycle, for a pipe or a log file."""

    def __init__(self) -> None:
        super().__init__("validate")
        self._table = CycleRows()

    def take(self, line: dict[str, Any]) -> None:
        rows = {"cycle": self._table.rows, "done": self._table.ending}.get(line["type"])
        for row in rows(line) if rows is not None else ():
            print(row, flush=True)


def step_text(line: dict[str, Any]) -> str:
    """Return what goes on: "level 2, cycle 1: qwen is falling asleep"."""
    where = f"level {line['level']}, cycle {line['cycle']}: " if "level" in line else ""
    return where + phase_text(line)


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _mib(size: int | None) -> str:
    return "-" if size is None else str(size)
