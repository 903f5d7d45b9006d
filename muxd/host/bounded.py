"""A time limit for probes that may hang: on a disk, a name server or a driver."""

from collections.abc import Callable
from threading import Thread
from typing import TypeVar

Result = TypeVar("Result")

#: Seconds for one probe.
PATIENCE = 10.0


class NoAnswer(Exception):
    """The probe hangs, or failed; the text says which."""


def within(probe: Callable[[], Result], seconds: float = PATIENCE) -> Result:
    """Return the probe's result.  Raises NoAnswer after `seconds`, and in place of any error of the probe.

    No fault of a machine may end a report.
    """
    results: list[Result] = []
    errors: list[Exception] = []

    def ask() -> None:
        try:
            results.append(probe())
        except Exception as error:  # drivers and disks may raise anything
            errors.append(error)

    thread = Thread(target=ask, name="probe", daemon=True)  # a thread that hangs does not keep the process from its end
    try:
        thread.start()
    except RuntimeError:
        raise NoAnswer("this user may start no further thread (ulimit -u, pids.max): end some processes") from None
    thread.join(seconds)
    if results:
        return results[0]
    if errors:
        error = errors[0]
        raise NoAnswer((error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__)
    raise NoAnswer(f"no answer in {seconds:.0f} s")
