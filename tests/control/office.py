"""An Office that remembers what it was asked, and tells what the test wants told."""

import getpass
from pathlib import Path
from typing import Any

import trio

from muxd.borrowers import Borrower
from muxd.core.events import Verb
from muxd.core.spec import LoanTerms
from muxd.errors import BadRequest, ConfigError, LoanNotFound, ModelNotFound
from muxd.history.journal import ALL, EntryFilter
from muxd.history.series import SeriesQuery
from muxd.protocol import (
    LeaseQueued,
    LeaseRelease,
    LeaseWish,
    MuxdMessage,
    ProxyMessage,
    SessionRefused,
    ToldError,
)

Message = dict[str, Any]
Served = {"qwen": "qwen", "Qwen/Qwen3-14B": "qwen", "odd/logs": "odd", "odd": "odd"}


METRICS = '# TYPE a gauge\na{model="é"} 1.0\n'


class OfficeSession:
    """Remembers what its proxy says, in the office; `say` tells the proxy something."""

    def __init__(self, office: "FakeOffice") -> None:
        self._office = office
        self._tell, self._told = trio.open_memory_channel[MuxdMessage](256)

    def take(self, message: ProxyMessage) -> None:
        if message == LeaseRelease(13):
            raise BadRequest("13 brings no luck")
        self._office.asked.append(message)
        if isinstance(message, LeaseWish):
            self.say(LeaseQueued(message.lease, 1))

    def say(self, message: MuxdMessage) -> None:
        self._tell.send_nowait(message)

    def refuse(self, error: ToldError) -> None:
        self.say(SessionRefused(error))
        self.end()

    def end(self) -> None:
        self._tell.close()

    async def messages(self) -> list[MuxdMessage]:
        async for message in self._told:
            return [message]
        return []

    def close(self) -> None:
        self._office.asked.append("closed")
        self._office.closed.set()


class FakeOffice:
    """Knows the models `qwen` (served as Qwen/Qwen3-14B) and `odd` (served as odd/logs)."""

    def __init__(self, logs: Path) -> None:
        self.asked: list[Any] = []
        self.logs = logs
        self.lost: Message | None = None  # of every log
        self.broken: list[str] = []  # what is wrong with the configuration
        self.sessions: list[OfficeSession] = []
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

    def switch(self, name: str, by: str = "") -> trio.MemoryReceiveChannel[Message]:
        assert by == getpass.getuser()
        self.asked.append(("switch", name))
        tell, told = trio.open_memory_channel[Message](64)
        self.switches.append(tell)
        self.opened.set()
        return told

    def hold(self, name: str, seconds: float | None, by: str = "") -> trio.MemoryReceiveChannel[Message]:
        self.asked.append(("hold", name, seconds))
        tell, told = trio.open_memory_channel[Message](64)
        self.switches.append(tell)
        self.opened.set()
        return told

    def unhold(self, name: str, by: str = "") -> None:
        self.asked.append(("unhold", name))

    def lend(self, terms: LoanTerms, by: str = "") -> tuple[int, trio.MemoryReceiveChannel[Message]]:
        self.asked.append(("lend", terms))
        tell, told = trio.open_memory_channel[Message](64)
        self.switches.append(tell)
        self.opened.set()
        return 4, told

    def attend_loan(self, number: int) -> trio.MemoryReceiveChannel[Message]:
        if number != 4:
            raise LoanNotFound(f"there is no loan {number}")
        return self.lend(LoanTerms())[1]

    async def borrow(self, number: int, borrower: Borrower) -> None:
        self.asked.append(("borrow", number, borrower.pid, borrower.uid))

    def leave_loan(self, number: int) -> None:
        self.asked.append(("leave_loan", number))
        self.closed.set()

    def end_yields(self) -> int:
        self.asked.append(("end_yields",))
        return 1

    def order(
        self,
        name: str,
        verb: Verb,
        *,
        now: bool = False,
        level: int | None = None,
        replicas: int = 0,
        by: str = "",
    ) -> trio.MemoryReceiveChannel[Message]:
        more = [replicas] if verb is Verb.SCALE else [] if level is None else [level]
        self.asked.append((str(verb), name, now, *more))
        tell, told = trio.open_memory_channel[Message](64)
        self.switches.append(tell)
        self.opened.set()
        return told

    def validate(
        self, name: str, levels: tuple[int, ...], cycles: int, by: str = ""
    ) -> tuple[int, trio.MemoryReceiveChannel[Message]]:
        self.asked.append(("validate", name, levels, cycles))
        tell, told = trio.open_memory_channel[Message](64)
        self.switches.append(tell)
        self.opened.set()
        return 5, told

    def end_validation(self, name: str, number: int) -> None:
        self.asked.append(("end_validation", name, number))
        self.closed.set()

    async def reload(self, *, dry_run: bool = False, by: str = "") -> Message:
        await trio.lowlevel.checkpoint()
        self.asked.append(("reload", dry_run))
        if self.broken:
            raise ConfigError(self.broken)
        return {"applied": not dry_run, "plan": []}

    def open_session(self) -> "OfficeSession":
        self.sessions.append(OfficeSession(self))
        self.opened.set()
        return self.sessions[-1]

    async def requests(self, states: frozenset[str], wanted: EntryFilter) -> Message:
        await trio.lowlevel.checkpoint()
        self.asked.append(("requests", sorted(states), wanted))
        return {"requests": [], "left_out": 0}

    def recent_switches(self, wanted: EntryFilter, began_before: float) -> list[Message]:
        self.asked.append(("switches", wanted, began_before))
        return []

    def series(self, query: SeriesQuery) -> Message:
        self.asked.append(query)
        return {"models": {}}

    def usage(self, days: int, key: str | None, model: str | None) -> Message:
        self.asked.append(("usage", days, key, model))
        return {"usage": []}

    def ended_requests(self, after: int | None, wanted: EntryFilter) -> trio.MemoryReceiveChannel[Message]:
        self.asked.append(("ended_requests", after, wanted))
        tell, told = trio.open_memory_channel[Message](64)
        tell.send_nowait({"id": 1, "type": "request"})
        tell.close()
        return told

    async def cancel_request(self, id: str, by: str) -> Message:
        await trio.lowlevel.checkpoint()
        self.asked.append(("cancel", id, by))
        return {"cancelled": 1, "id": id}

    def events(
        self, after: int | None, *, follow: bool, wanted: EntryFilter = ALL
    ) -> trio.MemoryReceiveChannel[Message]:
        self.asked.append(("events", after) if wanted == ALL else ("events", after, wanted))
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

    def all_logs(self) -> dict[str, Path]:
        return {f"{name} {stream}": path for name in ("qwen",) for stream, path in self.log_of(name)[0].items()}

    def shutdown(self, *, by: str = "") -> None:
        self.asked.append(("shutdown",))

    async def prepare_handover(self, *, upgrade: bool, now: bool) -> None:
        self.asked.append(("prepare_handover", upgrade, now))

    def leave(self) -> None:
        self.asked.append(("leave",))
