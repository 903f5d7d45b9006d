"""One worker's life outside the core: start, probe, sleep, wake, stop, and what is left behind.

The core commands, a runner carries out and tells what happened.  One life is one trio
task, from `start` to the `WorkerExited` it ends with; sleep and wake are orders to it.
"""

import logging
import os
import secrets
import shutil
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import trio

from .children import Child, Children, ChildSpec, Exit
from .config import Config, Model
from .core.events import (
    Event,
    Failure,
    SleepFailed,
    WakeFailed,
    WorkerAsleep,
    WorkerExited,
    WorkerHung,
    WorkerReady,
    WorkerWedged,
)
from .engines import Engine, EngineCallFailed, Launch, LaunchPlan, Link, engine_for
from .errors import MuxdError
from .footprint import Footprint
from .gpus import Gpus, simulated_ledger_path
from .logfiles import tail
from .ports import HOST, PortTaken, Reservation
from .state import StateFile, WorkerRecord

log = logging.getLogger(__name__)

#: How often a loading server is asked whether it is ready.
READY_POLL = 0.1

#: And how often its shared memory is noted meanwhile, which costs some milliseconds.
LEFTOVERS_POLL = 1.0

#: After SIGKILL: so long until a worker that is still there is called stuck.
KILL_TIMEOUT = 10.0

LOG_TAIL_LINES = 20

