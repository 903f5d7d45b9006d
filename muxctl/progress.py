"""How the progress of a switch is told: as JSON, as a line for each phase, or (in `live`) on a terminal."""

import json
from collections.abc import Callable
from typing import Any

from muxctl.tables import duration

# Phases of those that give way; every other phase is of the model itself.
_LEAVING = ("draining", "falling_asleep", "stopping", "unresponsive")


class Reporter:
    """Tells the progress of one switch.  A context manager, for those that must clean up."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, *exc: object) -> None:
        pass

    def take(self, line: dict[str, Any]) -> None:
        raise NotImplementedError


class JsonLines(Reporter):
    """Every line as it came."""

    def take(self, line: dict[str, Any]) -> None:
        print(json.dumps(line), flush=True)


class PhaseLines(Reporter):
    """One line for each phase: what a pipe or a log file wants."""

    def __init__(self, show: Callable[[str], None] = lambda text: print(text, flush=True)) -> None:
        self._show = show
        self._phase = ""

    def take(self, line: dict[str, Any]) -> None:
        if line["type"] == "ready":
            self._show(ready_text(line))
        elif line["type"] == "switching" and (phase := phase_text(line)) != self._phase:
            self._phase = phase
            self._show(phase + eta_text(line))


def phase_text(line: dict[str, Any]) -> str:
    """Who does what: "mistral is draining", "qwen is waking"."""
    leaving = line["phase"] in _LEAVING and line["from"]
    who = " and ".join(line["from"]) if leaving else line["model"]
    return f"{who} {'are' if leaving and len(line['from']) > 1 else 'is'} {phase_name(line['phase'])}"


def phase_name(phase: str) -> str:
    return {"backoff": "waiting before its next start"}.get(phase, phase.replace("_", " "))


def eta_text(line: dict[str, Any]) -> str:
    """Empty when nobody knows, or it is a matter of a moment."""
    eta = line["eta_s"]
    return f", ready in about {duration(eta)}" if eta is not None and eta >= 1 else ""


def ready_text(line: dict[str, Any]) -> str:
    return f"{line['model']} is ready after {line['elapsed_s']:.1f}s"
