"""An Office that remembers what it was asked, and tells what the test wants told."""

from pathlib import Path
from typing import Any

import trio

from muxd.core.events import Verb, Waiting
from muxd.errors import ConfigError, LeaseNotFound, ModelNotFound

Message = dict[str, Any]
Served = {"qwen": "qwen", "Qwen/Qwen3-14B": "qwen", "odd/logs": "odd", "odd": "odd"}


METRICS = '# TYPE a gauge\na{model="é"} 1.0\n'


class FakeOffice:
    """Knows the models `qwen` (served as Qwen/Qwen3-14B) and `odd` (served as odd/logs)."""

    def __init__(self, logs: Path) -> None:
        self.asked: list[tuple[Any, ...]] = []
        self.logs = logs
        self.lost: Message | None = None  # of every log
        self.broken: list[str] = []  # what is wrong with the configuration
        self.open: dict[int, trio.MemorySendChannel[Message]] = {}
        self.opened = trio.Event()
        self.closed = trio.Event()
        self.switches: list[trio.MemorySendChannel[Message]] = []

    def version(self) -> Message:
        return {"version": "0", "pid": 1, "api": 1, "started": 0.0}

    def proxy_settings(self) -> dict[str, Any]:
        return {"models": {}, "keys": []}

    def status(self) -> Message:
        return {"models": []}

    async def metrics(self) -> bytes:
        await trio.lowlevel.checkpoint()
        return METRICS.encode()

    def resolve(self, name: str) -> str:
        if name not in Served:
            raise ModelNotFound(f"there is no model {name}; the nearest is qwen", nearest="qwen")
        return Served[name]

    def model_status(self, name: str) -> Message:
        if name == "odd":
            return {"name": name, "last_exit": {"reason": "out of memory", "log_tail": ["api_key='secret'"]}}
        return {"name": name}

    def switch(self, name: str) -> trio.MemoryReceiveChannel[Message]:
        self.asked.append(("switch", name))
        tell, told = trio.open_memory_channel[Message](64)
        self.switches.append(tell)
        self.opened.set()
        return told

    def order(
        self, name: str, verb: Verb, *, now: bool = False, level: int | None = None
    ) -> trio.MemoryReceiveChannel[Message]:
        self.asked.append((str(verb), name, now) if level is None else (str(verb), name, now, level))
        tell, told = trio.open_memory_channel[Message](64)
        self.switches.append(tell)
        self.opened.set()
        return told

    def validate(
        self, name: str, levels: tuple[int, ...], cycles: int
    ) -> tuple[int, trio.MemoryReceiveChannel[Message]]:
        self.asked.append(("validate", name, levels, cycles))
        tell, told = trio.open_memory_channel[Message](64)
        self.switches.append(tell)
        self.opened.set()
        return 5, told

    def end_validation(self, name: str, number: int) -> None:
        self.asked.append(("end_validation", name, number))
        self.closed.set()

    async def unload(self, name: str) -> Message:
        await trio.lowlevel.checkpoint()
        self.asked.append(("unload", name))
        return {"model": name, "sleeps": False, "reason": "it is in use"}

    async def reload(self, *, dry_run: bool = False) -> Message:
        await trio.lowlevel.checkpoint()
        self.asked.append(("reload", dry_run))
        if self.broken:
            raise ConfigError(self.broken)
        return {"applied": not dry_run, "plan": []}

    def open_lease(self, name: str, waiting: tuple[Waiting, ...]) -> tuple[int, trio.MemoryReceiveChannel[Message]]:
        self.asked.append(("lease", name, waiting))
        lease = 17 + len(self.open)
        tell, told = trio.open_memory_channel[Message](64)
        self.open[lease] = tell
        tell.send_nowait({"type": "queued", "lease": str(lease), "model": name, "position": 1, "eta_s": None})
        self.opened.set()
        return lease, told

    def report_demand(self, lease: int, in_flight: int, waiting: tuple[Waiting, ...]) -> None:
        if lease not in self.open:
            raise LeaseNotFound(f"there is no lease {lease}")
        self.asked.append(("demand", lease, in_flight, waiting))

    def close_lease(self, lease: int) -> None:
        self.asked.append(("close", lease))
        self.open.pop(lease).close()
        self.closed.set()

    def events(self, after: int | None, *, follow: bool) -> trio.MemoryReceiveChannel[Message]:
        self.asked.append(("events", after))
        tell, told = trio.open_memory_channel[Message](64)
        for number in range((after or 0) + 1, 4):
            tell.send_nowait({"id": number, "type": "started", "model": "qwen"})
        if follow:
            self.switches.append(tell)
        else:
            tell.close()
        return told

    def log_of(self, name: str) -> tuple[dict[str, Path], Message | None]:
        name = self.resolve(name)
        return {stream: self.logs / f"{name}.{stream}.log" for stream in ("stdout", "stderr")}, self.lost

    def shutdown(self) -> None:
        self.asked.append(("shutdown",))
