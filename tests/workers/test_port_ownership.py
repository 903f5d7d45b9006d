"""Whose listener answers at a worker's port, seen with real processes."""

import os
import socket
import sys
from contextlib import closing, contextmanager
from itertools import product

import pytest

from muxd.config.command_lines import Command
from muxd.engines.sglang.engine import SGLang
from muxd.ports import PortTaken, Reservation
from muxd.shim.processes import program_of
from muxd.workers import port_ownership as listener_module
from muxd.workers.port_ownership import PortOwnership
from tests.childworld import World, eventually
from tests.seeds import thorough

#: A server that listens and does nothing, below whatever runs it.
LISTEN = """
import socket, sys, time
listener = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET)
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
listener.bind((sys.argv[1], int(sys.argv[2])))
listener.listen()
print("listens", flush=True)
time.sleep(1000)
"""


@pytest.fixture
def world(tmp_path):
    world = World(tmp_path)
    (tmp_path / "listen.py").write_text(LISTEN)
    yield world
    world.clean_up()


@pytest.fixture
def port():
    with closing(Reservation(0)) as reserved:
        yield reserved.port


def server(world, port, host="127.0.0.1", context="{}", words=""):
    command = f"{sys.executable} -I -S {world.run_dir.parent}/listen.py {host} {port} {words}"
    return world.spawn(world.sh(context.replace("{}", command).replace("{sleep}", world.sleep)))


@contextmanager
def stranger(port, host="127.0.0.1"):
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind((host, port))
        other.listen()
        yield


def of(child, port):
    return PortOwnership(port, child.shim_pid, None, SGLang())


async def until_it_listens(world):
    await eventually(lambda: "listens" in world.stdout())


HOSTS = ("127.0.0.1", "0.0.0.0", "::", "::ffff:127.0.0.1")
CONTEXTS = ("exec {}", "{}; true", "setsid --wait {}; true", "( setsid {} & ) ; {sleep}")


@pytest.mark.parametrize(
    ("host", "context"),
    [
        *zip(HOSTS, CONTEXTS, strict=True),
        *thorough(
            *(
                (host, context)
                for host, context in product(HOSTS, CONTEXTS)
                if HOSTS.index(host) != CONTEXTS.index(context)
            )
        ),
    ],
)
async def test_what_listens_among_its_own_processes_is_its_own(world, port, host, context):
    child = server(world, port, host, context)
    await until_it_listens(world)
    own = of(child, port)
    assert await own.is_own()
    assert own.is_there()


async def test_nobody_is_asked_before_anybody_listens(world, port):
    assert not await of(world.spawn(world.sh(f"exec {world.sleep}")), port).is_own()


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "::"])
async def test_a_stranger_who_listens_first_is_never_taken_for_the_worker_and_is_named(world, port, host):
    listener = of(world.spawn(world.sh(f"exec {world.sleep}")), port)
    with stranger(port, host):
        assert not await listener.is_own()
        with pytest.raises(PortTaken, match=rf"port {port} was taken .* process {os.getpid()} listens on it"):
            await listener.is_own()


async def test_a_stranger_at_another_address_of_the_host_is_none(world, port):
    with stranger(port, "127.0.0.2"):
        child = server(world, port)
        await until_it_listens(world)
        own = of(child, port)
        assert await own.is_own()
        assert own.is_there()


async def test_a_worker_whose_listener_is_gone_is_not_the_one_that_was_loaded(world, port):
    child = server(world, port)
    await until_it_listens(world)
    own = of(child, port)
    assert await own.is_own()
    child.kill()
    await child.wait()
    assert not own.is_there()
    assert not own.is_taken()
    with stranger(port):
        assert not own.is_there()
        assert own.is_taken()


@pytest.mark.parametrize(("uid", "own"), [(0, True), (os.geteuid(), True), (65534, False)])
async def test_below_a_client_of_a_container_engine_only_root_s_and_muxd_s_own_are_believed(
    world, port, monkeypatch, uid, own
):
    (world.run_dir / "docker").symlink_to("/bin/sleep")
    child = world.spawn(world.sh(f"{world.run_dir}/docker {world.sleep.split()[1]}; true"))
    await eventually(lambda: any(program_of(pid) == "docker" for pid in of(child, port)._pids()))
    with stranger(port):
        found = listener_module.answering(port)
        found[0].uid = uid
        monkeypatch.setattr(listener_module, "answering", lambda _: found)
        assert await of(child, port).is_own() is own


@pytest.mark.parametrize(("uid", "own"), [(os.geteuid(), True), (65534, False)])
async def test_where_an_engine_runs_elsewhere_only_root_s_and_muxd_s_own_are_believed(
    world, port, monkeypatch, uid, own
):
    engine = SGLang()
    engine.runs_elsewhere = True
    child = world.spawn(world.sh(f"exec {world.sleep}"))
    with stranger(port):
        found = listener_module.answering(port)
        found[0].uid = uid
        monkeypatch.setattr(listener_module, "answering", lambda _: found)
        assert await PortOwnership(port, child.shim_pid, None, engine).is_own() is own


