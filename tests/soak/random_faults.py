"""Random faults for a muxd under load: what each of them does, and when it did it."""

import os
import random
import signal
import socket
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from tests.end_to_end.muxd import Muxd
from tests.faults.conftest import SmallDisk
from tests.faults.test_shortages import answered, connected, files_of, malformed, open_files


@dataclass(frozen=True, slots=True)
class Fault:
    """What was done to what, and from when until when its immediate effect lasted; times are time.time()."""

    name: str
    began: float
    ended: float


class RandomFaults:
    """Does one thing at a time, of those that this user may do, chosen by a seed."""

    def __init__(self, muxd: Muxd, seed: int, disks: dict[str, SmallDisk]) -> None:
        self.muxd = muxd
        self.done: list[Fault] = []
        self.away = threading.Lock()  # held while muxd is killed and started again
        self._draw = random.Random(seed)
        self._disks = disks
        often: list[Callable[[], str]] = [self._kill_process, self._stop_process, self._switch, self._malformed]
        seldom = [self._kill_proxy, self._kill_muxd, self._idle_clients, self._reload, self._few_files, self._sleep]
        self._kinds = 3 * often + seldom + [self._fill_disk] * bool(disks)

    def one(self) -> None:
        began = time.time()
        name = self._draw.choice(self._kinds)()
        self.done.append(Fault(name, began, time.time()))

    @property
    def counts(self) -> dict[str, int]:
        return dict(Counter(fault.name for fault in self.done).most_common())

    def _process(self) -> int | None:
        """A process of a worker, mostly of one that answers."""
        alive = [one for one in self.muxd.status()["models"] if one["pid"]]
        if not alive:
            return None
        busy = [one for one in alive if one["in_flight"]]
        name = self._draw.choice(busy if busy and self._draw.random() < 0.7 else alive)["name"]
        with suppress(OSError, TypeError):  # it has ended meanwhile
            return self._draw.choice(sorted(self.muxd.worker(name).values()))
        return None

    def _signal(self, number: signal.Signals) -> None:
        if (pid := self._process()) is not None:
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def _kill_process(self) -> str:
        self._signal(signal.SIGKILL)
        return "a worker's process killed"

    def _stop_process(self) -> str:
        self._signal(signal.SIGSTOP)
        return "a worker's process stopped"

    def _kill_proxy(self) -> str:
        if (pid := self.muxd.status()["proxy"]["pid"]) is not None:
            os.kill(pid, signal.SIGKILL)
        return "the proxy killed"

    def _kill_muxd(self) -> str:
        with self.away:
            self.muxd.kill()
            self.muxd.start_again()
        return "muxd killed"

    def _switch(self) -> str:
        self._order("switch")
        return "an operator switches and leaves"

    def _sleep(self) -> str:
        self._order("sleep")
        return "an operator has one sleep"

    def _order(self, verb: str) -> None:
        name = self._draw.choice([one["name"] for one in self.muxd.status()["models"]])
        with connected(self.muxd) as client:
            client.sendall(f"POST /v1/models/{name}/{verb} HTTP/1.1\r\nHost: m\r\nContent-Length: 0\r\n\r\n".encode())
            client.recv(1)

    def _malformed(self) -> str:
        for _ in range(100):
            answered(connected(self.muxd), malformed(self._draw))
        return "malformed requests"

    def _idle_clients(self) -> str:
        with ExitStack() as held:
            for number in range(300):
                if number % 2:
                    client = held.enter_context(connected(self.muxd))
                else:
                    client = held.enter_context(socket.create_connection(("127.0.0.1", self.muxd.port), 30))
                with suppress(OSError):
                    client.send(b"POST /v1/chat")
        return "idle and half-open clients"

    def _reload(self) -> str:
        self.muxd.process.send_signal(signal.SIGHUP)
        return "a reload"

    def _few_files(self) -> str:
        pid = self.muxd.process.pid
        with files_of(pid, open_files(pid) + 1):
            time.sleep(1)
        return "muxd without descriptors"

    def _fill_disk(self) -> str:
        name = self._draw.choice(sorted(self._disks))
        self._disks[name].spoil()
        time.sleep(1)
        self._disks[name].mend()
        return f"the disk of the {name} full"


def small_disks(muxd_folder: os.PathLike[str], *names: str) -> dict[str, SmallDisk]:
    """Disks of 32 MB at these names in a folder; none where this user may not mount them."""
    disks = {}
    for name in names:
        folder = Path(muxd_folder) / name
        folder.mkdir()
        argv = ["mount", "-t", "tmpfs", "-o", "size=32m,mode=700", "tmpfs", str(folder)]
        if os.geteuid() == 0 and subprocess.run(argv, stderr=subprocess.DEVNULL, check=False).returncode == 0:
            disks[name] = SmallDisk(folder)
    return disks
