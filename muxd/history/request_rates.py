"""How many requests of each model ended in the last minute, by what the processes of the proxy report each second."""

from collections import deque
from collections.abc import Set
from typing import NamedTuple

#: Seconds.
MINUTE = 60.0


class _Reported(NamedTuple):
    at: float
    requests: int


class RequestRates:
    """The reports of the last minute, by model; times are in seconds on one clock that never goes back."""

    def __init__(self) -> None:
        self._reported: dict[str, deque[_Reported]] = {}

    def add(self, now: float, model: str, count: int) -> None:
        """Take in that so many requests of a model have ended."""
        reported = self._reported.setdefault(model, deque())
        reported.append(_Reported(now, count))
        while reported[0].at <= now - MINUTE:
            reported.popleft()

    def forget(self, models: Set[str]) -> None:
        """Forget the models that are none of these."""
        self._reported = {model: self._reported[model] for model in self._reported.keys() & models}

    def per_minute(self, now: float, model: str) -> int | None:
        """Return how many ended in the last minute; None where none has ended so far."""
        reported = self._reported.get(model)
        return None if reported is None else sum(each.requests for each in reported if each.at > now - MINUTE)
