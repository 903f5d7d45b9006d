"""What a child is given by its shim, and what it is not."""

import json
import os
import socket

import pytest
import trio


async def run(world, spec):
    with trio.fail_after(60):
        return await world.spawn(spec).wait()


async def test_the_child_gets_nothing_that_it_was_not_meant_to_have(world, monkeypatch):
    monkeypatch.setenv("OF_MUXD", "1")
    report = """
import json, os
json.dump({
    "env": dict(os.environ), "cwd": os.getcwd(), "fds": sorted(map(int, os.listdir("/proc/self/fd"))),
    "stdin": os.readlink("/proc/self/fd/0"), "session": os.getsid(0) == os.getpid(),
   }, open("report", "w"))
"""
    leak = os.open("/dev/null", os.O_RDONLY)
    os.set_inheritable(leak, True)
    env = {"LANG": "C.UTF-8", "KEPT": "yes", "ODD": "\udcff", "NOTIFY_SOCKET": "/run/n", "LISTEN_FDS": "3"}
    try:
        await run(world, world.python(report, env=env))
    finally:
        os.close(leak)
    got = json.loads((world.run_dir / "report").read_text())
    token = got["env"].pop("MUXD_TOKEN")
    assert len(token) == 32
    assert got["env"] == {"LANG": "C.UTF-8", "KEPT": "yes", "ODD": "\udcff", "SPT_NOENV": "1"}
    assert got["cwd"] == str(world.run_dir)
    assert got["fds"][:3] == [0, 1, 2]
    assert len(got["fds"]) == 4  # and the directory that was being listed
    assert got["stdin"] == "/dev/null"
    assert got["session"]


async def test_the_childs_signals_are_as_if_it_were_started_by_hand(world):
    await run(world, world.spec("cat", "/proc/self/status"))
    status = dict(line.split(":", 1) for line in world.stdout().splitlines())
    glibcs_own = 0b11 << 31  # 32 and 33: whoever runs the tests may have them ignored, and nobody can change that
    assert [int(status[mask], 16) & ~glibcs_own for mask in ("SigBlk", "SigIgn", "SigCgt")] == [0, 0, 0]


async def test_a_child_goes_before_nobody_though_muxd_does(world):
    try:
        os.setpriority(os.PRIO_PROCESS, 0, -5)
    except PermissionError:
        pytest.skip("this user cannot go before others")
    try:
        await run(world, world.spec("cat", "/proc/self/stat"))
    finally:
        os.setpriority(os.PRIO_PROCESS, 0, 0)
    assert world.stdout().rpartition(")")[2].split()[16] == "0", "its nice value"


async def test_listening_sockets_are_passed_on_as_systemd_does(world):
    first, second = (socket.create_server(("127.0.0.1", 0)) for _ in range(2))
    serve = """
import os, socket
assert os.environ["LISTEN_PID"] == str(os.getpid())
assert os.environ["LISTEN_FDS"] == "2"
assert os.environ["LISTEN_FDNAMES"] == "b:a"
for fd in 3, 4:
    connection, _ = socket.socket(fileno=fd).accept()
    connection.sendall(b"%d" % fd)
    connection.close()
"""
    with first, second:
        child = world.spawn(world.python(serve, listen_fds={"b": second.fileno(), "a": first.fileno()}))
        for listener, fd in ((second, b"3"), (first, b"4")):
            client = await trio.open_tcp_stream(*listener.getsockname())
            async with client:
                assert await client.receive_some() == fd
        assert (await child.wait()).status == 0


async def test_the_shim_itself_does_not_keep_the_sockets(world):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()
        child = world.spawn(world.sh(f"exec 3>&-; exec {world.sleep}", listen_fds={"a": listener.fileno()}))
        await world.asleep(1)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address)
    child.kill()
    await child.wait()
