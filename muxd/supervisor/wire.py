"""What clients are told: proxies in the messages of their session, operators in JSON-ready lines."""

from typing import Any

from muxd.core.commands import (
    EndLease,
    FailLease,
    FailOrder,
    FailSwitch,
    FinishOrder,
    FinishSwitch,
    GrantLease,
    RestoreLease,
    RevokeLease,
)
from muxd.core.events import Waiting
from muxd.core.progress import Progress
from muxd.errors import MuxdError, error_of
from muxd.protocol import (
    LeaseComing,
    LeaseFailed,
    LeaseGranted,
    LeaseMessage,
    LeaseOver,
    LeaseProgress,
    LeaseQueued,
    LeaseRestored,
    LeaseRevoked,
    RevocationReason,
    ToldError,
    WaitingRequests,
    seconds,
)

Line = dict[str, Any]

#: Commands of which the holder of a lease is told.
LeaseCommand = GrantLease | RevokeLease | RestoreLease | FailLease | EndLease

#: Commands that end what an operator waits for.
OrderEnd = FinishSwitch | FailSwitch | FinishOrder | FailOrder


def waiting_of(told: tuple[WaitingRequests, ...]) -> tuple[Waiting, ...]:
    """Return what a proxy says of its waiting requests as the core takes it."""
    return tuple([Waiting(entry.count, entry.oldest_s, entry.key, entry.priority, entry.batch) for entry in told])


def lease_message(command: LeaseCommand, lease: int, now: float, places: tuple[int | None, int]) -> LeaseMessage:
    """Return what the holder of a lease, which has the number `lease` in its session, is told of a command.

    `places`: of a grant, how many requests of the holder may be at the worker at once, None for no limit, and the
    number of the deal.
    """
    match command:
        case GrantLease(_, url, generation):
            return LeaseGranted(lease, url, generation, *places)
        case RevokeLease(_, reason, message, deadline):
            return LeaseRevoked(lease, RevocationReason(reason), message, seconds(max(0.0, deadline - now)))
        case RestoreLease():
            return LeaseRestored(lease)
        case FailLease(_, code, message, retry_after):
            return LeaseFailed(lease, told_error(error_of(code, message)), retry_after)
        case EndLease():
            return LeaseOver(lease)


def told_error(error: MuxdError) -> ToldError:
    return ToldError(error.code, error.message, error.retryable, error.details)


def progress_message(lease: int, progress: Progress) -> LeaseProgress:
    if progress.phase == "queued":
        return LeaseQueued(lease, progress.position, seconds(progress.eta))
    return LeaseComing(lease, progress.phase, progress.victims, seconds(progress.eta))


def end_line(command: OrderEnd) -> Line:
    """Return the last line to the operator who gave an order, as far as the command tells it."""
    match command:
        case FinishSwitch(_, url):
            return {"type": "ready", "url": url}
        case FinishOrder(_, state):
            return {"type": "done", "state": state}
        case FailSwitch(_, code, message) | FailOrder(_, code, message):
            return {"type": "failed", **error_of(code, message).as_json()}


def order_line(model: str, progress: Progress) -> Line:
    cycle = {"level": progress.cycle.level, "cycle": progress.cycle.number} if progress.cycle is not None else {}
    scaling: Line = {}
    if (told := progress.scaling) is not None:
        scaling = {"replicas": {"ready": told.ready, "wanted": told.wanted}, "workers": dict(told.moving)}
    return switch_line(model, progress) | {"type": "working"} | cycle | scaling


def switch_line(model: str, progress: Progress) -> Line:
    return {
        "type": "switching",
        "model": model,
        "phase": progress.phase,
        "from": list(progress.victims),
        "elapsed_s": seconds(progress.elapsed),
        "eta_s": seconds(progress.eta),
    }
