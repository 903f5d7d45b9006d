"""The supervisor's hand on one model's worker: start, sleep, wake, stop."""

from collections.abc import Awaitable, Callable
from pathlib import Path

from muxd.children import Dropped
from muxd.config import Model
from muxd.engines import Engine, engine_for

from .gpu_memory import GpuMemoryTracker
from .launch import WorkerContext, log_files
from .process import WorkerProcess


class Runner:
    """Carries out what the core commands for one worker; what happens is told as events.

    Between two lives it remembers what outlasts a process: the end of its log, what it was
    seen to take on its GPUs, and the longest text that its server takes.
    """

    def __init__(self, model: Model, context: WorkerContext) -> None:
        self.model = model
        self._engine: Engine = engine_for(model)
        self._gpu_memory = GpuMemoryTracker(context.gpus, model)
        self._context = context
        self._life: WorkerProcess | None = None
        self._context_length: int | None = None
        self._last_words: list[str] = []
        self._dropped = Dropped()  # in its former lives

    def renew(self, model: Model) -> None:
        """Another configuration holds; no process of the former is left."""
        assert self._life is None, f"{self.model.name} lives"
        self.model = model
        self._engine = engine_for(model)
        self._gpu_memory = GpuMemoryTracker(self._context.gpus, model)
        self._context_length = None

    def update(self, model: Model) -> None:
        """The configuration changed in what does not concern its processes."""
        self.model = model
        self._gpu_memory.update(model)
        if self._life is not None:
            self._life.update(model)

    @property
    def gpu_memory(self) -> GpuMemoryTracker:
        return self._gpu_memory

    @property
    def pid(self) -> int | None:
        return self._life.child.pid if self._life is not None and self._life.child is not None else None

    @property
    def context_length(self) -> int | None:
        """The longest text that its server takes, in tokens, as it said when it was last ready."""
        return (self._life.context_length if self._life is not None else None) or self._context_length

    @property
    def notice(self) -> str:
        """What somebody should mend, though it serves."""
        return self._life.notice if self._life is not None else ""

    @property
    def log_tail(self) -> list[str]:
        """The end of its log when it last ended."""
        return self._last_words

    @property
    def dropped(self) -> Dropped:
        """Of its output, since muxd is up."""
        living = self._life.child.dropped if self._life is not None and self._life.child is not None else Dropped()
        return living.after(self._dropped)

    @property
    def log_files(self) -> dict[str, Path]:
        return log_files(self._context.config, self.model)

    async def metrics(self) -> bytes | None:
        """Its engine's metrics in Prometheus' text format, as sent; None where there are none.

        Raises EngineCallFailed.  The caller limits the time.
        """
        link = self._life.link if self._life is not None else None
        return await self._engine.metrics(link) if link is not None else None

    def start(self) -> Callable[[], Awaitable[None]]:
        """A new life: what to run until no process of it is left.  It can be stopped from now on."""
        assert self._life is None, f"{self.model.name} lives already"
        self._life = WorkerProcess(self.model, self._engine, self._gpu_memory, self._context)
        return self._live

    async def _live(self) -> None:
        life = self._life
        assert life is not None
        end = await life.run()
        self._context_length = self.context_length
        self._life = None
        self._last_words = end.log_tail
        self._dropped = end.dropped.after(self._dropped) if end.dropped is not None else self._dropped
        self._context.tell(end.event)

    def sleep(self) -> None:
        if self._life is not None:
            self._life.order("sleep")

    def wake(self) -> None:
        if self._life is not None:
            self._life.order("wake")

    def stop(self, *, kill: bool) -> None:
        if self._life is not None:
            self._life.stop(kill=kill)
