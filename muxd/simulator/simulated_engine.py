"""The launcher's side of the engine: what it knows of its children, and what it lets through to them.

`SimulatedEngine` has the words of SGLang's tokenizer manager: paused, healthy, exiting.  It serves no
HTTP and knows no route.
"""

import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from enum import StrEnum
from typing import Any, Never

import trio

from .batch import Batch, Job
from .command_line import Flags
from .process_tree import ServerProcesses

# Seconds of SGLang's own, measured on 0.5.23; Flags.seconds brings them to this simulator's pace.
ABORT_POLL = 1.0  # a pause with abort looks this often whether everything has ended
CRASH = {"scheduler": 6.0, "detokenizer": 60.0}  # from a child's death to the launcher's, with its dumps
CRASH_WITHOUT_DUMPS = 1.0


class Status(StrEnum):
    STARTING = "starting"
    UP = "up"
    UNHEALTHY = "unhealthy"


class _Call:
    """One command under way; it is answered when every rank has answered."""

    def __init__(self, ranks: int) -> None:
        self._missing = ranks
        self.answer: dict[str, Any] = {}
        self.done = trio.Event()

    def take(self, answer: dict[str, Any]) -> None:
        self.answer = answer
        self._missing -= 1
        if self._missing == 0:
            self.done.set()


class SimulatedEngine:
    def __init__(self, flags: Flags, children: ServerProcesses) -> None:
        self.flags = flags
        self.status = Status.STARTING
        self.exiting = False
        self.served_model_name = flags.served_model_name
        self.model_path = flags.model_path
        self.batch = Batch(flags.batch_slots, flags.token_rate)
        self.requests: set[str] = set()  # ids of all that was accepted and is not yet answered, held ones too
        self._inside = 0  # requests that got past the pause
        self._unpaused: trio.Event | None = None
        self._children = children
        self._commands = [trio.lowlevel.FdStream(fd) for fd in children.commands]
        self._turn = trio.Lock()
        self._calls: dict[int, _Call] = {0: _Call(len(children.schedulers))}
        self._last_id = 0

    # What is so.

    @property
    def paused(self) -> bool:
        return self._unpaused is not None

    @property
    def healthy(self) -> bool:
        return self.status is Status.UP and not self.exiting

    @property
    def ready(self) -> bool:
        return self.healthy and not self.paused

    # The children.

    @property
    def last_step(self) -> float:
        """When the first scheduler last showed a sign of life; seconds since the epoch."""
        return self._children.last_step(0)

    async def run(self) -> None:
        """Listen to the children; their end is this process's end."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._read_replies)
            for pid in self._children.schedulers:
                nursery.start_soon(self._watch, pid, "scheduler")
            nursery.start_soon(self._watch, self._children.detokenizer, "detokenizer")

    async def loaded(self) -> None:
        """Return when every scheduler has its model loaded."""
        await self._calls[0].done.wait()

    async def call(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Have every scheduler do something; no answer ever comes from one that dies of it."""
        self._last_id += 1
        number = self._last_id
        call = self._calls[number] = _Call(len(self._commands))
        try:
            await self._tell({"do": do, "id": number, **arguments})
            await call.done.wait()
        finally:
            del self._calls[number]
        return call.answer

    async def _tell(self, command: dict[str, Any]) -> None:
        """Every scheduler; of one that is dead nothing comes any more."""
        line = json.dumps(command).encode() + b"\n"
        try:
            async with self._turn:
                for stream in self._commands:
                    await stream.send_all(line)
        except trio.BrokenResourceError:
            await trio.sleep_forever()

    async def _read_replies(self) -> None:
        rest = b""
        async with trio.lowlevel.FdStream(self._children.replies) as replies:
            async for data in replies:
                *lines, rest = (rest + data).split(b"\n")
                for line in lines:
                    answer = json.loads(line)
                    if call := self._calls.get(answer["id"]):
                        call.take(answer)

    async def _watch(self, pid: int, name: str) -> None:
        fd = os.pidfd_open(pid)
        try:
            await trio.lowlevel.wait_readable(fd)
        finally:
            os.close(fd)
        self._crash(name, told=_ended_itself(pid))

    def _crash(self, name: str, *, told: bool) -> Never:
        """A child is dead: write dumps for a while, answering nobody, then kill the tree and this process.

        `told`: the child ended itself and said so, SGLang need not find out.
        """
        dumps = ("SGLANG_PYSPY_DUMP_BEFORE_CRASH", "SGLANG_CUDA_COREDUMP_BEFORE_CRASH")
        if all(os.environ.get(key, "").lower() in ("0", "false") for key in dumps):
            delay = 0.0 if told else CRASH_WITHOUT_DUMPS
        else:
            delay = CRASH[name]
        print(f"SIGQUIT received. It usually means one child failed: {name}.", file=sys.stderr, flush=True)
        time.sleep(self.flags.seconds(delay))  # SGLang's event loop stands still here as well
        self._children.kill()
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("alive after SIGKILL")

    # Requests.

    @asynccontextmanager
    async def request(self, rid: str, *, generates: bool = False) -> AsyncIterator[str]:
        """One request's stay in the engine; gives the weights that will answer it, once it is let in.

        `generates`: it asks for text, which a server of embeddings dies of.
        """
        self.requests.add(rid)
        inside = 0
        try:
            while self._unpaused is not None:
                await self._unpaused.wait()
            inside = 1
            self._inside += 1
            answer = await self.call("compute", generates=generates)
            yield answer["weights"]
        finally:
            self._inside -= inside
            self.requests.discard(rid)

    @asynccontextmanager
    async def job(self, job: Job) -> AsyncIterator[Job]:
        """The request's stay in the batch."""
        self.batch.submit(job)
        try:
            yield job
        finally:
            self.batch.leave(job)

    # Control.

    async def pause(self, mode: str) -> None:
        """Hold what comes from now on; `abort` also ends what is under way, the other modes freeze it."""
        if self._unpaused is None:
            self._unpaused = trio.Event()
        if mode != "abort":
            self.batch.freeze(retract=mode == "retract")
            return
        self.batch.abort("")
        await self._tell({"do": "abort", "id": -1})  # nobody waits for the answer; the schedulers take a step by it
        while self._inside:
            await trio.sleep(self.flags.seconds(ABORT_POLL))
            self.batch.abort("")

    async def unpause(self) -> None:
        if self.batch.frozen and self.batch.running + self.batch.waiting:
            await self.call("compute")
        self.batch.thaw()
        if self._unpaused is not None:
            self._unpaused.set()
            self._unpaused = None

    async def release(self, tags: list[str]) -> None:
        await self.call("release", tags=tags, busy=self._busy())

    async def resume(self, tags: list[str]) -> None:
        await self.call("resume", tags=tags)

    async def reload(self, model_path: str) -> None:
        """Read these weights; from then on the server calls itself by their path."""
        await self.call("reload", model_path=model_path)
        self.model_path = self.served_model_name = model_path

    def end(self, status: int) -> Never:
        """End the launcher alone, at once; what becomes of its children is theirs."""
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)

    def _busy(self) -> int:
        """Requests that keep the engine from being idle; what waits does not while it is frozen."""
        return self.batch.running + (0 if self.batch.frozen else self.batch.waiting)


def _ended_itself(pid: int) -> bool:
    """Whether this dead child exited, rather than was killed."""
    result = os.waitid(os.P_PID, pid, os.WEXITED)
    return result is not None and result.si_code == os.CLD_EXITED