async def test_a_port_that_the_kernel_forwards_to_a_container_has_no_listener(world, port):
    (world.run_dir / "docker").symlink_to("/bin/sleep")
    child = world.spawn(world.sh(f"{world.run_dir}/docker {world.sleep.split()[1]}; true"))
    own = of(child, port)
    await eventually(lambda: any(program_of(pid) == "docker" for pid in own._pids()))
    assert await own.elsewhere() is None
    assert await own.is_own()


WORDS = ["-m sglang.launch_server --port {}", "-m sglang.launch_server --port={}", "/opt/bin/sglang serve m --port {}"]


@pytest.mark.parametrize("words", WORDS)
async def test_a_server_that_listens_on_another_port_is_seen(world, port, words):
    with closing(Reservation(0)) as other:
        child = server(world, other.port, words=words.format(other.port))
        await until_it_listens(world)
        assert await of(child, port).elsewhere() == other.port


async def test_a_server_that_has_its_port_from_a_file_is_seen(world, port):
    with closing(Reservation(0)) as other:
        (world.run_dir / "server.yaml").write_text(f"model-path: a\nport: {other.port}\n")
        context = f"cd {world.run_dir} && {{}}"
        child = server(world, other.port, context=context, words="-m sglang.launch_server --config server.yaml")
        await until_it_listens(world)
        assert await of(child, port).elsewhere() == other.port


@pytest.mark.parametrize("words", ["-m sglang.launch_server --port {port}", "--port {other}", "sglang --port {other}"])
async def test_ports_inside_an_engine_are_its_own_business(world, port, words):
    """As of torch's store; and of workers below a router that will listen on the port waited for."""
    with closing(Reservation(0)) as other:
        child = server(world, other.port, words=words.format(port=port, other=other.port))
        await until_it_listens(world)
        assert await of(child, port).elsewhere() is None


async def test_a_part_at_a_port_of_its_own_is_no_server_where_the_server_listens_as_expected(world, port):
    """As Ollama's runners are, beside a server that has its port from a variable."""
    with closing(Reservation(0)) as other:
        program = world.run_dir.parent / "listen.py"
        quiet = world.run_dir / "quiet.py"
        quiet.write_text(f"import sys\nsys.argv[1:] = ['127.0.0.1', '{port}']\nexec(open('{program}').read())\n")
        told = f"{sys.executable} -IS {program} 127.0.0.1 {other.port} -m sglang.launch_server --port {other.port}"
        child = world.spawn(world.sh(f"{sys.executable} -IS {quiet} & {told}; true"))
        await eventually(lambda: world.stdout().count("listens") == 2)
        assert await of(child, port).elsewhere() is None


async def test_the_words_of_the_one_that_listens_come_first(world, port):
    child = server(world, port, context="{}; true", words="--api-key k1")
    await until_it_listens(world)
    assert (await of(child, port).commands())[0].words[-2:] == ["--api-key", "k1"]


async def test_a_port_that_nobody_told_is_found(world, port):
    child = server(world, port, words=f"-m sglang.launch_server --port {port}")
    await until_it_listens(world)
    assert await of(child, 0).find() == port


async def test_the_only_port_of_a_program_that_nobody_knows_is_found(world, port):
    child = server(world, port, context="{}; true")
    await until_it_listens(world)
    assert await of(child, 0).find() == port


async def test_a_part_that_listens_before_its_server_is_not_asked(world, port):
    with closing(Reservation(0)) as other:
        serve = f"-m sglang.launch_server --port {other.port}"
        child = server(world, port, words=serve)
        await until_it_listens(world)
        assert await of(child, 0).find() is None, "the server will listen elsewhere"


async def test_of_two_ports_none_is_guessed(world, port):
    with closing(Reservation(0)) as other:
        listen = f"{sys.executable} -I -S {world.run_dir.parent}/listen.py 127.0.0.1"
        child = world.spawn(world.sh(f"{listen} {port} & {listen} {other.port}; true"))
        await eventually(lambda: world.stdout().count("listens") == 2)
        own = of(child, 0)
        assert await own.find() is None
        assert own.ambiguous == {port, other.port}


def servers(*commands):
    return [server.pid for server in SGLang().servers_among(commands)]


def test_servers_are_told_from_what_is_around_and_below_them():
    serve = ["python3", "-m", "sglang.launch_server", "--model", "a"]
    assert servers(Command(1, 0, ["bash", "a.sh"]), Command(2, 1, ["numactl", *serve]), Command(3, 2, serve)) == [3]
    assert servers(Command(1, 0, serve), Command(2, 1, serve), Command(3, 1, ["sglang::scheduler"])) == [1]
    assert servers(Command(1, 0, serve), Command(2, 0, ["/x/python", "/x/bin/sglang", "serve", "b"])) == [1, 2]
    assert servers(Command(1, 0, serve), Command(2, 0, serve)) == [1], "what outlived a crash"
    assert servers(Command(1, 0, [*serve, "--node-rank", "0"]), Command(2, 0, [*serve, "--node-rank", "1"])) == [1]
    assert servers(Command(1, 0, ["pkill", "-f", "sglang.launch_server"]), Command(2, 0, [""]), Command(3, 0, [])) == []
