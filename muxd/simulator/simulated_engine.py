"""The main process's side of the engine: what the main process knows of its children, and what it sends to them.

`SimulatedEngine` uses the words of SGLang's tokenizer manager: paused, healthy, exiting.  It serves no HTTP and knows
no route.
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

# SGLang's own waits in seconds, measured on 0.5.23; Flags.seconds brings them to this simulator's pace.
ABORT_POLL = 1.0  # between two checks of a pause with abort whether everything has ended
CRASH = {"scheduler": 6.0, "detokenizer": 60.0}  # from a child's death to the main process's, with its dumps
CRASH_WITHOUT_DUMPS = 1.0


class Status(StrEnum):
    """The server's status as SGLang's tokenizer manager has it."""

    STARTING = "starting"
    UP = "up"
    UNHEALTHY = "unhealthy"


class _Call:
    """One command to the schedulers; `done` is set when every rank has answered."""

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
    """The children, the batch and the pause of one server."""

    def __init__(self, flags: Flags, children: ServerProcesses) -> None:
        self.flags = flags
        self.status = Status.STARTING
        self.exiting = False
        self.served_model_name = flags.served_model_name
        self.model_path = flags.model_path
        self.batch = Batch(flags.batch_slots, flags.token_rate)
        self.requests: set[str] = set()  # ids of the requests that are not answered yet, those held by a pause too
        self._inside = 0  # requests that got past the pause
        self._unpaused: trio.Event | None = None
        self._children = children
        self._commands = [trio.lowlevel.FdStream(fd) for fd in children.commands]
        self._turn = trio.Lock()
        self._calls: dict[int, _Call] = {0: _Call(len(children.schedulers))}
        self._last_id = 0

    # State

    @property
    def paused(self) -> bool:
        return self._unpaused is not None

    @property
    def healthy(self) -> bool:
        return self.status is Status.UP and not self.exiting

    @property
    def ready(self) -> bool:
        return self.healthy and not self.paused

    # The children

    @property
    def last_step(self) -> float:
        """Return when the first scheduler last showed a sign of life, in seconds since the epoch."""
        return self._children.last_step(0)

    async def run(self) -> None:
        """Read the children's replies; end this process when a child ends."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._read_replies)
            for pid in self._children.schedulers:
                nursery.start_soon(self._watch, pid, "scheduler")
            nursery.start_soon(self._watch, self._children.detokenizer, "detokenizer")

    async def loaded(self) -> None:
        """Return when every scheduler has its model loaded."""
        await self._calls[0].done.wait()

    async def call(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Send a command to every scheduler and return the answer; never return where a scheduler dies of it."""
        self._last_id += 1
        number = self._last_id
        call = self._calls[number] = _Call(len(self._commands))
        try:
            await self._send({"do": do, "id": number, **arguments})
            await call.done.wait()
        finally:
            del self._calls[number]
        return call.answer

    async def _send(self, command: dict[str, Any]) -> None:
        """Send a command to every scheduler; wait for ever where one of them is dead."""
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
        self._crash(name, exited=_exited(pid))

    def _crash(self, name: str, *, exited: bool) -> Never:
        """Pretend to write dumps after a child's death, answering nobody, then kill the tree and this process.

        `exited`: the child ended itself and told its main process, so SGLang need not find out.
        """
        dumps = ("SGLANG_PYSPY_DUMP_BEFORE_CRASH", "SGLANG_CUDA_COREDUMP_BEFORE_CRASH")
        if all(os.environ.get(key, "").lower() in ("0", "false") for key in dumps):
            delay = 0.0 if exited else CRASH_WITHOUT_DUMPS
        else:
            delay = CRASH[name]
        print(f"SIGQUIT received. It usually means one child failed: {name}.", file=sys.stderr, flush=True)
        time.sleep(self.flags.seconds(delay))  # SGLang's event loop stands still here as well
        self._children.kill()
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("alive after SIGKILL")

    # Requests

    @asynccontextmanager
    async def request(self, rid: str, *, generates: bool = False) -> AsyncIterator[str]:
        """Keep a request in the engine; yield the weights that will answer it, once no pause holds it.

        `generates`: the request asks for text, of which a server started with --is-embedding dies.
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
        """Keep a job in the batch."""
        self.batch.submit(job)
        try:
            yield job
        finally:
            self.batch.leave(job)

    # Control

    async def pause(self, mode: str) -> None:
        """Hold the requests that come from now on; mode `abort` also ends those that run, other modes freeze them."""
        if self._unpaused is None:
            self._unpaused = trio.Event()
        if mode != "abort":
            self.batch.freeze(retract=mode == "retract")
            return
        self.batch.abort("")
        await self._send({"do": "abort", "id": -1})  # only makes the schedulers take a step: nobody waits for an answer
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
        """Read the weights at this path; as with SGLang, the path is the served name from then on."""
        await self.call("reload", model_path=model_path)
        self.model_path = self.served_model_name = model_path

    def end(self, status: int) -> Never:
        """End the main process alone, at once; its children may live on."""
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)

    def _busy(self) -> int:
        """Return how many requests keep the engine from being idle; while it is frozen, waiting ones do not."""
        return self.batch.running + (0 if self.batch.frozen else self.batch.waiting)


def _exited(pid: int) -> bool:
    """Say whether this dead child exited, rather than was killed."""
    result = os.waitid(os.P_PID, pid, os.WEXITED)
    return result is not None and result.si_code == os.CLD_EXITED
