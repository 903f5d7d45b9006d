"""A child that is a script: the one that listens on its server's port is asked to end, wherever it is below."""

import os
import signal
import socket
import sys

import pytest
import trio

from muxd.shim.processes import listeners, look_up
from tests.childworld import eventually
from tests.ports import free_port

#: Listens, says so, and ends with status 7 when it is interrupted.
SERVER = """
import signal, socket, sys
signal.signal(signal.SIGINT, {handler})
server = socket.create_server(("{host}", {port}))
print("up", flush=True)
signal.pause()
"""


@pytest.fixture
def script(world):
    """`script(text)`: the spec of a shell script in which $SERVER is a command."""

    def script(text, host="127.0.0.1", handler="lambda *_: sys.exit(7)", **other):
        port = free_port()
        server = world.run_dir / "server.py"
        server.write_text(SERVER.format(host=host, port=port, handler=handler))
        setup = f"SERVER='{sys.executable} -IS {server}'\n"
        return world.spec("bash", "-c", setup + text, stop_port=port, stop_signal=signal.SIGINT, **other)

    return script


async def stopped(world, spec):
    """How it ended once its server was up and it was asked to."""
    child = world.spawn(spec)
    await eventually(lambda: "up" in world.stdout())
    child.stop()
    with trio.fail_after(60):
        return await child.wait()


@pytest.mark.parametrize(
    "text",
    [
        "$SERVER; echo ended $?",
        "$SERVER & wait $!; echo ended $?",
        "setsid --wait $SERVER; echo ended $?",
        "trap '' INT TERM; $SERVER; echo ended $?",
        "trap 'true' INT TERM; $SERVER; echo ended $?",
        "nohup $SERVER; echo ended $?",
        "$SERVER | cat; echo ended ${PIPESTATUS[0]}",
    ],
)
async def test_the_server_ends_by_itself_and_the_script_sees_how(world, script, text):
    ended = await stopped(world, script(text))
    assert world.stdout() == "up\nended 7\n"
    assert (ended.status, ended.requested, ended.swept) == (0, True, 0)


async def test_a_server_that_took_the_scripts_place_is_asked_too(world, script):
    assert (await stopped(world, script("exec $SERVER"))).status == 7


async def test_whatever_address_it_listens_at(world, script):
    assert (await stopped(world, script("$SERVER; exit $?", host="0.0.0.0"))).status == 7


async def test_a_script_that_would_start_another_server_is_killed_soon(world, script):
    ended = await stopped(world, script("while true; do $SERVER; done", stop_timeout=3600.0))
    assert ended.signal == signal.SIGKILL
    assert ended.requested


async def test_a_daemon_that_the_script_left_is_asked_and_the_rest_is_swept(world, script):
    text = f"( ( $SERVER; echo ended $? ) & ); {world.sleep}"
    ended = await stopped(world, script(text, stop_timeout=3600.0))
    assert "ended 7" in world.stdout()
    assert ended.signal == signal.SIGKILL
    assert not world.sleepers()


async def test_what_does_not_listen_yet_is_interrupted_with_its_script(world, script):
    child = world.spawn(script(f"trap 'echo heard' INT; {world.sleep}; echo after $?", stop_timeout=3600.0))
    await world.asleep(1)
    child.stop()
    with trio.fail_after(60):
        ended = await child.wait()
    assert (ended.status, world.stdout()) == (0, "heard\nafter 130\n")


async def test_a_server_that_does_not_hear_is_killed_after_the_stop_timeout(world, script):
    ended = await stopped(world, script("$SERVER; echo ended $?", handler="signal.SIG_IGN", stop_timeout=0.2))
    assert (ended.signal, world.stdout()) == (signal.SIGKILL, "up\n")


def test_of_those_who_share_a_socket_the_first_is_meant():
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.set_inheritable(True)
        child = os.fork()
        if child == 0:
            signal.pause()
        try:
            both = [look_up(os.getpid()), look_up(child)]
            assert [process.pid for process in listeners(server.getsockname()[1], both)] == [os.getpid()]
            assert listeners(free_port(), both) == []
        finally:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
