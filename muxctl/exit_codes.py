"""Exit codes of muxctl, one per kind of outcome, and the error that carries one."""

from enum import IntEnum
from typing import Any

from muxctl.display.tables import plain


class ExitCode(IntEnum):
    OK = 0
    FAILED = 1
    USAGE = 2  # or a configuration that cannot be used
    NOT_READY = 3  # the model is known, but not ready, and may never be
    NO_MODEL = 4
    PERMISSION = 5
    UNREACHABLE = 7  # no muxd answers
    TIMED_OUT = 8
    SUPERSEDED = 9  # a newer order took the place of this one
    INTERRUPTED = 130  # ^C, as shells count it
    BROKEN_PIPE = 141


MEANINGS = {
    ExitCode.OK: "ok",
    ExitCode.FAILED: "failed",
    ExitCode.USAGE: "usage or configuration",
    ExitCode.NOT_READY: "known but not ready",
    ExitCode.NO_MODEL: "no such model",
    ExitCode.PERMISSION: "no permission",
    ExitCode.UNREACHABLE: "muxd unreachable",
    ExitCode.TIMED_OUT: "timed out",
    ExitCode.SUPERSEDED: "superseded by a newer order",
    ExitCode.INTERRUPTED: "interrupted",
}

# The codes that every verb may end with.
EVERYWHERE = {
    code: MEANINGS[code]
    for code in (ExitCode.OK, ExitCode.FAILED, ExitCode.USAGE, ExitCode.PERMISSION, ExitCode.UNREACHABLE)
}

BY_CODE = {
    "bad_request": ExitCode.USAGE,
    "config_invalid": ExitCode.USAGE,
    "model_not_found": ExitCode.NO_MODEL,
    "request_not_found": ExitCode.NO_MODEL,
    "permission_denied": ExitCode.PERMISSION,
    "muxd_unreachable": ExitCode.UNREACHABLE,
    "no_room": ExitCode.NOT_READY,
    "pinned_in_the_way": ExitCode.NOT_READY,
    "model_in_use": ExitCode.NOT_READY,
    "gpu_lent": ExitCode.NOT_READY,
    "gpu_awaited": ExitCode.NOT_READY,
    "loan_not_found": ExitCode.NOT_READY,
    "not_held": ExitCode.NOT_READY,
    "level_refused": ExitCode.USAGE,
    "scale_refused": ExitCode.USAGE,
    "model_stopped": ExitCode.NOT_READY,
    "switch_timeout": ExitCode.TIMED_OUT,
    "superseded": ExitCode.SUPERSEDED,
}


class CommandFailed(Exception):
    """A command failed: the message for stderr, and the exit code."""

    def __init__(self, message: str, code: ExitCode = ExitCode.FAILED) -> None:
        super().__init__(message)
        self.message = message
        self.code = code


def refusal(answer: Any) -> CommandFailed:
    """Return the failure for an error of the control API.

    Its message ends with the details of the error: the end of a model's log, or each problem of a configuration.
    """
    error = answer.get("error") if isinstance(answer, dict) else None
    if not isinstance(error, dict):
        return CommandFailed("muxd refused without saying why")
    message = str(error.get("message") or error.get("code") or "muxd refused without saying why")
    details = error.get("details")
    details = details if isinstance(details, dict) else {}
    tail, problems = details.get("log_tail"), details.get("problems")
    lines = [f"  | {line}" for line in tail] if isinstance(tail, list) else []
    if isinstance(problems, list) and problems:
        message, lines = _unusable(len(problems)), [f"  {problem}" for problem in problems]
    return CommandFailed(
        "\n".join(map(plain, [*message.splitlines(), *lines])), BY_CODE.get(str(error.get("code")), ExitCode.FAILED)
    )


def _unusable(problems: int) -> str:
    return f"the configuration has {'a problem' if problems == 1 else f'{problems} problems'}; nothing was changed:"
