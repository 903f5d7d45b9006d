"""Every switch with its reason: who asked, who waited how long, what was compared, and where its time went.

The core says why a switch begins, in numbers of leases and orders; here they become requests, keys and operators.
"""

import time
from collections.abc import Mapping
from math import isfinite
from typing import Any

from msgspec.structs import replace

from muxd.core.commands import Comparison, RecordSwitch
from muxd.history import History
from muxd.history.journal import Entry, EntryFilter
from muxd.metrics.switches import PARTS, SwitchEnd
from muxd.protocol import seconds

from .order_streams import OrderStreams
from .sessions import ProxySessions
from .wire import Line


class SwitchBook:
    """The switches that are under way; those that are over go into the history."""

    def __init__(self, sessions: ProxySessions, orders: OrderStreams, history: History) -> None:
        self._ended = history.switches
        self._sessions = sessions
        self._orders = orders
        self._events = history.events
        self._open: dict[str, tuple[float, Line]] = {}  # by target: when it began on the core's clock, and its facts

    def begin(self, record: RecordSwitch, now: float) -> None:
        """Note a switch that begins at the time `now`, on the clock of the core's events."""
        if record.target in self._open:  # called off, and begun anew with the same event
            self._end(record.target, "called_off", "", now)
        waits = [each for each in record.compared if each.group == record.target]
        facts: Line = {
            "model": record.target,
            "from": [name for name, _ in record.victims],
            "to": record.target,
            "levels": dict(record.victims),
            "cause": record.cause,
            "asked_by": self._asked_by(record),
            "waiting": sum(each.waiting for each in waits),
            "waited_s": seconds(max((each.waited for each in waits), default=0.0)),
            "wait_target_s": seconds(record.wait_target),
            "compared": list(map(_compared, record.compared)),
            "began": time.time(),
        }
        self._open[record.target] = now, facts

    def _asked_by(self, record: RecordSwitch) -> list[Line]:
        operators = [{"operator": self._orders.operator(ticket) or None} for ticket in record.tickets]
        leases = [self._sessions.lease(number) for number in record.leases]
        asked = [{"request": each.request, "key": each.key or None} for each in leases if each is not None]
        return [*operators, *(each for each in asked if each["request"])]

    def look(self, end: SwitchEnd | None, running: Mapping[str, float], reason: str, now: float) -> None:
        """Take in that a switch is over, and that all others that do not run any more were called off.

        `running`: those under way, by target.  `reason`: of the move that ended it.
        """
        if end is not None and end.target in self._open:
            self._end(end.target, "ready" if end.is_ready else "failed", reason, now, end.seconds)
        for target in [target for target in self._open if target not in running]:
            self._end(target, "called_off", "", now)

    def _end(self, target: str, result: str, reason: str, now: float, parts: Mapping[str, float] | None = None) -> None:
        since, facts = self._open.pop(target)
        split = {f"{part}_s": seconds(parts[part]) for part in PARTS} if parts is not None else {}
        told = {"result": result, "reason": reason or None, "duration_s": seconds(now - since), **split}
        self._ended.record("switch", **facts, **told)
        short = {"asked_by": ",".join(dict.fromkeys(map(_who, facts["asked_by"]))) or None}
        kept = {field: facts[field] for field in ("model", "from", "to", "cause", "waited_s")}
        self._events.record("switch", **kept, **short, **told)

    def all(self, wanted: EntryFilter, began_before: float, now: float) -> list[Entry]:
        """Return the last switches that are wanted, the oldest first; of a model's those by which it came or left."""
        under_way = (
            {
                "id": None,
                "time": facts["began"],
                "type": "switch",
                **facts,
                "result": None,
                "duration_s": seconds(now - at),
            }
            for at, facts in self._open.values()
        )
        by_time = replace(wanted, model=None)
        found = [
            entry
            for entry in (*self._ended, *under_way)
            if by_time.matches(entry)
            and entry["began"] <= began_before
            and (wanted.model is None or wanted.model in (entry["to"], *entry["from"]))
        ]
        return found[-wanted.last :] if wanted.last else found


def _compared(each: Comparison) -> dict[str, Any]:
    return {
        "model": each.group,
        "waiting": each.waiting,
        "waited_s": seconds(each.waited),
        "score": round(each.score, 4) if isfinite(each.score) else None,
        "due_in_s": seconds(each.due_in),
        "comes_in_s": seconds(each.comes_in),
        "cost_s": seconds(each.cost),
    }


def _who(asked: Line) -> str:
    if "operator" in asked:
        return str(asked["operator"] or "an operator")
    return str(asked["key"] or asked["request"])
