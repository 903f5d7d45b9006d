"""How the progress of an order is told: as JSON, as a line for each phase, or (in `live`) on a terminal.

A line of muxd's is a step ("switching", "working") or the end ("ready", "done", "failed").
"""

import json
from collections.abc import Callable
from typing import Any

from muxctl.display.tables import duration

# Phases of those that give way; every other phase is of the model itself.
_LEAVING = ("draining", "falling_asleep", "stopping", "unresponsive")

# What a model is once an order has been carried out.
_GOALS = {"stop": "stopped", "sleep": "asleep"}

_AT_ONCE = 0.05  # seconds: no process starts, and no model wakes, in so few

_PHASES = {"backoff": "waiting before its next start", "queued": "waiting for its turn"}


class Reporter:
    """Tells the progress of one order.  A context manager, for those that must clean up."""

    def __init__(self, verb: str) -> None:
        self.verb = verb

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

    def __init__(self, verb: str, show: Callable[[str], None] = lambda text: print(text, flush=True)) -> None:
        super().__init__(verb)
        self._show = show
        self._phase = ""

    def take(self, line: dict[str, Any]) -> None:
        if is_success(line):
            self._show(ending_text(self.verb, line))
        elif is_step(line) and (phase := phase_text(line)) != self._phase:
            self._phase = phase
            self._show(phase + eta_text(self.verb, line))


def is_step(line: dict[str, Any]) -> bool:
    return line["type"] in ("switching", "working")


def is_success(line: dict[str, Any]) -> bool:
    return line["type"] in ("ready", "done")


def goal(verb: str) -> str:
    """What the model will be: "ready", "stopped", "asleep"."""
    return _GOALS.get(verb, "ready")


def phase_text(line: dict[str, Any]) -> str:
    """Who does what: "mistral is draining", "qwen is waking"."""
    leaving = line.get("from") if line["phase"] in _LEAVING else None
    who = " and ".join(leaving) if leaving else line["model"]
    return f"{who} {'are' if leaving and len(leaving) > 1 else 'is'} {phase_name(line['phase'])}"


def phase_name(phase: str) -> str:
    return _PHASES.get(phase, phase.replace("_", " "))


def eta_text(verb: str, line: dict[str, Any]) -> str:
    """Empty when nobody knows, or it is a matter of a moment."""
    eta = line.get("eta_s")
    return f", {goal(verb)} in about {duration(eta)}" if eta is not None and eta >= 1 else ""


def ending_text(verb: str, line: dict[str, Any]) -> str:
    """How it is now, and what that means for requests."""
    model, state = line["model"], line.get("state", "ready")
    if state == "ready" and line["elapsed_s"] < _AT_ONCE:
        return f"{model} is ready already"
    if state == "ready":
        return f"{model} is ready after {line['elapsed_s']:.1f}s"
    if verb == "stop":
        return f"{model} is stopped; requests for it get 503 until muxctl start {model}"
    return f"{model} is {phase_name(state)}"
