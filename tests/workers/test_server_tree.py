"""Commands that muxd runs beside a server: real ones, on the real clock."""

import os
import sys
from pathlib import Path

import pytest
import trio

from muxd.engines.engine_client import HookFailed
from muxd.shim.processes import process_table
from muxd.workers.server_tree import ChildTree
from tests.childworld import World, eventually
from tests.ports import free_port

SERVER = (
    "import socket, time; s = socket.create_server(('127.0.0.1', {port})); print('up', flush=True); time.sleep(1e6)"
)


@pytest.fixture
def world(tmp_path: Path):
    world = World(tmp_path)
    yield world
    world.clean_up()


def tree_of(world, child, port=1):
    env = {"PATH": os.environ["PATH"], "CUDA_VISIBLE_DEVICES": "3"}
    return ChildTree(child, port, env, world.log_dir, world.run_dir)


async def test_the_listener_is_the_process_that_listens_and_the_first_one_until_it_does(world):
    port = free_port()
    program = world.run_dir / "server.py"
    program.write_text(SERVER.format(port=port))
    child = world.spawn(world.sh(f"'{sys.executable}' -IS '{program}'; exit"))
    await eventually(lambda: "up" in world.stdout())
    tree = tree_of(world, child, port)
    assert tree.listener() in tree.pids()
    assert tree.listener() != child.pid
    assert len(tree.pids()) == 2
    assert tree_of(world, child, 1).listener() == child.pid


async def test_a_command_runs_in_the_servers_folder_and_environment_with_its_token(world):
    child = world.spawn(world.sh(world.sleep))
    await world.asleep(1)
    await tree_of(world, child).run(["sh", "-c", "echo $CUDA_VISIBLE_DEVICES $MUXD_TOKEN > said; cat"])
    assert (world.log_dir / "said").read_text() == f"3 {child.record.token}\n"


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("echo no card >&2; exit 3", "exited with status 3: no card"),
        ("exit 3", "exited with status 3"),
        ("kill -9 $$", "was killed by signal 9"),
    ],
)
async def test_a_command_that_fails_is_quoted(world, script, why):
    child = world.spawn(world.sh(world.sleep))
    with pytest.raises(HookFailed) as caught:
        await tree_of(world, child).run(["sh", "-c", script])
    assert str(caught.value) == why


async def test_a_command_that_is_not_there_is_told(world):
    child = world.spawn(world.sh(world.sleep))
    with pytest.raises(HookFailed, match="could not be executed: /no/such/program: no such file or directory"):
        await tree_of(world, child).run(["/no/such/program"])


async def test_nothing_of_a_command_is_left_when_it_is_given_up_or_has_ended(world):
    child = world.spawn(world.sh("echo up; exec cat /dev/zero > /dev/null"))
    await eventually(lambda: "up" in world.stdout())
    tree = tree_of(world, child)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(tree.run, ["sh", "-c", f"{world.sleep} & {world.sleep}"])
        await world.asleep(2)
        nursery.cancel_scope.cancel()
    await eventually(lambda: not world.sleepers(), "what was given up is ended")
    await tree.run(["sh", "-c", f"{world.sleep} & exit 0"])
    await eventually(lambda: not world.sleepers(), "what it left in the background is ended")
    assert child.pid in process_table()
