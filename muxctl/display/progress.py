"""Reports of an order's progress: as JSON, as a line for each phase, or (in `live`) on a terminal.

Each line from muxd is a step ("switching", "working") or the end ("ready", "done", "failed").
"""

import json
from typing import Any

from muxctl.display.tables import about

# Phases of the victims of a switch; every other phase is the model's own.
_LEAVING = ("draining", "falling_asleep", "stopping", "unresponsive")

# The state of a model once an order has been carried out, by verb; "ready" for the others.
_GOALS = {"stop": "stopped", "sleep": "asleep", "scale": "scaled"}

_AT_ONCE = 0.05  # seconds; no model starts or wakes in so short a time, so it was ready before

_PHASES = {"backoff": "waiting before its next start", "queued": "waiting for its turn"}


class Reporter:
    """Reports the progress of one order; a context manager, since some reporters must clean up."""

    def __init__(self, verb: str, replicas: int | None = None) -> None:
        self.verb = verb
        self.replicas = replicas  # that are to serve; None: the order is no scaling
        self.held_for: float | None = None  # seconds from the order on; None: without an end, or no hold
        self.has_begun = False  # muxd told of something that had to be done

    def __enter__(self) -> None:
        pass

    def __exit__(self, *exc: object) -> None:
        pass

    def take(self, line: dict[str, Any]) -> None:
        """Report one line of muxd's answer."""
        raise NotImplementedError

    def ending_text(self, line: dict[str, Any]) -> str:
        """Return how the order ended, and what that means for requests."""
        if self.held_for is not None and line["elapsed_s"] >= self.held_for:
            return (
                f"{line['model']} is ready, and held no more: its time was over before, as it counts from the order on"
            )
        if self.replicas is None:
            return ending_text(self.verb, line)
        model, state = line["model"], line.get("state", "ready")
        if state != "ready":
            return f"{model} is {phase_name(state)}, with no replica on a GPU; its next request brings it back"
        count = f"{self.replicas} replica{'s are' if self.replicas > 1 else ' is'} ready"
        return f"{model}: {count} " + (f"after {line['elapsed_s']:.1f}s" if self.has_begun else "already")


class JsonLines(Reporter):
    """Prints every line of muxd's answer as JSON."""

    def take(self, line: dict[str, Any]) -> None:
        print(json.dumps(line), flush=True)


class PhaseLines(Reporter):
    """Prints one line for each phase, for a pipe or a log file."""

    def __init__(self, verb: str, replicas: int | None = None) -> None:
        super().__init__(verb, replicas)
        self._phase = ""

    def take(self, line: dict[str, Any]) -> None:
        if is_success(line):
            print(self.ending_text(line), flush=True)
        elif is_step(line) and (phase := phase_text(line)) != self._phase:
            self._phase, self.has_begun = phase, True
            print(phase + eta_text(self.verb, line), flush=True)


def is_step(line: dict[str, Any]) -> bool:
    return line["type"] in ("switching", "working")


def is_success(line: dict[str, Any]) -> bool:
    return line["type"] in ("ready", "done")


def goal(verb: str) -> str:
    """Return what an order leads to: "ready", "stopped", "asleep" or "scaled"."""
    return _GOALS.get(verb, "ready")


def phase_text(line: dict[str, Any]) -> str:
    """Return the phase with its subject: "mistral is draining", "qwen is waking", "qwen: 1 of 2 replicas ready"."""
    if (replicas := line.get("replicas")) is not None:
        states = {"ready": "waits for its router"}
        moving = [f"{name} {states.get(state, f'is {phase_name(state)}')}" for name, state in line["workers"].items()]
        count = f"{line['model']}: {replicas['ready']} of {replicas['wanted']} replicas ready"
        return ", ".join([count, *moving])
    leaving = line.get("from") if line["phase"] in _LEAVING else None
    who = " and ".join(leaving) if leaving else line["model"]
    return f"{who} {'are' if leaving and len(leaving) > 1 else 'is'} {phase_name(line['phase'])}"


def phase_name(phase: str) -> str:
    return _PHASES.get(phase, phase.replace("_", " "))


def eta_text(verb: str, line: dict[str, Any]) -> str:
    """Return ", ready in about 20s" or the like; "" if the time is unknown or below a second."""
    eta = line.get("eta_s")
    return f", {goal(verb)} in {about(eta)}" if eta is not None and eta >= 1 else ""


def ending_text(verb: str, line: dict[str, Any]) -> str:
    """Return how the order ended, and what that means for requests."""
    model, state = line["model"], line.get("state", "ready")
    if verb == "hold":
        return f"{model} is ready, and held; muxctl unhold {model} lets it go"
    if state == "ready" and line["elapsed_s"] < _AT_ONCE:
        return f"{model} is ready already"
    if state == "ready":
        return f"{model} is ready after {line['elapsed_s']:.1f}s"
    if verb == "stop":
        return f"{model} is stopped; requests for it get 503 until muxctl start {model}"
    return f"{model} is {phase_name(state)}"
