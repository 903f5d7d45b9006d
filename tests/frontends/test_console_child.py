"""The console as a child of muxd, here one that ends when the test says so."""

from unittest.mock import Mock

import trio
import trio.testing

from muxd.frontends.console_child import ConsoleChild


class SlowChild:
    def __init__(self) -> None:
        self.asked, self.gone = trio.Event(), trio.Event()

    def stop(self) -> None:
        self.asked.set()

    async def wait(self) -> str:
        await self.gone.wait()
        return "exited with status 0"


def a_console(child) -> ConsoleChild:
    console = ConsoleChild(Mock(), Mock(**{"spawn.return_value": child}))
    console._spec = Mock()
    return console


async def test_muxd_waits_for_a_console_that_takes_its_time(autojump_clock):
    child = SlowChild()
    console = a_console(child)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(console.run)
        await trio.testing.wait_all_tasks_blocked()
        console.stop()
        assert child.asked.is_set()
        nursery.start_soon(_ends_after, child, 1.5)
        await console.ended()
        assert (child.gone.is_set(), trio.current_time()) == (True, 1.5)


async def test_a_console_that_cannot_be_killed_holds_nobody_up(autojump_clock):
    child = SlowChild()
    console = a_console(child)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(console.run)
        await trio.testing.wait_all_tasks_blocked()
        console.stop()
        await console.ended()
        assert (child.gone.is_set(), trio.current_time()) == (False, 5.0)
        nursery.cancel_scope.cancel()


async def _ends_after(child: SlowChild, seconds: float) -> None:
    await trio.sleep(seconds)
    child.gone.set()
