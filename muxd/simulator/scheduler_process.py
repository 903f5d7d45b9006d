"""The scheduler child, which holds the GPU memory and dies when that is used wrongly, and the detokenizer child.

Both stay small: the standard library, blocking calls, one line of JSON per command.  The detokenizer only passes on
answers of the scheduler, so that generation needs both to be alive.
"""

import json
import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from mmap import mmap
from typing import Any

from .command_line import Flags
from .gpu_ledger import GpuLedger, OutOfMemory
from .rank_memory import GARBAGE, KV, WEIGHTS, Fatal, RankMemory

_STEP = 1.0  # seconds between two signs of life of an idle scheduler
_ORPHANED_FOR = 30.0  # seconds that a scheduler lives on whose main process died during the load
_EVER = 3600.0  # seconds that a detokenizer lives on then; SGLang's lives for ever


def run_scheduler(
    flags: Flags, rank: int, is_open: mmap, commands: int, tokens: int, replies: int, took_step: Callable[[], None]
) -> None:
    """Load, then carry out the main process's commands until that is gone; die of a wrong command as SGLang does.

    `is_open` begins with 1 once the gate is open, see `gate`.  `commands`, `tokens` and `replies` are pipe ends.
    `took_step` is called about every second as long as this process gets on with its work.
    """
    try:
        time.sleep(flags.import_time)
        if (port := flags.gated_launch_port) is not None:
            from .gate import wait_at_gate  # and with it http.server, which keeps no process small

            wait_at_gate(flags, port, rank, is_open)
        memory = _memory(flags, rank)
        _load(memory, flags, rank)
        _Scheduler(flags, memory, tokens, replies, took_step).run(commands)
    except (AssertionError, KeyError, Fatal, OutOfMemory) as error:
        name, text = type(error).__name__, str(error)
        if isinstance(error, OutOfMemory):  # torch counts the GPUs that the process sees
            name, text = (
                "torch.OutOfMemoryError",
                text.replace(f"GPU {error.gpu}", f"GPU {flags.gpus.index(error.gpu)}"),
            )
        print(f"[TP{rank}] Scheduler hit an exception: {traceback.format_exc()}", file=sys.stderr)
        print(f"{name}: {text}", file=sys.stderr, flush=True)
        os._exit(1)


def run_detokenizer(flags: Flags, tokens: int, replies: int) -> None:
    """Pass the scheduler's answers on to the main process until the main process is gone."""
    serving = False
    for line in _lines(tokens, lambda: None):
        serving = serving or json.loads(line)["do"] == "serve"
        try:
            os.write(replies, line)
        except BrokenPipeError:
            return
    if not serving:
        _live_as_orphan(flags, _EVER)
    main_process = select.poll()
    main_process.register(replies, 0)  # no events but the error that comes when the main process has ended
    main_process.poll()


def _memory(flags: Flags, rank: int) -> RankMemory:
    """Return the memory of this rank, whose GPUs are every tp_size-th of the model's."""
    ledger = GpuLedger(flags.ledger, flags.gpu_memory) if flags.ledger else None
    shares = len(flags.gpus)
    return RankMemory(
        ledger,
        flags.gpus[rank :: flags.tp_size],
        {WEIGHTS: flags.weights // shares, KV: flags.kv // shares},
        flags.overhead // shares,
        saver=flags.enable_memory_saver,
        backup=flags.enable_weights_cpu_backup,
        lag=flags.release_lag,
        linger=flags.faults.number("stubborn-memory") or 0.0,
    )


def _load(memory: RankMemory, flags: Flags, rank: int) -> None:
    began = time.monotonic()
    load_time = flags.faults.number("load-time")
    print(f"[TP{rank}] Load weight begin.", flush=True)
    memory.load(flags.model_path)
    time.sleep(max(0.0, (flags.load_time if load_time is None else load_time) + began - time.monotonic()))
    print(f"[TP{rank}] Load weight end.", flush=True)
    if flags.faults.has("oom-text"):
        raise OutOfMemory(flags.gpus[rank % len(flags.gpus)], flags.kv, 0, flags.gpu_memory)
    memory.make_pool()


class _Scheduler:
    """A loaded scheduler: it carries out the main process's commands."""

    def __init__(
        self, flags: Flags, memory: RankMemory, tokens: int, replies: int, took_step: Callable[[], None]
    ) -> None:
        self._took_step = took_step
        self._flags = flags
        self._memory = memory
        self._tokens = tokens
        self._replies = replies
        self._serving = False

    def run(self, commands: int) -> None:
        self._answer(self._replies, {"do": "loaded", "id": 0})
        for line in _lines(commands, self._step):
            command = json.loads(line)
            # The answers to generation go through the detokenizer, as SGLang's tokens do.
            way = self._tokens if command["do"] in ("compute", "serve") else self._replies
            self._answer(way, self._carry_out(command))
        if not self._serving:
            _live_as_orphan(self._flags, _ORPHANED_FOR)

    def _step(self) -> float:
        """Show a sign of life and free the memory that is due; return the seconds until the next step."""
        self._took_step()
        due = self._memory.free_due()
        return _STEP if due is None else min(due, _STEP)

    def _carry_out(self, command: dict[str, Any]) -> dict[str, Any]:
        """Carry out one command and return its answer; raise where SGLang's scheduler dies of it."""
        match command["do"]:
            case "serve":
                self._serving = True
            case "compute":
                if self._flags.is_embedding and command.get("generates"):  # as seen on 0.5.23
                    raise Fatal("'LogitsProcessorOutput' object has no attribute 'embeddings'")
                self._memory.compute()
            case "release":
                time.sleep(0 if command["busy"] or not _has_weights(command) else self._flags.sleep_time)
                self._memory.release(command["tags"], command["busy"])
            case "resume":
                self._memory.resume(command["tags"])
                self._spoil_weights()
                restores = _has_weights(command) and self._flags.enable_weights_cpu_backup
                time.sleep(self._flags.wake_time if restores else 0)
            case "reload":
                self._memory.reload(command["model_path"])
                self._spoil_weights()
                time.sleep(self._flags.wake_time)
        return {"do": command["do"], "id": command["id"], "weights": self._memory.weights}

    def _spoil_weights(self) -> None:
        if self._flags.faults.has("wake-wrong"):
            self._memory.weights = GARBAGE

    def _answer(self, way: int, answer: dict[str, Any]) -> None:
        try:
            os.write(way, json.dumps(answer).encode() + b"\n")
        except BrokenPipeError:
            if self._serving:
                os._exit(0)


def _has_weights(command: dict[str, Any]) -> bool:
    return not command["tags"] or WEIGHTS in command["tags"]


def _live_as_orphan(flags: Flags, seconds: float) -> None:
    """Live on for some seconds, as SGLang's children do when their main process dies during a load."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    time.sleep(flags.seconds(seconds))


def _lines(fd: int, between: Callable[[], float | None]) -> Iterator[bytes]:
    """Yield the lines that arrive until the other end is closed.

    `between` runs between two reads, and returns after how many seconds it has to run again at the latest.
    """
    rest = b""
    while True:
        wait = between()
        if not select.select([fd], [], [], wait)[0]:
            continue
        if not (data := os.read(fd, 65536)):
            return
        *lines, rest = (rest + data).split(b"\n")
        yield from (line + b"\n" for line in lines)