#: Of muxd's own environment, what a worker must not see.
OWN_ENVIRONMENT = ("NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "JOURNAL_STREAM", "WATCHDOG_USEC")


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What all runners share."""

    config: Config
    children: Children
    gpus: Gpus
    state: StateFile
    http: httpx.AsyncClient  # must not keep connections: a call on one that just died would be in doubt
    tell: Callable[[Event], None]


@dataclass(frozen=True, slots=True)
class Order:
    """`sleep` or `wake`."""

    wake: bool


class Runner:
    def __init__(self, model: Model, around: Surroundings) -> None:
        self.model = model
        self.engine: Engine = engine_for(model)
        self.last_words: list[str] = []  # the end of its log when it last ended
        self.dropped_log_bytes = 0
        self.footprint = Footprint(around.gpus, model)
        self._around = around
        self._life: _Life | None = None

    @property
    def pid(self) -> int | None:
        return self._life.child.pid if self._life is not None and self._life.child is not None else None

    @property
    def log_files(self) -> dict[str, Path]:
        log_dir = self._around.config.daemon.log_dir
        return {stream: log_dir / f"{self.model.name}.{stream}.log" for stream in ("stdout", "stderr")}

    def start(self) -> Callable[[], Awaitable[None]]:
        """A new life: what to run until no process of it is left.  It can be stopped from now on."""
        assert self._life is None, f"{self.model.name} lives already"
        self._life = _Life(self, self._around)
        return self._live

    async def _live(self) -> None:
        assert self._life is not None
        try:
            await self._life.run()
        finally:
            self._life = None

    def sleep(self) -> None:
        self._order(Order(wake=False))

    def wake(self) -> None:
        self._order(Order(wake=True))

    def stop(self, *, kill: bool) -> None:
        if self._life is not None:
            self._life.stop(kill=kill)

    def _order(self, order: Order) -> None:
        if self._life is not None:
            self._life.orders.append(order)
            self._life.ordered.set()


class _CannotStart(Exception):
    """Nothing was started; `failure` says whether another try may help."""

    def __init__(self, failure: Failure, reason: str) -> None:
        super().__init__(reason)
        self.failure = failure
        self.reason = reason


class _Life:
    """From a start to its end."""

    def __init__(self, runner: Runner, around: Surroundings) -> None:
        self.runner = runner
        self.model = runner.model
        self.around = around
        self.child: Child | None = None
        self.orders: deque[Order] = deque()
        self.ordered = trio.Event()
        self._footprint = runner.footprint
        self._stopping = trio.Event()
        self._kill = False
        self._timed_out = False
        self._noted_at = 0.0
        self._launching = trio.CancelScope()
        self._reservation: Reservation | None = None
        self._workdir = around.config.daemon.state_dir / "workers" / f"{self.model.name}-{secrets.token_hex(4)}"

    def stop(self, *, kill: bool) -> None:
        self._kill = self._kill or kill
        self._stopping.set()
        self._launching.cancel()
        if self.child is not None:
            self.child.kill() if kill else self.child.stop()

    def tell(self, event: Event) -> None:
        self.around.tell(event)

    async def run(self) -> None:
        try:
            await self._launch()
        except _CannotStart as error:
            self._clean_up()
            self._ended(error.failure, error.reason)
            return
        assert self.child is not None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._serve, name=f"worker {self.model.name}")
            nursery.start_soon(self._watch_for_wedge, name=f"end of {self.model.name}")
            exit = await self.child.wait()
            nursery.cancel_scope.cancel()
        await self._after(exit)

    # The start

    async def _launch(self) -> None:
        """Reserve what it needs, then spawn it; raises _CannotStart."""
        try:
            self._reservation = Reservation(self.model.port)
        except PortTaken as error:
            raise _CannotStart(Failure.REFUSED, f"cannot start: {error.message}") from None
        self._footprint.forget()
        missing: str | None = None
        with self._launching:
            missing = await self._footprint.until_room_to_load()
        if missing is not None or self._stopping.is_set():
            raise _CannotStart(Failure.EXITED, f"cannot start: {missing or 'it was stopped first'}")
        try:
            self._spawn()
        except (OSError, MuxdError) as error:
            raise _CannotStart(Failure.EXITED, str(error)) from None

    def _spawn(self) -> None:
        assert self._reservation is not None
        daemon = self.around.config.daemon
        plan = LaunchPlan(
            port=self._reservation.port,
            workdir=self._workdir,
            admin_key=f"muxd-{secrets.token_hex(16)}",  # plain YAML text, whatever the digits
            simulated_gpu_ledger=simulated_ledger_path(self.around.config),
            simulated_gpu_memory=daemon.simulated_gpu_memory,
        )
        launch = self.runner.engine.launch(self.model, plan)
        self._write_files(launch)
        files = self.runner.log_files
        spec = ChildSpec(
            name=self.model.name,
            argv=launch.argv,
            env={**_own_environment(), **launch.env, **self.model.env},
            cwd=self.model.cwd or self._workdir,
            stdout=files["stdout"],
            stderr=files["stderr"],
            log_max_bytes=self.model.log_max_bytes,
            log_backups=self.model.log_backups,
            stop_timeout=self.model.stop_timeout,
            stop_signal=launch.stop_signal,
        )
        self.child = self.around.children.spawn(spec)
        self._record = WorkerRecord(
            child=self.child.record, workdir=str(self._workdir), port=plan.port, admin_key=plan.admin_key
        )
        self.around.state.state.workers[self.model.name] = self._record
        self.around.state.save()
        self.url = f"http://{HOST}:{plan.port}"
        self._link = Link(
            self.around.http,
            self.url,
            plan.admin_key,
            self._intend,
            call_timeout=self.model.call_timeout,
            probe_timeout=self.model.probe_timeout,
        )

    def _write_files(self, launch: Launch) -> None:
        (self._workdir / "tmp").mkdir(parents=True, mode=0o700)
        for path, text in launch.files.items():
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                file.write(text)

    def _intend(self, call: str | None) -> None:
        self._record.call = call
        self.around.state.save()

    # While it lives

    async def _serve(self) -> None:
        with trio.move_on_after(self.model.start_timeout) as scope:
            while not await self.runner.engine.is_ready(self._link):
                self._note_leftovers()
                await trio.sleep(READY_POLL)
        if scope.cancelled_caught:
            log.warning("%s: not ready %g s after its start: killed", self.model.name, self.model.start_timeout)
            self._timed_out = True
            self.stop(kill=True)
            return
        await self._became_ready()
        while not self._stopping.is_set():
            await self._probe_until_ordered()
            while self.orders and not self._stopping.is_set():
                await self._obey(self.orders.popleft())

    async def _became_ready(self) -> None:
        await self._footprint.loaded()
        self._note_leftovers(now=True)
        self._record.asleep = False
        self.around.state.save()
        self.tell(WorkerReady(trio.current_time(), self.model.name, self.url))

    async def _probe_until_ordered(self) -> None:
        """Ask every few seconds whether it is alive, until there is an order; tell when it is not."""
        misses = 0
        while not self.orders:
            self.ordered = trio.Event()
            with trio.move_on_after(self.model.probe_interval):
                await self.ordered.wait()
                return
            if await self.runner.engine.is_alive(self._link, self.model):
                misses = 0
                continue
            misses += 1
            if misses == self.model.probe_failures:
                reason = f"its liveness probe failed {misses} times in a row"
                self.tell(WorkerHung(trio.current_time(), self.model.name, reason))

    async def _obey(self, order: Order) -> None:
        if order.wake:
            await self._wake()
        else:
            await self._sleep()

    async def _sleep(self) -> None:
        try:
            await self._footprint.about_to_sleep()
            await self.runner.engine.sleep(self._link, self.model)
            self._record.asleep = True
            self.around.state.save()
            if over := await self._footprint.until_released():
                raise EngineCallFailed(over)
        except EngineCallFailed as error:
            self.tell(SleepFailed(trio.current_time(), self.model.name, error.message))
        else:
            self.tell(WorkerAsleep(trio.current_time(), self.model.name))

    def _note_leftovers(self, *, now: bool = False) -> None:
        """Write down, every second of a load, what a kill would leave outside its work folder."""
        assert self.child is not None
        if self.child.pid is None or not (now or trio.current_time() >= self._noted_at + LEFTOVERS_POLL):
            return
        self._noted_at = trio.current_time()
        found = [str(path) for path in self.runner.engine.leftovers(self.child.pid)]
        if found != self._record.leftovers:
            self._record.leftovers = found
            self.around.state.save()

    async def _wake(self) -> None:
        try:
            if missing := await self._footprint.until_room_to_wake():
                raise EngineCallFailed(missing)
            await self.runner.engine.wake(self._link, self.model)
            await self._until_serving()
        except EngineCallFailed as error:
            self.tell(WakeFailed(trio.current_time(), self.model.name, error.message))
            return
        self._record.asleep = False
        self.around.state.save()
        self.tell(WorkerReady(trio.current_time(), self.model.name, self.url))

    async def _until_serving(self) -> None:
        with trio.move_on_after(self.model.call_timeout):
            while not await self.runner.engine.is_ready(self._link):
                await trio.sleep(READY_POLL)
            return
        raise EngineCallFailed(f"not ready {self.model.call_timeout:g} s after its wake")

    async def _watch_for_wedge(self) -> None:
        """Once a stop is asked for: tell when it takes longer than any stop may."""
        await self._stopping.wait()
        await trio.sleep((0.0 if self._kill else self.model.stop_timeout) + KILL_TIMEOUT)
        reason = f"its processes are still there {KILL_TIMEOUT:.0f} s after SIGKILL"
        self.tell(WorkerWedged(trio.current_time(), self.model.name, reason))

    # The end

    async def _after(self, exit: Exit) -> None:
        self.runner.dropped_log_bytes += exit.dropped_bytes
        reason = f"did not become ready in {self.model.start_timeout:g} s" if self._timed_out else str(exit)
        failure = Failure.TIMED_OUT if self._timed_out else Failure.EXITED
        if exit.refused:
            failure = Failure.REFUSED
        if not self._record.asleep:
            await self._until_memory_is_back()
        self._clean_up()
        self._ended(failure, reason)

    async def _until_memory_is_back(self) -> None:
        """The processes are gone; if their memory is not, the worker is stuck until it is."""
        while over := await self._footprint.until_gone():
            reason = f"its processes are gone, but {over}"
            self.tell(WorkerWedged(trio.current_time(), self.model.name, reason))

    def _clean_up(self) -> None:
        if self._reservation is not None:
            self._reservation.close()
        record = self.around.state.state.workers.pop(self.model.name, None)
        if record is not None:
            remove_traces(record)
            self.around.state.save()
        shutil.rmtree(self._workdir, ignore_errors=True)

    def _ended(self, failure: Failure, reason: str) -> None:
        with suppress(OSError):
            self.runner.last_words = tail(self.runner.log_files["stderr"], LOG_TAIL_LINES)
        self.tell(WorkerExited(trio.current_time(), self.model.name, failure, reason))


def remove_traces(record: WorkerRecord) -> None:
    """Delete what a dead worker left on disk and in shared memory."""
    shutil.rmtree(record.workdir, ignore_errors=True)
    for path in record.leftovers:
        Path(path).unlink(missing_ok=True)


def _own_environment() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if key not in OWN_ENVIRONMENT}
