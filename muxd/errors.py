"""What can go wrong, as one tree: a stable code, an HTTP status, and what to do next.

Errors are made where they happen and translated only at the borders: the control
socket and the proxy turn them into JSON, the command lines into one line on stderr.
This module imports nothing of muxd.
"""

from typing import Any, ClassVar


class MuxdError(Exception):
    """Something a user or an operator can act on.

    `message` says what happened, to what, and what to do next.  `details` is JSON-safe.
    """

    code: ClassVar[str] = "internal_error"
    status: ClassVar[int] = 500
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.details = details

    def as_json(self) -> dict[str, Any]:
        """The error as the control API sends it."""
        return {
            "error": {
                "code": self.code,
                "message": self.message,
                "retryable": self.retryable,
                "details": self.details,
            }
        }


class ConfigError(MuxdError):
    """The configuration cannot be used; `problems` names every fault, one line each."""

    code = "config_invalid"
    status = 400

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems), problems=problems)
        self.problems = problems


class BadRequest(MuxdError):
    code = "bad_request"
    status = 400


class PermissionDenied(MuxdError):
    code = "permission_denied"
    status = 403


class RouteNotFound(MuxdError):
    code = "route_not_found"
    status = 404


class ModelNotFound(MuxdError):
    code = "model_not_found"
    status = 404


class LeaseNotFound(MuxdError):
    code = "lease_not_found"
    status = 404


class MethodNotAllowed(MuxdError):
    code = "method_not_allowed"
    status = 405


class HeadTimeout(MuxdError):
    code = "request_timeout"
    status = 408


class Superseded(MuxdError):
    """A newer operator's switch took this one's place."""

    code = "superseded"
    status = 409


class AlreadyRunning(MuxdError):
    """Another muxd holds this control socket."""

    code = "already_running"
    status = 409


class BodyTooLarge(MuxdError):
    code = "body_too_large"
    status = 413


class HeadTooLarge(MuxdError):
    code = "head_too_large"
    status = 431


class Unavailable(MuxdError):
    """Not now, perhaps later: the base of every 503."""

    code = "unavailable"
    status = 503
    retryable = True


class ModelFailed(Unavailable):
    """The worker died too often, or cannot start at all."""

    code = "model_failed"


class WorkerStuck(Unavailable):
    """A process that SIGKILL did not end holds the GPU."""

    code = "worker_stuck"


class CannotSpawn(Unavailable):
    """The system lacks what it takes to start a process, or an earlier one of that name still runs."""

    code = "cannot_spawn"


class SwitchTimeout(Unavailable):
    """The model was not ready within the time a request may wait."""

    code = "switch_timeout"


class ShuttingDown(Unavailable):
    code = "shutting_down"


class TooManyConnections(Unavailable):
    code = "too_many_connections"


class Unreachable(Unavailable):
    """The control socket did not answer; the message lists what was tried."""

    code = "muxd_unreachable"


def error_of(code: str, message: str, unknown: type[MuxdError] = MuxdError) -> MuxdError:
    """An error of the class that has this code; of `unknown` where there is none."""
    return _by_code(MuxdError).get(code, unknown)(message)


def _by_code(root: type[MuxdError]) -> dict[str, type[MuxdError]]:
    found = {} if root is ConfigError else {root.code: root}  # ConfigError is made of a list of problems
    for child in root.__subclasses__():
        found |= _by_code(child)
    return found
