"""How muxctl ends: one exit code per kind of outcome, and the error that carries it."""

from enum import IntEnum
from typing import Any

from muxctl.display.tables import plain


class Exit(IntEnum):
    OK = 0
    FAILED = 1
    USAGE = 2  # or a configuration that cannot be used
    NOT_READY = 3  # the model is known, but not ready, and may not become so
    NO_MODEL = 4
    PERMISSION = 5
    UNREACHABLE = 7  # no muxd answers
    TIMED_OUT = 8
    SUPERSEDED = 9  # a newer order took this one's place
    INTERRUPTED = 130  # ^C, as shells count it
    BROKEN_PIPE = 141


MEANINGS = {
    Exit.OK: "ok",
    Exit.FAILED: "failed",
    Exit.USAGE: "usage or configuration",
    Exit.NOT_READY: "known but not ready",
    Exit.NO_MODEL: "no such model",
    Exit.PERMISSION: "no permission",
    Exit.UNREACHABLE: "muxd unreachable",
    Exit.TIMED_OUT: "timed out",
    Exit.SUPERSEDED: "superseded by a newer order",
    Exit.INTERRUPTED: "interrupted",
}

# Those that every verb may end with.
EVERYWHERE = {code: MEANINGS[code] for code in (Exit.OK, Exit.FAILED, Exit.USAGE, Exit.PERMISSION, Exit.UNREACHABLE)}

BY_CODE = {
    "bad_request": Exit.USAGE,
    "config_invalid": Exit.USAGE,
    "model_not_found": Exit.NO_MODEL,
    "permission_denied": Exit.PERMISSION,
    "muxd_unreachable": Exit.UNREACHABLE,
    "no_room": Exit.NOT_READY,
    "model_stopped": Exit.NOT_READY,
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
    """The failure that an error of the control API stands for, with what its details show.

    That is the end of a model's log, or each problem of a configuration.
    """
    error = answer.get("error") if isinstance(answer, dict) else None
    if not isinstance(error, dict):
        return Failure("muxd refused without saying why")
    message = str(error.get("message") or error.get("code") or "muxd refused without saying why")
    details = error.get("details")
    details = details if isinstance(details, dict) else {}
    tail, problems = details.get("log_tail"), details.get("problems")
    lines = [f"  | {line}" for line in tail] if isinstance(tail, list) else []
    if isinstance(problems, list) and problems:
        message, lines = _unusable(len(problems)), [f"  {problem}" for problem in problems]
    return Failure(
        "\n".join(map(plain, [*message.splitlines(), *lines])), BY_CODE.get(str(error.get("code")), Exit.FAILED)
    )


def _unusable(problems: int) -> str:
    return f"the configuration has {'a problem' if problems == 1 else f'{problems} problems'}; nothing was changed:"
