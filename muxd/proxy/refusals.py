"""What those are told who wait in vain, or whose worker is taken from them."""

import logging
from math import ceil
from typing import Any

from muxd.errors import ModelNotFound, MuxdError, ShuttingDown

from .answers import BAD_GATEWAY, UNAVAILABLE, Refusal

log = logging.getLogger(__name__)

#: Reasons for which muxd revokes a lease that mean: its worker is gone.
WORKER_LOST = frozenset(("worker_exited", "worker_unresponsive"))


def unreachable(error: MuxdError) -> Refusal:
    """Why is for the log: clients need not know our paths."""
    log.warning("no model can be loaded: %s", error.message)
    message = "no model can be loaded now: muxd cannot be reached; it is being restarted, or takes a `muxd start`"
    return Refusal(UNAVAILABLE, error.code, message, retry_after=1)


def failed(message: dict[str, Any]) -> Refusal:
    error = message["error"]
    status = 404 if error["code"] == ModelNotFound.code else UNAVAILABLE
    param = "model" if status == 404 else None
    retry_after = message.get("retry_after_s")  # none where a retry is no use: stopped by an operator, can never fit
    if retry_after is None and error["code"] == ShuttingDown.code:
        retry_after = 5
    return Refusal(status, error["code"], error["message"], param=param, retry_after=retry_after)


def revoked(name: str, message: dict[str, Any]) -> Refusal:
    """What a request is told that was still in flight at the deadline."""
    reason, why = message["reason"], message.get("message") or ""
    if reason in WORKER_LOST:
        return Refusal(BAD_GATEWAY, reason, f"model {name}: {why or 'its worker is gone'}")
    code = "shutting_down" if reason == "shutdown" else "drain_timeout"
    message_ = f"model {name} was taken off the GPU before this request ended: {why or reason}"
    return Refusal(UNAVAILABLE, code, message_, retry_after=1)


def asleep(name: str, state: str) -> Refusal:
    """To a request that only reads of a model: that alone wakes none."""
    how = f"a request for text or embeddings to {name} wakes it, or `muxctl switch {name}`"
    if state == "stopped":
        how = f"it is stopped by an operator, and `muxctl start {name}` lets it run again"
    return Refusal(
        UNAVAILABLE, "model_asleep", f"model {name} is not awake ({state}), and reading does not wake it: {how}"
    )


def progress_text(news: dict[str, Any], eta: float | None) -> str:
    what = f"{news['phase']}" if news["type"] == "switching" else f"number {news['position']} in the queue"
    return what + (f", about {ceil(eta)} s to go" if eta else "")
