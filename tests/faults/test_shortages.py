"""muxd has no descriptor, process or memory left, or somebody takes its connections: rows 17, 18, 19 and 27."""

import os
import random
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path

import pytest

from tests.end_to_end.conftest import two_models
from tests.end_to_end.muxd import Muxd, eventually
from tests.seeds import EVERY
from tests.unprivileged import unprivileged
from tests.wire.test_fuzz import mutilated, seeds
from tests.wire.wire_env import chat

from .oracles import judged, memory, open_files

#: Bytes by which muxd's memory may still grow: what it has of its own for a while, and no thread's stack.
MARGIN = 4 << 20


@contextmanager
def files_of(pid: int, count: int) -> Iterator[None]:
    """Meanwhile the process may have so many descriptors and no more."""
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE, (count, resource.prlimit(pid, resource.RLIMIT_NOFILE)[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)


def test_without_descriptors_nothing_can_be_started_and_muxd_goes_on(start: Callable[..., Muxd]) -> None:
    muxd = start(two_models(beta_keys="restart_limit = 99"))
    text = muxd.ask("alpha")
    pid = muxd.process.pid
    with judged(muxd):
        with files_of(pid, open_files(pid) + 1):
            muxd.control("POST", "/v1/models/beta/start")
            os.kill(muxd.status("alpha")["pid"], signal.SIGKILL)
            eventually(lambda: muxd.status("alpha")["last_exit"], "its end is seen all the same")
            assert muxd.process.poll() is None
            assert muxd.muxctl("status").returncode == 0
        assert muxd.ask("alpha") == text
        assert muxd.ask("beta")


def test_the_proxy_without_descriptors_refuses_and_comes_back(start: Callable[..., Muxd]) -> None:
    muxd = start(two_models())
    text = muxd.ask("alpha")
    proxy = muxd.status()["proxy"]["pid"]
    with judged(muxd), ExitStack() as held:
        with files_of(proxy, open_files(proxy) + 4):
            for _ in range(50):
                held.enter_context(socket.create_connection(("127.0.0.1", muxd.port)))
            assert muxd.muxctl("status").returncode == 0
        held.close()
        assert muxd.ask("alpha") == text
        assert muxd.status()["proxy"]["pid"] == proxy


@pytest.fixture
def no_more_processes() -> Iterator[Callable[[int], Path]]:
    """`no_more_processes(pid)`: a cgroup in which this process can make neither a process nor a thread any more.

    What it returns is the file with the limit.
    """
    roots = (Path("/sys/fs/cgroup/pids"), Path("/sys/fs/cgroup"))
    made: list[Path] = []

    def limit(pid: int) -> Path:
        for root in roots:
            with suppress(OSError):
                group = root / f"muxd-test-{pid}"
                group.mkdir()
                made.append(group)
                (group / "pids.max").write_text("max")
                (group / "cgroup.procs").write_text(str(pid))
                (group / "pids.max").write_text((group / "pids.current").read_text())
                return group / "pids.max"
        pytest.skip("needs root and a cgroup with the controller of pids")

    yield limit
    for group in made:
        with suppress(OSError):
            for pid in (group / "cgroup.procs").read_text().split():
                (group.parent / "cgroup.procs").write_text(pid)
        group.rmdir()


def test_on_a_host_without_processes_nothing_can_be_started_and_muxd_goes_on(
    no_more_processes: Callable[[int], Path], start: Callable[..., Muxd]
) -> None:
    muxd = start(two_models(alpha_keys="restart_limit = 99", beta_keys="restart_limit = 99"))
    text = muxd.ask("alpha")
    limit = no_more_processes(muxd.process.pid)
    with judged(muxd):
        os.kill(muxd.status("alpha")["pid"], signal.SIGKILL)
        eventually(lambda: muxd.status("alpha")["last_exit"], "its end is seen all the same")
        muxd.until_state("alpha", "backoff")
        assert muxd.muxctl("status").returncode == 0
        limit.write_text("max")
        assert muxd.ask("alpha") == text
        assert muxd.ask("beta")
    assert "Traceback" not in muxd.log


def test_without_memory_for_more_muxd_answers_and_serves_again_when_there_is_some(start: Callable[..., Muxd]) -> None:
    """Its address space cannot grow: no thread has a stack, and no large block can be had."""
    muxd = start(two_models(alpha_keys="restart_limit = 99"))
    text = muxd.ask("alpha")
    pid = muxd.process.pid
    size = int(Path(f"/proc/{pid}/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.prlimit(pid, resource.RLIMIT_AS)
    with judged(muxd):
        resource.prlimit(pid, resource.RLIMIT_AS, (size + MARGIN, before[1]))
        for _ in range(5):
            assert muxd.ask("alpha") == text
            assert muxd.muxctl("status").returncode == 0
        os.kill(muxd.status("alpha")["pid"], signal.SIGKILL)
        eventually(lambda: muxd.status("alpha")["last_exit"], "its end is seen all the same")
        resource.prlimit(pid, resource.RLIMIT_AS, before)
        assert muxd.ask("alpha") == text
        assert muxd.ask("beta")
    assert muxd.process.poll() is None
    assert "Traceback" not in muxd.log


#: Seconds for which muxd's share of a core is looked at.
FLOOD_SECONDS = 4.0

#: Connects as nobody again and again, to a socket and for so many seconds.
FLOOD = """\
import os, socket, sys, time
os.setgroups([]), os.setgid(65534), os.setuid(65534)
end = time.monotonic() + float(sys.argv[2])
while time.monotonic() < end:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(sys.argv[1])
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs another user")
def test_a_flood_of_connections_of_a_user_without_rights_costs_five_percent_of_a_core(
    start: Callable[..., Muxd],
) -> None:
    muxd = start(two_models())
    text = muxd.ask("alpha")
    with unprivileged(muxd.folder):
        pass  # others may enter the folder

    def share() -> float:
        """Return the share of a core that muxd takes while an operator comes in between, for as long as a flood."""
        used, began = processor_time(muxd.process.pid), time.monotonic()
        for _ in range(3):
            assert muxd.muxctl("status").returncode == 0, "an operator comes in between"
            assert muxd.ask("alpha") == text
        time.sleep(max(0.0, began + FLOOD_SECONDS - time.monotonic()))
        return (processor_time(muxd.process.pid) - used) / (time.monotonic() - began)

    with judged(muxd), ExitStack() as floods:
        own = share()
        for _ in range(2):
            command = [sys.executable, "-c", FLOOD, str(muxd.socket), str(FLOOD_SECONDS + 1)]
            floods.enter_context(subprocess.Popen(command))
        both = share()
        assert both - own <= 0.05
    print(f"muxd took {100 * both:.1f} % of a core, {100 * own:.1f} of them for the witness and the operator")


def processor_time(pid: int) -> float:
    """Seconds of all cores that the process has used."""
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def connected(muxd: Muxd) -> socket.socket:
    client = socket.socket(socket.AF_UNIX)
    client.connect(str(muxd.socket))
    client.settimeout(30)
    return client


def test_a_thousand_idle_and_half_open_clients_keep_nobody_from_the_status(start: Callable[..., Muxd]) -> None:
    muxd = start(two_models())
    text = muxd.ask("alpha")
    with judged(muxd) as witness, ExitStack() as held:
        for number in range(1000):
            client = held.enter_context(connected(muxd))
            if number % 2:
                with suppress(OSError):
                    client.send(b"GET /v1/status HTTP/1.1\r\nHost: m")
        for _ in range(10):
            assert muxd.muxctl("status").returncode == 0
        assert muxd.ask("alpha") == text
        assert muxd.switch("beta")["type"] == "ready"
    print(f"the status took {1000 * witness.slowest:.0f} ms at the most")


#: Requests that are right, to begin with: all but those that change something when they are whole.
SEEDS = (
    b"GET /v1/status HTTP/1.1\r\nHost: muxd\r\n\r\n",
    b"GET /v1/models/alpha HTTP/1.1\r\nHost: muxd\r\nAccept: */*\r\n\r\n",
    b'POST /v1/models/alpha/sleep HTTP/1.1\r\nHost: muxd\r\nContent-Length: 13\r\n\r\n{"level": -1}',
    b"POST /v1/reload HTTP/1.1\r\nHost: muxd\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n[[[[[\r\n0\r\n\r\n",
    b'POST /v1/sessions HTTP/1.1\r\nHost: muxd\r\nContent-Length: 16\r\n\r\n{"version": 1e9}',
    b"GET /v1/events?after=0&follow=0 HTTP/1.1\r\nHost: muxd\r\n\r\n",
    b"GET /v1/logs/alpha?lines=9999999999999999999 HTTP/1.1\r\nHost: muxd\r\n\r\n",
)

#: What is thrown in.
SPICES = (
    b"\r\n", b"\0", b"\xff", b" ", b":", b"%00", b"../", b"[" * 2000, b"9" * 300, b"Content-Length: 5\r\n",
    b"Transfer-Encoding: chunked\r\n", b"X: " + b"y" * 9000 + b"\r\n", b"HTTP/0.9", b"?" + b"a=b&" * 300,
)  # fmt: skip


def malformed(draw: random.Random) -> bytes:
    data = bytearray(draw.choice(SEEDS))
    for _ in range(draw.randint(1, 4)):
        at = draw.randrange(len(data) + 1)
        match draw.randrange(4):
            case 0 if at < len(data):
                data[at] = draw.randrange(256)
            case 1:
                data[at:at] = draw.choice(SPICES)
            case 2:
                del data[at : at + draw.choice((1, 5, 100))]
            case _:
                del data[at:]
    return bytes(data)


def answered(client: socket.socket, data: bytes) -> bytes:
    """What comes of it when this is all that the client sends; of a stream its beginning."""
    with client:
        received = b""
        with suppress(OSError):
            client.sendall(data)
            client.shutdown(socket.SHUT_WR)
            while piece := client.recv(1 << 16):
                received += piece
        return received


#: Malformed requests at each door: 10^5 with all seeds.
MALFORMED = 100_000 // EVERY


def bears_malformed_requests(
    muxd: Muxd, pid: int, connect: Callable[[], socket.socket], draw: Callable[[], bytes], statuses: bytes
) -> None:
    """Whatever one of muxd's processes is sent, it answers nothing or one of the statuses, and is as it was.

    `statuses`: the first digits of those that may be.
    """
    with judged(muxd):
        for _ in range(500):
            answered(connect(), draw())
        moves, before, began = muxd.moves(), memory(pid), time.monotonic()
        for _ in range(MALFORMED):
            data = draw()
            received = answered(connect(), data)
            assert received[9:10] in statuses, (data, received[:200])
            assert b"Traceback" not in received, data
        took = time.monotonic() - began
        assert memory(pid) - before < 8 << 20
        assert muxd.moves() == moves
    print(f"{MALFORMED} malformed requests in {took:.0f} s")


def test_malformed_requests_change_nothing_and_take_no_memory(start: Callable[..., Muxd]) -> None:
    muxd, draw = start(two_models()), random.Random(1)
    muxd.ask("alpha")
    bears_malformed_requests(muxd, muxd.process.pid, lambda: connected(muxd), lambda: malformed(draw), b"245")
    assert "Traceback" not in muxd.log


def test_malformed_requests_at_the_proxy_change_nothing_and_take_no_memory(start: Callable[..., Muxd]) -> None:
    """Those that come through whole name a model that there is not."""
    muxd, draw = start(two_models()), random.Random(1)
    muxd.ask("alpha")
    proxy, known = muxd.status()["proxy"]["pid"], seeds(partial(chat, "nobody"))

    def connect() -> socket.socket:
        return socket.create_connection(("127.0.0.1", muxd.port), 30)

    bears_malformed_requests(muxd, proxy, connect, lambda: mutilated(draw, known), b"124")
    assert muxd.status()["proxy"]["pid"] == proxy
    logs = (muxd.folder / "logs").glob("*proxy*.log")
    assert not any("Traceback" in log.read_text(errors="replace") for log in logs)
