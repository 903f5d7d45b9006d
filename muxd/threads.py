"""Work that may take long, beside muxd's one loop; in it where the machine has no thread left."""

from collections.abc import Callable
from typing import TypeVar

import trio

T = TypeVar("T")


async def in_thread(
    work: Callable[[], T], *, abandon_on_cancel: bool = False, limiter: trio.CapacityLimiter | None = None
) -> T:
    """What it returns or raises.

    At the limit on processes and threads (ulimit -u, TasksMax) none can be started: everybody waits meanwhile then,
    which is better than that muxd ends.
    """
    began = False

    def run() -> T:
        nonlocal began
        began = True
        return work()

    try:
        return await trio.to_thread.run_sync(run, abandon_on_cancel=abandon_on_cancel, limiter=limiter)
    except RuntimeError:
        if began:
            raise
        return work()
