"""All errors of muxd as one tree: each has a stable code, an HTTP status, and says what to do next.

Errors are raised where they happen and translated only at the borders: the control
socket and the proxy turn an error into JSON, the command lines into one line on stderr.
This module imports no other module of muxd.
"""

import errno
import os
from typing import Any, ClassVar

#: Errors of a system call where descriptors or memory are short: they say nothing of who is at the other end.
EXHAUSTED = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))


class MuxdError(Exception):
    """An error that a user or an operator can act on.

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
        """Return the error as the control API sends it."""
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


class TlsNotSupported(BadRequest):
    """A client speaks TLS to a port of plain HTTP; such a client cannot read the answer, so the code is for the log."""

    code = "tls_not_supported"


class PermissionDenied(MuxdError):
    code = "permission_denied"
    status = 403


class LinkUsed(MuxdError):
    """A one-time link to the console is unknown, used or too old."""

    code = "link_used"
    status = 403


class RouteNotFound(MuxdError):
    code = "route_not_found"
    status = 404


class RequestNotFound(MuxdError):
    code = "request_not_found"
    status = 404


class ModelNotFound(MuxdError):
    code = "model_not_found"
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


class NeedsRestart(MuxdError):
    """A running muxd cannot take this change of the configuration over; nothing was changed."""

    code = "needs_restart"
    status = 409


class ProtocolMismatch(MuxdError):
    """A proxy and muxd speak different versions of the session's protocol: one of them is of another installation."""

    code = "protocol_mismatch"
    status = 409


class NoRoom(MuxdError):
    """A start evicts nobody, and the model's GPUs are taken."""

    code = "no_room"
    status = 409


class ScaleRefused(MuxdError):
    """A model cannot have so many replicas: it has none, or its configuration sets other bounds."""

    code = "scale_refused"
    status = 409


class LevelRefused(MuxdError):
    """A worker cannot be put to sleep at this level: its process cannot, or it sleeps deeper already."""

    code = "level_refused"
    status = 409


class HandoverRefused(MuxdError):
    """muxd cannot leave its workers to the next muxd now; nothing was changed."""

    code = "handover_refused"
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
    """The base of every 503: the request may succeed later."""

    code = "unavailable"
    status = 503
    retryable = True


class ModelFailed(Unavailable):
    """The worker died too often, or cannot start at all."""

    code = "model_failed"


# Why a model failed, where it is known: `muxd.engines.diagnosis` recognises them.


class BadFlag(ModelFailed):
    """The engine does not take a flag, or its value, that the model's args or launch script give it."""

    code = "bad_flag"


class ModelPathMissing(ModelFailed):
    """`model_path` names nothing that exists here."""

    code = "model_path_missing"


class ModelIncomplete(ModelFailed):
    """The model's folder is there, but lacks its config.json or its weights, or one of them is damaged."""

    code = "model_incomplete"


class ModelDownloadFailed(ModelFailed):
    """The model cannot be had from the Hub: no such model, no access to it, or no connection."""

    code = "model_download_failed"


class UnsupportedModel(ModelFailed):
    """This engine cannot run such a model, or only with code that comes with the model."""

    code = "unsupported_model"


class ContextTooLong(ModelFailed):
    """The context asked for is longer than the model or its KV cache allows."""

    code = "context_too_long"


class OutOfGpuMemory(ModelFailed):
    """The GPU has less free memory than the model needs."""

    code = "out_of_memory"


class ModelTooLarge(ModelFailed):
    """The model needs more memory than its GPUs have in all: no wait and no eviction makes room for it."""

    code = "model_too_large"
    retryable = False


class GpuMemoryTaken(Unavailable):
    """Processes that are not muxd's hold so much of a GPU that the model does not fit, whoever else leaves."""

    code = "gpu_memory_taken"


class PinnedInTheWay(Unavailable):
    """A pinned model has GPUs that this one needs, and leaves them for an operator's order only."""

    code = "pinned_in_the_way"
    retryable = False


class ModelInUse(Unavailable):
    """A model that was used lately has GPUs that this one needs, and is not to leave them so soon (`evict`)."""

    code = "model_in_use"


class NotHeld(MuxdError):
    """The operator lets a model go that no operator holds."""

    code = "not_held"
    status = 409


