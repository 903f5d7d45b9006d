"""Threads for work that would block the trio loop; where no thread can be started, the loop does the work."""

from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from threading import Thread
from typing import TypeVar

import outcome
import trio

T = TypeVar("T")


class NoThread(RuntimeError):
    """No thread can be started: the limit on processes and threads is reached (ulimit -u, TasksMax)."""


async def in_thread(
    work: Callable[[], T], *, abandon_on_cancel: bool = False, limiter: trio.CapacityLimiter | None = None
) -> T:
    """Call `work` in a thread, and return what it returns or raise what it raises.

    Where no thread can be started, `work` is called here: the loop is blocked meanwhile, but muxd does not end.
    """
    try:
        return await in_new_thread(work, abandon_on_cancel=abandon_on_cancel, limiter=limiter)
    except NoThread:
        return work()


async def in_new_thread(
    work: Callable[[], T], *, abandon_on_cancel: bool = False, limiter: trio.CapacityLimiter | None = None
) -> T:
    """Call `work` in a new thread, and return what it returns or raise what it raises; raises NoThread before that.

    trio's own pool of threads is not used.  The proxy runs trio in guest mode, which needs a thread of that pool for
    its loop: if `work` had that thread and no other could be started, the proxy would end.
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


class KeptThread:
    """A thread that is kept for one kind of work, so that nobody waits until a thread has started.

    Where none can be started, the loop does the work.
    """

    def __init__(self) -> None:
        self._work = SimpleQueue[tuple[Callable[[], None], Callable[[], None]] | None]()
        self._is_started = False

    def begin(self, work: Callable[[], None], then: Callable[[], None]) -> None:
        """Have `work` called in the thread, after what was begun before, and then `then` in trio's loop.

        What `work` raises is raised in the loop.
        """
        token = trio.lowlevel.current_trio_token()
        try:
            if not self._is_started:
                Thread(target=self._run, args=(token,), daemon=True).start()
            self._is_started = True
        except RuntimeError:
            work()
            then()
        else:
            self._work.put((work, then))

    def end(self) -> None:
        """Let the thread end once all that was begun is done."""
        self._work.put(None)
        self._is_started = False

    def _run(self, token: trio.lowlevel.TrioToken) -> None:
        while (each := self._work.get()) is not None:
            work, then = each
            ended = outcome.capture(work)
            with suppress(trio.RunFinishedError):
                token.run_sync_soon(_follow, ended, then)


def _follow(ended: outcome.Outcome[None], then: Callable[[], None]) -> None:
    ended.unwrap()
    then()
