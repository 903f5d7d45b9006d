"""`muxd start` or `muxd proxy`, with stamps of all that a switch waits for; run by bench/switch.py.

One JSON line a stamp in the file that MUXD_STAMPS names: [seconds on the monotonic clock,
which is the same for all processes; what; of what; detail].  Sockets are stamped where bytes
leave and arrive, so that all that muxd does around an engine call counts as muxd's.
"""

import json
import os
import time
from collections.abc import Awaitable, Callable
from typing import Any

import trio

from muxd.core.scheduler import Scheduler
from muxd.engines.engine_client import EngineClient
from muxd.proxy.lease import ModelLease
from muxd.saved_state import StateFile
from muxd.workers.gpu_memory import GpuMemoryTracker
from muxd.workers.loading import Loading
from muxd.workers.process import WorkerProcess
from muxd.workers.proof_keeper import ProofKeeper

#: Seconds between the last stamp of a switch and its being in the file, with all before it.
WRITTEN_AFTER = 0.05

_OUT = os.open(os.environ["MUXD_STAMPS"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
_stamps: list[tuple[float, str, str, str]] = []


def stamp(what: str, of: str = "", detail: str = "") -> None:
    """Kept in memory until a moment after the next grant: writing must not take part in what is measured."""
    _stamps.append((time.monotonic(), what, of, detail))
    if what in ("granted", "admitted"):
        trio.lowlevel.spawn_system_task(_write_later)


async def _write_later() -> None:
    await trio.sleep(WRITTEN_AFTER)
    os.write(_OUT, b"".join(json.dumps(each).encode() + b"\n" for each in _stamps))
    _stamps.clear()


def stamp_core() -> None:
    plain = Scheduler.handle

    def handle(self: Scheduler, event: Any) -> Any:
        stamp("event", getattr(event, "worker", ""), type(event).__name__)
        commands = plain(self, event)
        stamp("decided", "", " ".join(type(command).__name__ for command in commands))
        for command in commands:
            if type(command).__name__ == "GrantLease":
                stamp("granted", self.host.leases.all[command.lease].group)
        return commands

    Scheduler.handle = handle  # type: ignore[method-assign]


def stamp_method(owner: type, name: str) -> None:
    plain: Callable[..., Awaitable[Any]] = getattr(owner, name)

    async def stamped(self: Any, *args: Any, **options: Any) -> Any:
        label = f"{owner.__name__}.{name}"
        stamp("begin", label)
        try:
            return await plain(self, *args, **options)
        finally:
            stamp("end", label)

    setattr(owner, name, stamped)


def stamp_saves() -> None:
    plain = StateFile.save

    def save(self: StateFile, **options: Any) -> int:
        stamp("begin", "StateFile.save")
        change = plain(self, **options)
        stamp("end", "StateFile.save")
        return change

    StateFile.save = save  # type: ignore[method-assign]


def stamp_sockets() -> None:
    """Every exchange with a worker: when its request was sent, and when the first bytes of its answer came."""
    send, receive = trio.SocketStream.send_all, trio.SocketStream.receive_some
    asked: dict[int, str] = {}

    async def send_all(self: trio.SocketStream, data: bytes) -> None:
        await send(self, data)
        if self.socket.family == trio.socket.AF_INET:
            if id(self) not in asked:
                asked[id(self)] = bytes(data[:80]).split(b" ")[1].decode()
            stamp("sent", asked[id(self)])

    async def receive_some(self: trio.SocketStream, max_bytes: int | None = None) -> bytes | bytearray:
        data = await receive(self, max_bytes)
        path = asked.pop(id(self), None)
        if path is not None:
            stamp("answered", path)
        return data

    trio.SocketStream.send_all = send_all  # type: ignore[method-assign,assignment]
    trio.SocketStream.receive_some = receive_some  # type: ignore[method-assign]


def stamp_admission() -> None:
    plain = ModelLease._on_granted

    def admit(self: ModelLease, url: str, generation: int) -> None:
        plain(self, url, generation)
        stamp("admitted", self.name)

    ModelLease._on_granted = admit  # type: ignore[method-assign]


def main() -> None:
    stamp_core()
    for owner, name in (
        (WorkerProcess, "_sleep"),
        (WorkerProcess, "_wake"),
        (Loading, "until_serving"),
        *((GpuMemoryTracker, name) for name in ("until_released", "until_room_to_wake", "came")),
        *((EngineClient, name) for name in ("call", "ask", "probe", "prove")),
        (StateFile, "until_written"),
        (ProofKeeper, "prove"),
    ):
        stamp_method(owner, name)
    stamp_saves()
    stamp_sockets()
    stamp_admission()
    from muxd.__main__ import main as muxd

    muxd()


if __name__ == "__main__":
    main()
