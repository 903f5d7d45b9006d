"""Work that may take long, beside a process's one loop; in it where the machine has no thread left."""

from collections.abc import Callable
from contextlib import suppress
from threading import Thread
from typing import TypeVar

import outcome
import trio

T = TypeVar("T")


class NoThread(RuntimeError):
    """None can be started: the limit on processes and threads is reached (ulimit -u, TasksMax)."""


async def in_thread(
    work: Callable[[], T], *, abandon_on_cancel: bool = False, limiter: trio.CapacityLimiter | None = None
) -> T:
    """What it returns or raises.

    Where no thread can be started everybody waits meanwhile, which is better than that muxd ends.
    """
    try:
        return await in_new_thread(work, abandon_on_cancel=abandon_on_cancel, limiter=limiter)
    except NoThread:
        return work()


async def in_new_thread(
    work: Callable[[], T], *, abandon_on_cancel: bool = False, limiter: trio.CapacityLimiter | None = None
) -> T:
    """What it returns or raises, or NoThread before it began.

    Not one of the threads that trio keeps: the proxy's loop, trio's guest mode, waits in one of these, and ends where
    it is lent and no other can be started.
    """
    room = limiter if limiter is not None else trio.to_thread.current_default_thread_limiter()
    token, ended, done = trio.lowlevel.current_trio_token(), list[outcome.Outcome[T]](), trio.Event()

    def finish() -> None:
        room.release_on_behalf_of(done)
        done.set()

    def run() -> None:
        ended.append(outcome.capture(work))
        with suppress(trio.RunFinishedError):
            token.run_sync_soon(finish)

    await room.acquire_on_behalf_of(done)
    try:
        Thread(target=run, daemon=True).start()
    except RuntimeError as error:
        room.release_on_behalf_of(done)
        raise NoThread(str(error)) from None
    with trio.CancelScope(shield=not abandon_on_cancel):
        await done.wait()
    return ended[0].unwrap()
