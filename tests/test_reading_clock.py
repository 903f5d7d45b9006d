"""Sockets are read between trio's tasks as they would be by one: everything in order, to the end, and no task waits.

Each test runs on trio's own clock, too, where a task reads.
"""

import os
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio

from muxd import reading_clock
from muxd.reading_clock import ReadingClock, Take, read_all

CLOCKS = {"between tasks": ReadingClock, "by a task": lambda: None}

Main = Callable[[], Awaitable[None]]


@pytest.fixture(params=CLOCKS)
def run(request) -> Callable[[Main], None]:
    def run_to_its_end(main: Main) -> None:
        async def in_time() -> None:
            with trio.fail_after(20):
                await main()

        trio.run(in_time, clock=CLOCKS[request.param]())

    return run_to_its_end


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    here, there = socket.socketpair()
    here.setblocking(False)
    with here, there:
        yield here, there


def kept(parts: list[bytes], *, is_done: bool = True) -> Take:
    def take(data: bytes) -> bool:
        parts.append(data)
        return is_done

    return take


@asynccontextmanager
async def reading(here: socket.socket, take: Take) -> AsyncIterator[None]:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(read_all, here.fileno(), take)
        await trio.sleep(0.01)
        yield
        nursery.cancel_scope.cancel()


def test_all_that_arrives_is_taken_in_order_until_the_other_end_closes(run, pair):
    here, there = pair
    parts: list[bytes] = []

    async def tell() -> None:
        for number in range(100):
            there.send(b"%d " % number)
            await trio.sleep(0.001 if number % 7 == 0 else 0)
        there.close()

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(tell)
            await read_all(here.fileno(), kept(parts))

    run(main)
    assert b"".join(parts).split() == [b"%d" % number for number in range(100)]


def test_what_arrived_before_and_an_end_with_an_error_are_seen(run, pair):
    here, there = pair
    parts: list[bytes] = []
    here.send(b"never read")
    there.send(b"told")
    there.close()  # the kernel says ECONNRESET
    run(partial(read_all, here.fileno(), kept(parts)))
    assert parts in ([b"told"], [])


def test_an_error_of_what_takes_it_is_raised_and_nothing_more_is_taken(run, pair):
    here, there = pair
    parts: list[bytes] = []

    def take(data: bytes) -> bool:
        parts.append(data)
        raise ValueError("no")

    async def main() -> None:
        there.send(b"one")
        with pytest.raises(ValueError, match="no"):
            await read_all(here.fileno(), take)
        there.send(b"two")
        await trio.sleep(0.01)

    run(main)
    assert parts == [b"one"]


def test_a_task_for_which_something_came_goes_on(run, pair):
    here, there = pair
    came = trio.Event()

    def take(_: bytes) -> bool:
        came.set()
        return False

    async def main() -> None:
        async with reading(here, take):
            there.send(b"now")
            await came.wait()

    run(main)


def test_a_deadline_that_is_earlier_than_before_is_kept(run, pair):
    here, there = pair

    async def main() -> None:
        with trio.CancelScope() as scope:

            def take(_: bytes) -> bool:
                scope.deadline = trio.current_time() + 0.01
                return False

            async with trio.open_nursery() as nursery:
                nursery.start_soon(read_all, here.fileno(), take)
                await trio.sleep(0.01)
                there.send(b"now")
                await trio.sleep_forever()
        assert scope.cancelled_caught

    run(main)


def test_deadlines_and_tasks_have_their_turn_while_more_arrives_all_the_time(run, pair):
    here, there = pair
    here_too, there_too = socket.socketpair()
    here_too.setblocking(False)

    def take(_: bytes) -> bool:
        there.send(b"more")
        return True

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read_all, here.fileno(), take)
            there.send(b"more")
            await trio.sleep(0.01)
            there_too.send(b"for a task")
            await trio.lowlevel.wait_readable(here_too)
            await trio.to_thread.run_sync(int)
            nursery.cancel_scope.cancel()

    with here_too, there_too:
        run(main)


def test_sockets_are_read_while_tasks_go_on_all_the_time(run, pair):
    here, there = pair
    parts: list[bytes] = []

    async def main() -> None:
        async with reading(here, kept(parts)):
            there.send(b"now")
            while not parts:
                await trio.lowlevel.checkpoint()

    run(main)


def test_sockets_are_read_while_deadlines_have_passed_all_the_time(run, pair):
    here, there = pair
    parts: list[bytes] = []

    async def main() -> None:
        async with reading(here, kept(parts)):
            there.send(b"now")
            for _ in range(100):
                with trio.CancelScope(deadline=trio.current_time() + 0.001) as scope:
                    while trio.current_time() < scope.deadline:
                        pass
                    await trio.sleep_forever()

    run(main)
    assert parts == [b"now"]


def test_what_arrives_after_the_reader_was_cancelled_is_not_taken(run, pair):
    here, there = pair
    parts: list[bytes] = []

    async def main() -> None:
        with trio.move_on_after(0.01):
            await read_all(here.fileno(), kept(parts))
        there.send(b"too late")
        await trio.sleep(0.01)

    run(main)
    assert parts == []


def test_one_that_ends_among_many_leaves_the_others_as_they_are(run):
    pairs = [socket.socketpair() for _ in range(20)]
    parts: list[list[bytes]] = [[] for _ in pairs]

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            for (here, _), taken in zip(pairs, parts, strict=True):
                here.setblocking(False)
                nursery.start_soon(read_all, here.fileno(), kept(taken))
            await trio.sleep(0.01)
            for _, there in pairs[::2]:
                there.close()
            await trio.sleep(0.01)
            for _, there in pairs[1::2]:
                there.send(b"told")
                there.close()

    run(main)
    assert parts == [[], [b"told"]] * 10
    for here, _ in pairs:
        here.close()


def test_with_the_installed_trio_its_epoll_is_found_and_one_clock_serves_many():
    clock = ReadingClock()

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(clock.is_beside_trio)
        assert await clock.is_beside_trio()

    trio.run(main, clock=clock)


def test_trios_epoll_is_found_where_a_descriptor_is_closed_meanwhile():
    lower = [os.open("/dev/null", os.O_RDONLY) for _ in range(3)]

    async def main() -> None:
        for descriptor in lower:  # the look takes one of them, which is gone when it is read
            os.close(descriptor)
        assert await ReadingClock().is_beside_trio()

    trio.run(main)


def test_where_trios_epoll_cannot_be_found_a_task_reads(monkeypatch, pair):
    here, there = pair
    parts: list[bytes] = []
    monkeypatch.setattr(reading_clock, "_epoll_with", lambda descriptor: None)
    there.send(b"told")
    there.close()
    trio.run(read_all, here.fileno(), kept(parts), clock=ReadingClock())
    assert parts == [b"told"]


def test_no_task_is_woken_for_what_is_done():
    here, there = socket.socketpair()
    here.setblocking(False)
    parts: list[bytes] = []

    class Steps(trio.abc.Instrument):
        count = 0

        def before_task_step(self, task: trio.lowlevel.Task) -> None:
            self.count += 1

    async def main() -> None:
        async with reading(here, kept(parts)):
            steps = Steps()
            trio.lowlevel.add_instrument(steps)
            sent = threading.Thread(target=lambda: [there.send(b"line") for _ in range(100)])
            sent.start()
            while len(b"".join(parts)) < 400:
                await trio.sleep(1.0)
            sent.join()
            assert steps.count < 10  # those of this task

    with here, there:
        trio.run(main, clock=ReadingClock())
    assert b"".join(parts) == 100 * b"line"
