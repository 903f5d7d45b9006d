"""The lines that clients are told, as JSON-ready values: of their lease, their switch, their order."""

from muxd.core.commands import (
    AnswerUnload,
    FailLease,
    FailOrder,
    FailSwitch,
    FinishOrder,
    FinishSwitch,
    GrantLease,
    RestoreLease,
    RevokeLease,
)
from muxd.core.progress import Progress
from muxd.errors import error_of
from muxd.lease_streams import LeaseStream, Line, seconds

#: Commands of which the holder of a lease is told.
LeaseCommand = GrantLease | RevokeLease | RestoreLease | FailLease

#: Commands that end what an operator or a client waits for.
OrderEnd = FinishSwitch | FailSwitch | FinishOrder | FailOrder | AnswerUnload


def holder_line(command: LeaseCommand, model: str, now: float) -> Line:
    """Return what the holder of a lease on `model` is told of a command."""
    about: Line = {"lease": str(command.lease), "model": model}
    match command:
        case GrantLease(_, url, generation):
            return {"type": "granted", **about, "url": url, "generation": generation}
        case RevokeLease(_, reason, message, deadline):
            left = seconds(max(0.0, deadline - now))
            return {"type": "revoked", **about, "reason": reason, "message": message, "deadline_s": left}
        case RestoreLease():
            return {"type": "restored", **about}
        case FailLease(_, code, message, retry_after):
            return {"type": "failed", **about, **error_of(code, message).as_json(), "retry_after_s": retry_after}


def end_line(command: OrderEnd) -> Line:
    """Return the last line to the operator or client who gave an order, as far as the command tells it."""
    match command:
        case FinishSwitch(_, url):
            return {"type": "ready", "url": url}
        case FinishOrder(_, state):
            return {"type": "done", "state": state}
        case FailSwitch(_, code, message) | FailOrder(_, code, message):
            return {"type": "failed", **error_of(code, message).as_json()}
        case AnswerUnload(_, reason):
            return {"sleeps": not reason, "reason": reason or None}


def lease_line(stream: LeaseStream, progress: Progress) -> Line:
    line: Line = {
        "type": "queued" if progress.phase == "queued" else "switching",
        "lease": str(stream.number),
        "model": stream.worker,
        "eta_s": seconds(progress.eta),
    }
    if progress.phase == "queued":
        return line | {"position": progress.position}
    return line | {"phase": progress.phase, "from": list(progress.victims)}


def order_line(stream: LeaseStream, progress: Progress) -> Line:
    cycle = {"level": progress.cycle.level, "cycle": progress.cycle.number} if progress.cycle is not None else {}
    return switch_line(stream, progress) | {"type": "working"} | cycle


def switch_line(stream: LeaseStream, progress: Progress) -> Line:
    return {
        "type": "switching",
        "model": stream.worker,
        "phase": progress.phase,
        "from": list(progress.victims),
        "elapsed_s": seconds(progress.elapsed),
        "eta_s": seconds(progress.eta),
    }
