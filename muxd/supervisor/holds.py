"""Which models an operator holds, and until when, in the state file: a hold outlasts muxd."""

import time
from math import inf

import trio

from muxd.saved_state import StateFile


class HeldModels:
    """The part of the state file that holds the holds: there in seconds since the epoch, here on trio's clock."""

    def __init__(self, state: StateFile) -> None:
        self._state = state

    def recalled(self) -> dict[str, float]:
        """Return until when models are held; one whose time is over meanwhile is held until now."""
        ahead = trio.current_time() - time.time()
        held = self._state.state.held
        return {name: inf if until is None else max(trio.current_time(), until + ahead) for name, until in held.items()}

    def remember(self, name: str, until: float | None) -> None:
        """Write down until when a model is held; None: it is not held any more."""
        held = {other: then for other, then in self._state.state.held.items() if other != name}
        if until is not None:
            held[name] = None if until == inf else round(until + time.time() - trio.current_time(), 3)
        if held != self._state.state.held:
            self._state.state.held = held
            self._state.save()
