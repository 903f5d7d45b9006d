"""What `muxctl top` shows and what its keys do, without a terminal: lines with styles, and orders."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from muxctl.display.overview import COLUMNS, overview
from muxctl.display.tables import cut, plain

#: Keys that give an order for the model that is chosen, and those of them that ask first.
ORDERS = {"s": "switch", "z": "sleep", "r": "restart", "x": "stop", "t": "start"}
ASK_FIRST = ("restart", "stop")

HELP = "arrows choose  s switch  z sleep  r restart  x stop  t start  l log  w why  q quit"

#: Lines at the bottom: what was said last, and the keys.
_FOOT = 2


class Line(NamedTuple):
    """One line of the screen; `style` is "", "head", "chosen", "dim", "wait" or "bad"."""

    text: str
    style: str = ""


@dataclass
class TopView:
    """What is shown; `status` is the last that muxd told, None before the first."""

    status: dict[str, Any] | None = None
    trouble: str = ""  # why muxd cannot be asked now
    chosen: int = 0
    asked: str = ""  # the order that waits for a yes
    said: str = ""  # what came of the last order
    pane: Sequence[str] = ()  # lines below the table: of a log, or why
    pane_title: str = ""
    _names: list[str] = field(default_factory=list)

    def take(self, status: dict[str, Any]) -> None:
        """Take a new status; the model that was chosen stays so, wherever it is now."""
        name = self.name
        self.status, self.trouble = status, ""
        self._names = [model["name"] for model in status["models"]]
        self.chosen = self._names.index(name) if name in self._names else 0

    @property
    def name(self) -> str:
        """Return the name of the model that is chosen; "" where there is none."""
        return self._names[self.chosen] if self.chosen < len(self._names) else ""

    def press(self, key: str) -> str:
        """Take a key; return what is to be done: an order, "log", "why", "quit", or "" for nothing more."""
        if self.asked:
            order, self.asked = self.asked, ""
            self.said = "" if key == "y" else f"{order} was not ordered"
            return order if key == "y" else ""
        if key in ("up", "k", "down", "j"):
            step = -1 if key in ("up", "k") else 1
            self.chosen = max(0, min(len(self._names) - 1, self.chosen + step))
            return ""
        if key == "q":
            return "quit"
        if not self.name:
            return ""
        if key in ("l", "w"):
            return {"l": "log", "w": "why"}[key]
        order = ORDERS.get(key, "")
        if order in ASK_FIRST:
            self.asked = order
            return ""
        return order

    def lines(self, width: int, height: int) -> list[Line]:
        """Return the lines of a screen of this size, at most `height`."""
        if self.status is None:
            head = [Line(self.trouble or "asking muxd", "bad" if self.trouble else "dim")]
        else:
            head = self._table(width)
            if self.trouble:
                head.insert(0, Line(cut(f"muxd cannot be asked now: {self.trouble}", width), "bad"))
        room = height - len(head) - _FOOT
        pane = self._pane(width, room) if room > 2 else []
        shown = [*head[: height - _FOOT], *pane]
        shown += [Line("")] * (height - _FOOT - len(shown))
        return [*shown, Line(cut(self._foot(), width), "wait" if self.asked else ""), Line(cut(HELP, width), "dim")]

    def _table(self, width: int) -> list[Line]:
        assert self.status is not None
        busy = {model["name"]: model for model in self.status["models"]}
        lines, in_table = [], False
        for text in overview(self.status, width):
            in_table = in_table or text.startswith(COLUMNS[0])
            name = text.split("  ")[0].strip() if in_table else ""
            if name == self.name and self.name:
                style = "chosen"
            elif text.startswith(COLUMNS[0]):
                style = "head"
            else:
                style = _style(busy.get(name))
            lines.append(Line(text, style))
        return lines

    def _pane(self, width: int, room: int) -> list[Line]:
        if not self.pane:
            return []
        kept = list(self.pane)[-(room - 2) :]
        return [Line(""), Line(cut(self.pane_title, width), "head"), *(Line(cut(plain(line), width)) for line in kept)]

    def _foot(self) -> str:
        if self.asked:
            return f"{self.asked} {self.name}? {_cut_off(self._model())} (y or any other key)"
        return self.said

    def _model(self) -> Mapping[str, Any]:
        assert self.status is not None
        return next(model for model in self.status["models"] if model["name"] == self.name)


def _style(model: Mapping[str, Any] | None) -> str:
    if model is None:
        return ""
    if model["state"] in ("failed", "backoff", "stuck", "unresponsive"):
        return "bad"
    return "wait" if model["waiting"] else ""


def _cut_off(model: Mapping[str, Any]) -> str:
    count = model["in_flight"] + model["waiting"]
    return f"it has {count} request{'' if count == 1 else 's'};" if count else "nobody uses it now;"