class GpuLent(Unavailable):
    """The GPUs of the model are lent to something that is none of muxd's, or given up for a while."""

    code = "gpu_lent"


class GpuAwaited(MuxdError):
    """A GPU is to be lent for as long as nobody wants it, and a request waits for it."""

    code = "gpu_awaited"
    status = 409


class LoanNotFound(MuxdError):
    """There is no such loan of a GPU."""

    code = "loan_not_found"
    status = 404


class GpuMissing(ModelFailed):
    """The model is given a GPU that this machine does not have."""

    code = "gpu_missing"
    retryable = False


class OutOfHostMemory(ModelFailed):
    """The host has less free memory than the model needs."""

    code = "host_out_of_memory"


class DiskFull(ModelFailed):
    """A disk, or shared memory, on which the engine writes is full."""

    code = "disk_full"


class AccessDenied(ModelFailed):
    """muxd's user may not read or execute a file that the model needs."""

    code = "access_denied"


class EngineMissing(ModelFailed):
    """The engine, or a part of it, is not installed where the model looks for it."""

    code = "engine_missing"


class RemoteSilent(ModelFailed):
    """None of a model's servers on other hosts answers."""

    code = "remote_silent"


class EngineTooOld(ModelFailed):
    """The engine lacks what muxd, or the model's sleep level, needs of it."""

    code = "engine_too_old"


class EngineLocked(ModelFailed):
    """The engine does not take muxd's key for its control routes."""

    code = "engine_locked"


class WrongPort(ModelFailed):
    """The model's server listens on another port than the one that muxd waits for."""

    code = "wrong_port"


class ScriptChanged(ModelFailed):
    """A launch script is another one than muxd has read."""

    code = "script_changed"


class ScriptEnded(ModelFailed):
    """A launch script ended, though not by an error, and left no server that muxd could follow."""

    code = "script_ended"


class ScriptUnusable(ModelFailed):
    """A launch script does not start exactly one SGLang server, but two, a server of another kind, or none."""

    code = "script_unusable"


class WrongGpus(ModelFailed):
    """The model's server uses GPUs that were not set aside for it: muxd ends it, and starts it again on those."""

    code = "wrong_gpus"


class EngineError(ModelFailed):
    """The engine ended with an error that muxd does not know; the message quotes it."""

    code = "engine_error"


class CudaUnavailable(ModelFailed):
    """The engine finds no GPU that it can use: no driver, one too old, or another CUDA than it was built for."""

    code = "cuda_unavailable"


class ReloadRefused(ModelFailed):
    """The engine cannot read its weights again after a sleep at level 2."""

    code = "reload_refused"


class MemoryNotReleased(ModelFailed):
    """The engine said that it sleeps, but its GPU memory did not become free."""

    code = "memory_not_released"


class WokeWrong(ModelFailed):
    """After a wake the model answered otherwise than when it was loaded; it is started from nothing."""

    code = "woke_wrong"


class StartTimeout(ModelFailed):
    """The model was not ready within start_timeout."""

    code = "start_timeout"


class ModelStopped(Unavailable):
    """An operator stopped the model, and has not started it since."""

    code = "model_stopped"


class ModelStuck(Unavailable):
    """A process that SIGKILL did not end holds the GPU."""

    code = "worker_stuck"


class CannotSpawn(Unavailable):
    """The system cannot start another process, or an earlier process of that name still runs."""

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


def in_words(error: Exception) -> str:
    """Return an OSError's file names and reason, without its number, and the text of any other error."""
    if not isinstance(error, OSError):
        return str(error)
    names = [os.fsdecode(name) for name in (error.filename, error.filename2) if isinstance(name, str | bytes)]
    return ": ".join([*([" -> ".join(names)] if names else []), (error.strerror or str(error)).lower()])


def error_of(code: str, message: str, unknown: type[MuxdError] = MuxdError) -> MuxdError:
    """Return an error of the class that has this code, or of `unknown` where no class has it."""
    return _by_code(MuxdError).get(code, unknown)(message)


def _by_code(root: type[MuxdError]) -> dict[str, type[MuxdError]]:
    found = {} if root is ConfigError else {root.code: root}  # ConfigError takes a list of problems, not a message
    for child in root.__subclasses__():
        found |= _by_code(child)
    return found
