"""How muxctl ends: one exit code per kind of outcome, and the error that carries it."""

from enum import IntEnum
from typing import Any


class Exit(IntEnum):
    OK = 0
    FAILED = 1
    USAGE = 2  # or a configuration that cannot be used
    NOT_READY = 3  # the model is known, but not ready
    NO_MODEL = 4
    PERMISSION = 5
    UNREACHABLE = 7  # no muxd answers
    TIMED_OUT = 8
    SUPERSEDED = 9  # a newer switch took this one's place
    INTERRUPTED = 130  # ^C, as shells count it
    BROKEN_PIPE = 141


BY_CODE = {
    "bad_request": Exit.USAGE,
    "config_invalid": Exit.USAGE,
    "model_not_found": Exit.NO_MODEL,
    "permission_denied": Exit.PERMISSION,
    "muxd_unreachable": Exit.UNREACHABLE,
    "switch_timeout": Exit.TIMED_OUT,
    "superseded": Exit.SUPERSEDED,
}


class Failure(Exception):
    """The end of a command: what to say on stderr, and the exit code."""

    def __init__(self, message: str, code: Exit = Exit.FAILED) -> None:
        super().__init__(message)
        self.message = message
        self.code = code


def refusal(answer: Any) -> Failure:
    """The failure that an error of the control API stands for, with the end of the model's log where it is told."""
    error = answer.get("error") if isinstance(answer, dict) else None
    if not isinstance(error, dict):
        return Failure("muxd refused without saying why")
    message = str(error.get("message") or error.get("code") or "muxd refused without saying why")
    details = error.get("details")
    tail = details.get("log_tail") if isinstance(details, dict) else None
    lines = [f"  | {line}" for line in tail] if isinstance(tail, list) else []
    return Failure("\n".join([message, *lines]), BY_CODE.get(str(error.get("code")), Exit.FAILED))
