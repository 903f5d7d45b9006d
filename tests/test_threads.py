"""Work in a thread: what becomes of it, and what does not become of everybody else."""

import threading
import time
from functools import partial

import pytest
import trio

from muxd.proxy.sockets.event_loop import run_with_trio_guest
from muxd.proxy.sockets.reactor import Reactor
from muxd.threads import in_thread


def refuse(_: object) -> None:
    raise RuntimeError("can't start new thread")


def test_the_proxys_loop_lives_while_no_thread_can_be_started(monkeypatch):
    """It needs one itself whenever it waits, and must not have lent it."""

    async def main(_: Reactor) -> str:
        await trio.sleep(0.01)
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refuse)
            await in_thread(partial(time.sleep, 0.05))  # longer than the loop takes to wait again
            await trio.sleep(0.01)
        return "lives"

    assert run_with_trio_guest(main) == "lives"


async def test_who_is_cancelled_waits_for_the_work_unless_it_may_be_left_alone():
    go, done = threading.Event(), []

    def work() -> None:
        go.wait()
        done.append(1)

    with trio.move_on_after(0.01):
        await in_thread(work, abandon_on_cancel=True)
    assert not done
    with trio.CancelScope() as scope:
        scope.cancel()
        go.set()
        await in_thread(lambda: done.append(2), limiter=trio.CapacityLimiter(1))
    assert scope.cancelled_caught  # it had not begun


async def test_a_limiter_is_held_by_work_that_was_left_alone():
    go, room = threading.Event(), trio.CapacityLimiter(1)
    with trio.move_on_after(0.01):
        await in_thread(go.wait, abandon_on_cancel=True, limiter=room)
    assert room.borrowed_tokens == 1
    go.set()
    assert await in_thread(lambda: 5, limiter=room) == 5
    assert room.borrowed_tokens == 0


async def test_what_it_raises_is_raised():
    def fail() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await in_thread(fail)
