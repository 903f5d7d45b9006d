"""A probe that may hang, on a disk, a name server or a driver, is given up after a while."""

from collections.abc import Callable
from threading import Thread
from typing import TypeVar

Told = TypeVar("Told")

#: Seconds for one probe.
PATIENCE = 10.0


class NoAnswer(Exception):
    """The probe hangs, or failed; the text says which."""


def within(probe: Callable[[], Told], seconds: float = PATIENCE) -> Told:
    """What it tells.  Raises NoAnswer, also in place of what it raises: nothing on a machine may end a report."""
    told: list[Told] = []
    failed: list[Exception] = []

    def ask() -> None:
        try:
            told.append(probe())
        except Exception as error:  # whatever a driver or a disk comes up with
            failed.append(error)

    thread = Thread(target=ask, name="probe", daemon=True)  # one that hangs does not keep the process
    try:
        thread.start()
    except RuntimeError:
        raise NoAnswer("this user may start no further thread (ulimit -u, pids.max): end some processes") from None
    thread.join(seconds)
    if told:
        return told[0]
    if failed:
        error = failed[0]
        raise NoAnswer((error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__)
    raise NoAnswer(f"no answer in {seconds:.0f} s")
