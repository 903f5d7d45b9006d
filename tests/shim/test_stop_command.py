"""A child that is ended by a command of its own, as a container is, and what such a child leaves behind."""

import os
import signal

import pytest
import trio

from muxd.shim.shim_spec import CHILD_PID
from tests.childworld import eventually


@pytest.fixture
def contained(world):
    """`contained(stop, text=...)`: a client whose "container" is a file that only the stop command takes away."""

    def contained(
        stop: str, text: str = "trap '' TERM; touch container; echo up; while :; do sleep 0.01; done", **other
    ):
        return world.sh(text, stop_command=("sh", "-c", stop), **other)

    return contained


def container(world) -> bool:
    return (world.run_dir / "container").exists()


async def ended(child):
    with trio.fail_after(60):
        return await child.wait()


async def up(world, spec):
    child = world.spawn(spec)
    await eventually(lambda: "up" in world.stdout())
    return child


async def test_a_stop_runs_the_command_in_the_signals_place(world, contained):
    child = await up(world, contained(f"rm container; kill -9 {CHILD_PID}; echo stopped"))
    child.stop()
    exit = await ended(child)
    assert (exit.signal, exit.requested) == (signal.SIGKILL, True)
    assert "stopped" in world.stderr(), "what it says is in the log"
    assert not container(world)


async def test_the_command_has_time_to_end_after_the_child(world, contained):
    text = "trap 'exit 0' USR1; touch container; echo up; while :; do sleep 0.01; done"
    child = await up(world, contained(f"kill -USR1 {CHILD_PID}; sleep 0.3; rm container", text))
    child.stop()
    assert (await ended(child)).status == 0
    assert not container(world)


async def test_a_child_that_outlives_the_end_of_its_container_gets_the_signal_at_once(world, contained):
    text = "trap 'exit 5' TERM; touch container; echo up; while :; do sleep 0.01; done"
    child = await up(world, contained("rm container", text, stop_timeout=60))
    child.stop()
    assert (await ended(child)).status == 5
    assert not container(world)
    assert "the stop command" not in world.stderr()


async def test_a_child_whose_command_takes_its_pid_gets_no_signal_beside_it(world, contained):
    text = "trap 'exit 5' TERM; trap 'exit 0' USR1; touch container; echo up; while :; do sleep 0.01; done"
    child = await up(world, contained(f"rm container; (sleep 0.3; kill -USR1 {CHILD_PID}) > /dev/null 2>&1 &", text))
    child.stop()
    assert (await ended(child)).status == 0


@pytest.mark.parametrize("stop", ["exit 3", "/no/such/program", "kill -9 $$"])
async def test_a_command_that_fails_is_told_and_the_signal_takes_its_place(world, contained, stop):
    text = "trap 'exit 5' TERM; echo up; while :; do sleep 0.01; done"
    child = await up(world, contained(stop, text))
    child.stop()
    assert (await ended(child)).status == 5
    assert "the stop command of qwen " in world.stderr()


async def test_a_command_that_cannot_be_executed_is_told_by_name(world):
    child = await up(
        world, world.sh("trap 'exit 5' TERM; echo up; while :; do sleep 0.01; done", stop_command=("/no",))
    )
    child.stop()
    assert (await ended(child)).status == 5
    assert "the stop command of qwen could not be executed: No such file or directory: /no" in world.stderr()


async def test_after_the_stop_timeout_the_child_is_killed_whatever_the_command_does(world, contained):
    child = await up(world, contained(f"sleep 1000 # {CHILD_PID}", stop_timeout=0.2))
    child.stop()
    exit = await ended(child)
    assert (exit.signal, exit.requested) == (signal.SIGKILL, True)


@pytest.mark.parametrize("end", ["kill", "crash"])
async def test_what_a_killed_or_crashed_child_leaves_is_ended_by_the_command(world, contained, end):
    child = await up(world, contained("rm container"))
    if end == "kill":
        child.kill()
    else:
        os.kill(child.pid, signal.SIGKILL)
    exit = await ended(child)
    assert (exit.signal, exit.requested) == (signal.SIGKILL, end == "kill")
    assert not container(world), "gone before the end is told"


async def test_a_command_that_takes_a_pid_is_not_run_once_that_is_nobodys(world, contained):
    child = await up(world, contained(f"rm container # {CHILD_PID}"))
    child.kill()
    await ended(child)
    assert container(world)


async def test_a_command_that_never_ends_does_not_keep_a_killed_child(world, contained):
    child = await up(world, contained(f"{world.sleep}"))
    child.kill()
    await ended(child)
    assert not world.sleepers()


async def test_what_could_not_be_started_leaves_nothing_to_end(world):
    child = world.spawn(world.spec("/no/such/server", stop_command=("touch", str(world.run_dir / "container"))))
    assert (await ended(child)).error is not None
    assert not container(world)
