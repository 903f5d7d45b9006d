"""The errors for requests that wait in vain, or whose worker is lost or taken from them."""

import logging
from math import ceil

from muxd.errors import ModelNotFound, MuxdError, ShuttingDown
from muxd.protocol import WORKER_LOST, LeaseComing, LeaseFailed, LeaseProgress, LeaseRevoked, RevocationReason

from .answers import BAD_GATEWAY, UNAVAILABLE, Refusal

log = logging.getLogger(__name__)


def unreachable(error: MuxdError) -> Refusal:
    """Return the refusal for clients while muxd cannot be reached; log the cause, whose paths clients need not know."""
    log.warning("no model can be loaded: %s", error.message)
    message = "no model can be loaded now: muxd cannot be reached; it is being restarted, or takes a `muxd start`"
    return Refusal(UNAVAILABLE, error.code, message, retry_after=1)


def failed(message: LeaseFailed) -> Refusal:
    """Return the refusal for requests that wait for a model whose switch failed, from muxd's message."""
    error = message.error
    status = 404 if error.code == ModelNotFound.code else UNAVAILABLE
    param = "model" if status == 404 else None
    # muxd tells no time where a retry is no use: an operator stopped the model, or the model can never fit.
    retry_after = message.retry_after_s
    if retry_after is None and error.code == ShuttingDown.code:
        retry_after = 5
    return Refusal(status, error.code, error.message, param=param, retry_after=retry_after)


def revoked(name: str, message: LeaseRevoked) -> Refusal:
    """Return the refusal for a request that was still in flight when its lease was revoked and the deadline came."""
    reason, why = message.reason, message.message
    if reason in WORKER_LOST:
        return Refusal(BAD_GATEWAY, reason, f"model {name}: {why or 'its worker is gone'}")
    code = ShuttingDown.code if reason is RevocationReason.SHUTDOWN else "drain_timeout"
    message_ = f"model {name} was taken off the GPU before this request ended: {why or reason}"
    return Refusal(UNAVAILABLE, code, message_, retry_after=1)


def asleep(name: str, state: str) -> Refusal:
    """Return the refusal for a request that only reads from a model which is asleep: reading does not wake a model."""
    how = f"a request for text or embeddings to {name} wakes it, or `muxctl switch {name}`"
    if state == "stopped":
        how = f"it is stopped by an operator, and `muxctl start {name}` lets it run again"
    return Refusal(
        UNAVAILABLE, "model_asleep", f"model {name} is not awake ({state}), and reading does not wake it: {how}"
    )


def progress_text(progress: LeaseProgress, eta: float | None) -> str:
    """Return the phase or the place in the queue in a few words; `eta` in seconds."""
    what = progress.phase if isinstance(progress, LeaseComing) else f"number {progress.position} in the queue"
    return what + (f", about {ceil(eta)} s to go" if eta else "")
