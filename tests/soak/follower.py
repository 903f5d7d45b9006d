"""muxd's journal, followed to its end: it keeps only the last entries, and a long run has more."""

import json
import threading
from pathlib import Path
from typing import Any

import httpx

ON_GPU = {"starting", "ready", "draining", "falling_asleep", "waking"}
LEAVING = ("draining", "falling_asleep", "stopping")


class Follower:
    """Use it as a context while muxd lives."""

    def __init__(self, socket: Path) -> None:
        self.entries: list[dict[str, Any]] = []
        self._http = httpx.Client(transport=httpx.HTTPTransport(uds=str(socket)), timeout=None)
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self) -> "Follower":
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *exc: object) -> None:
        """muxd has ended, and with it the journal, unless the test failed before."""
        if kind is None:
            self._thread.join(30)
            assert not self._thread.is_alive(), "the journal has not ended"
        self._http.close()

    def _follow(self) -> None:
        try:
            with self._http.stream("GET", "http://muxd/v1/events?after=0") as answer:
                self.entries.extend(json.loads(line) for line in answer.iter_lines() if line)
        except httpx.TransportError:
            return

    def moves(self) -> list[tuple[str, str, str]]:
        """Every state change so far: model, from, to."""
        assert not [e for e in self.entries if e["type"] == "gap"], "the journal was followed too slowly"
        return [(e["model"], e["from"], e["to"]) for e in list(self.entries) if e["type"] == "state"]

    def most_awake(self) -> int:
        """How many models were on a GPU at once, at most."""
        states: dict[str, str] = {}
        most = 0
        for model, _, after in self.moves():
            states[model] = after
            most = max(most, sum(state in ON_GPU for state in states.values()))
        return most

    def longest(self, model: str, *states: str) -> float:
        """The longest the model took to get through these states, each by itself, in seconds together."""
        lasted = dict.fromkeys(states, 0.0)
        state, began = "", 0.0
        for entry in [e for e in list(self.entries) if e["type"] == "state" and e["model"] == model]:
            if state in lasted:
                lasted[state] = max(lasted[state], entry["time"] - began)
            state, began = entry["to"], entry["time"]
        return sum(lasted.values())

    def next_move(self, model: str, after: float) -> float:
        """When the model's state next changed."""
        times = (e["time"] for e in list(self.entries) if e["type"] == "state" and e["model"] == model)
        return next((time for time in times if time >= after), after)
