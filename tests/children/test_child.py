"""A child as muxd holds it: asked to end, and waited for."""

import os
import signal
import threading

import trio

from tests.childworld import eventually, zombies_of


async def test_any_number_of_tasks_may_wait_and_any_may_be_cancelled(world):
    child = world.spawn(world.sh(f"exec {world.sleep}"))
    await world.asleep(1)
    endings = []

    async def waiter(task_status):
        task_status.started()
        endings.append(await child.wait())

    async with trio.open_nursery() as nursery:
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as doomed:
                await doomed.start(waiter)
                await trio.testing.wait_all_tasks_blocked()
                await nursery.start(waiter)
                await nursery.start(waiter)
                await trio.testing.wait_all_tasks_blocked()
                scope.cancel()
        child.stop()
    assert len(endings) == 2
    assert endings[0] is endings[1] is await child.wait()


async def test_the_main_processes_pid_is_known_once_it_runs(world):
    child = world.spawn(world.sh(f"exec {world.sleep}"))
    [main_process] = await world.asleep(1)
    assert await eventually(lambda: child.pid) == main_process.pid
    assert main_process.ppid == child.shim_pid
    child.kill()
    await child.wait()
    assert child.pid == main_process.pid


async def test_its_processes_are_all_below_its_shim_and_without_that_those_of_the_main_processes_session(world):
    child = world.spawn(world.sh(f"setsid {world.sleep} & {world.sleep}"))
    sleepers = await world.asleep(2)
    main_process = await eventually(lambda: child.pid)
    assert set(child.pids()) == {main_process, *(sleeper.pid for sleeper in sleepers)}
    os.kill(child.shim_pid, signal.SIGKILL)
    await eventually(lambda: child.shim_pid in zombies_of(os.getpid()))
    assert set(child.pids()) - {main_process} == {
        sleeper.pid for sleeper in sleepers if sleeper.session == main_process
    }
    await child.wait()
    assert world.sleepers() == []


async def test_asking_what_has_ended_is_harmless(world):
    child = world.spawn(world.sh("exit 0"))
    assert (await child.wait()).status == 0
    child.stop()
    child.kill()
    assert not (await child.wait()).requested


async def test_a_child_costs_nothing_once_it_is_gone(world):
    async def one(name):
        child = world.spawn(world.sh("exit 0", name=name))
        await child.wait()

    await one("first")
    before = (len(os.listdir("/proc/self/fd")), threading.active_count())
    for number in range(5):
        await one(f"n{number}")
    assert (len(os.listdir("/proc/self/fd")), threading.active_count()) == before
    assert zombies_of(os.getpid()) == []
    assert {path.suffix for path in world.run_dir.iterdir()} == {".lock", ".err"}
    assert sum(path.stat().st_size for path in world.run_dir.iterdir()) == 0


async def test_a_shim_that_was_stopped_still_takes_orders(world):
    child = world.spawn(world.sh(f"exec {world.sleep}"))
    await world.asleep(1)
    os.kill(child.shim_pid, signal.SIGSTOP)
    child.stop()
    assert str(await child.wait()) == "killed by SIGTERM"
