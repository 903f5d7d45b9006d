"""muxd as PID 1 of a container: a real PID namespace, real processes, simulated models."""

import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.end_to_end.conftest import two_models
from tests.end_to_end.muxd import Muxd, eventually

UNSHARE = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")


class Container(Muxd):
    """A muxd that finds itself alone in the world."""

    def _run(self, *words: str) -> "subprocess.Popen[bytes]":
        argv = [*UNSHARE, sys.executable, "-m", "muxd", *words, "--config", str(self.config)]
        return subprocess.Popen(argv, stdout=self._log, stderr=self._log, cwd=self.folder)

    @property
    def init(self) -> int:
        """muxd's pid as it is seen from out here."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return int(children.split()[0])

    def stop(self) -> None:
        """As `docker stop` does; unshare ends with muxd's exit status."""
        subprocess.run(["kill", "-TERM", str(self.init)], check=True)
        assert self.process.wait(self.deadline) == 0, self.log

    def inside(self, command: str) -> str:
        """What a command prints that is run in the container, as `docker exec` runs one."""
        argv = ["nsenter", "--target", str(self.init), "--pid", "--mount", "sh", "-c", command]
        return subprocess.run(argv, capture_output=True, text=True, check=True, timeout=self.deadline).stdout.strip()


@pytest.fixture(scope="module", autouse=True)
def _namespaces() -> None:
    if shutil.which("unshare") is None or shutil.which("nsenter") is None:
        pytest.skip("needs unshare and nsenter")
    tried = subprocess.run([*UNSHARE, "true"], capture_output=True, text=True, check=False)
    if tried.returncode:
        pytest.skip(f"a PID namespace needs root: {tried.stderr.strip()}")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Container]:
    """For tests that leave it running; a model that dies is started again at once each time."""
    models = two_models(alpha_keys='stable_after = "0s"')
    with Container(tmp_path_factory.mktemp("container"), models) as running:
        yield running


@pytest.fixture
def container(tmp_path: Path) -> Iterator[Container]:
    with Container(tmp_path, two_models()) as running:
        yield running


def test_it_is_pid_1_and_switches_models(shared):
    assert shared.status()["pid"] == 1
    assert shared.ask("alpha")
    assert shared.ask("beta")
    assert shared.state("alpha") == "asleep"


def test_orphans_that_it_never_heard_of_are_buried(shared):
    """What `docker exec` left running, for example."""
    orphan = shared.inside("sleep 1000 >/dev/null 2>&1 & echo $!")
    assert shared.inside(f"grep PPid: /proc/{orphan}/status").split() == ["PPid:", "1"]
    shared.inside(f"kill -KILL {orphan}")
    eventually(lambda: shared.inside(f"test -e /proc/{orphan} || echo gone") == "gone", "its zombie is gone")


def test_a_worker_that_is_killed_is_swept_and_started_again(shared):
    shared.ask("alpha")
    worker = shared.status("alpha")["pid"]
    shared.inside(f"kill -KILL {worker}")
    eventually(lambda: shared.status("alpha")["pid"] not in (None, worker), "it is started again")
    assert shared.ask("alpha")
    eventually(lambda: "Z" not in shared.inside("ps -eo stat=").replace("\n", ""), "no zombie is left")


def test_a_worker_whose_shim_is_killed_leaves_nothing_either(shared):
    """Its processes become muxd's own children, and muxd ends and buries them."""
    shared.ask("alpha")
    worker = shared.status("alpha")["pid"]
    shim = shared.inside(f"cut -d' ' -f4 /proc/{worker}/stat")
    shared.inside(f"kill -KILL {shim}")
    eventually(lambda: shared.status("alpha")["pid"] not in (None, worker), "it is started again")
    assert shared.ask("alpha")
    eventually(lambda: "Z" not in shared.inside("ps -eo stat=").replace("\n", ""), "no zombie is left")


@pytest.mark.thorough
def test_sigterm_ends_it_with_success_and_nothing_is_left(container):
    container.ask("alpha")
    container.ask("beta")
    container.stop()
    assert container.left_behind() == {}
    assert "stopped" in container.log


@pytest.mark.thorough
def test_sigkill_takes_everything_along(container):
    """PID 1 is the namespace: the kernel ends the rest, and the state on the volume says what there was."""
    container.ask("alpha")
    subprocess.run(["kill", f"-{signal.SIGKILL.value}", str(container.init)], check=True)
    container.process.wait()
    eventually(lambda: not container.left_behind(), "nothing is left")
    container.start_again()
    assert container.ask("alpha")
