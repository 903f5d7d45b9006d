"""Two hosts, each a network namespace with a muxd of its own, behind one real sglang-router: a drain, a crash, returns.

The router is that of a third muxd (`engine = "remote"`), whose proxy asks again what has no answer yet.  Needs root and
`ip netns`.
"""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from threading import Event

import httpx
import pytest

from .conftest import QUICK
from .muxd import Muxd, eventually

HOST = f"""\
[models.qwen]
engine = "simulator"
preload = true
gpu_release_timeout = "1500ms"
simulation = {{ {QUICK} }}
"""

FRONT = """\
[models.qwen]
engine = "remote"
urls = ["{left}", "{right}"]
router = {{ policy = "round_robin" }}
probe_interval = "300ms"
"""

PORT = 30100


def _has_namespaces() -> bool:
    if os.geteuid() != 0 or shutil.which("ip") is None:
        return False
    return subprocess.run(["ip", "netns", "list"], capture_output=True, check=False).returncode == 0


pytestmark = pytest.mark.skipif(not _has_namespaces(), reason="needs root and `ip netns`")


def ip(*words: str) -> str:
    return subprocess.run(["ip", *words], check=True, capture_output=True, text=True).stdout


class Host(Muxd):
    """A muxd in a network namespace, whose proxy listens at the namespace's address."""

    def __init__(self, folder: Path, namespace: str, address: str) -> None:
        self.namespace, self.address = namespace, address
        super().__init__(folder, HOST)
        self.url = f"http://{address}:{PORT}"

    def _run(self, *words: str) -> "subprocess.Popen[bytes]":
        here = self.config.read_text().replace(f'"127.0.0.1:{self.port}"', f'"{self.address}:{PORT}"')
        self.config.write_text(here.replace("[proxy]", "[proxy]\nallow_anonymous = true", 1 - here.count("anonymous")))
        muxd = [sys.executable, "-m", "muxd", *words, "--config", str(self.config)]
        argv = ["ip", "netns", "exec", self.namespace, *muxd]
        return subprocess.Popen(argv, stdout=self._log, stderr=self._log, cwd=self.folder)

    @property
    def answered(self) -> int:
        """How many requests its proxy has answered."""
        with suppress(httpx.HTTPError):
            lines = self.get("/metrics").text.splitlines()
            counts = [line.rpartition(" ")[2] for line in lines if line.startswith("muxd_requests_total{")]
            return int(sum(map(float, counts)))
        return 0

    def crash(self) -> None:
        """Let the host go without a word: its network first, then every process."""
        ip("-n", self.namespace, "link", "set", "up0", "down")
        for pid in ip("netns", "pids", self.namespace).split():
            with suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        self.process.wait()
        eventually(lambda: not self.left_behind(), "nothing of it is left")

    def boot(self) -> None:
        ip("-n", self.namespace, "link", "set", "up0", "up")
        self.start_again()


@contextmanager
def namespace(number: int) -> Iterator[tuple[str, str]]:
    """A network namespace with a cable to this one; its name, and its address."""
    name, cable = f"muxd-{os.getpid()}-{number}", f"mx{os.getpid() % 100000}-{number}"
    net = f"10.231.{os.getpid() % 60 * 4 + number}"
    ip("netns", "add", name)
    try:
        ip("link", "add", cable, "type", "veth", "peer", "name", "up0", "netns", name)
        ip("address", "add", f"{net}.1/24", "dev", cable)
        ip("link", "set", cable, "up")
        ip("-n", name, "address", "add", f"{net}.2/24", "dev", "up0")
        for link in ("up0", "lo"):
            ip("-n", name, "link", "set", link, "up")
        yield name, f"{net}.2"
    finally:
        with suppress(subprocess.CalledProcessError):
            ip("link", "delete", cable)
        ip("netns", "delete", name)


@contextmanager
def load(front: Muxd, text: str, clients: int = 6) -> Iterator[list["Future[int]"]]:
    """Clients that ask again and again until the end of the block: each answer must be this one."""
    is_over = Event()

    def ask() -> int:
        count = 0
        while not is_over.is_set():
            assert front.ask("qwen", max_tokens=30) == text
            count += 1
        return count

    with ThreadPoolExecutor(clients) as pool:
        asking = [pool.submit(ask) for _ in range(clients)]
        try:
            yield asking
        finally:
            is_over.set()
    assert sum(future.result() for future in asking) > clients


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Muxd, Host, Host]]:
    with ExitStack() as stack:
        made = []
        for number, name in enumerate(("left", "right")):
            where = stack.enter_context(namespace(number))
            made.append(stack.enter_context(Host(tmp_path_factory.mktemp(name), *where)))
        urls = {"left": made[0].url, "right": made[1].url}
        front = stack.enter_context(Muxd(tmp_path_factory.mktemp("front"), FRONT.format(**urls)))
        yield front, made[0], made[1]


def serves(front: Muxd, host: Host) -> bool:
    """Say whether the front passes requests to a host now."""
    before = host.answered
    for _ in range(4):
        front.ask("qwen")
    return host.answered > before


def test_both_hosts_answer(hosts):
    front, left, right = hosts
    eventually(lambda: serves(front, left) and serves(front, right), "requests go to both")


@pytest.mark.thorough
def test_a_host_that_is_drained_costs_no_request_and_has_its_part_again_when_it_is_back(hosts):
    front, left, right = hosts
    text = front.ask("qwen", max_tokens=30)
    eventually(lambda: serves(front, left) and serves(front, right), "requests go to both")
    with load(front, text):
        left.stop()
        eventually(lambda: "10.231." in (front.status("qwen")["reason"] or ""), "the front names who does not answer")
        left.start_again()
        before = left.answered
        eventually(lambda: left.answered > before + 5, "the host that is back has its part")


@pytest.mark.thorough
def test_a_host_that_crashes_costs_what_it_had_in_flight_at_most_and_has_its_part_again(hosts):
    front, left, right = hosts
    text = front.ask("qwen", max_tokens=30)
    eventually(lambda: serves(front, left) and serves(front, right), "requests go to both")
    lost = []
    with ThreadPoolExecutor(4) as pool:
        for _ in range(4):
            body = {"model": "qwen", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 30}
            lost.append(pool.submit(httpx.post, f"{front.url}/v1/chat/completions", json=body, timeout=8))
        right.crash()
        eventually(lambda: "10.231." in (front.status("qwen")["reason"] or ""), "the front names who does not answer")
    with load(front, text):  # who asks from now on loses nothing
        seen = left.answered
        eventually(lambda: left.answered > seen + 20, "the other one has all requests")
        right.boot()
        eventually(lambda: right.answered > 5, "the host that is back has its part")
    for future in lost:
        with suppress(httpx.TimeoutException, httpx.RemoteProtocolError):
            assert future.result().status_code in (200, 502, 503)
