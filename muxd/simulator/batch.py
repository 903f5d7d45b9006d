"""Continuous batching: a fixed number of requests run at once, each at the token rate; the rest wait in order.

This module decides when tokens come, and `saying` which tokens they are.
"""

from collections import deque
from math import inf

import trio


class Job:
    """One request inside the engine."""

    def __init__(self, rid: str, tokens: int, ends: str) -> None:
        self.rid = rid
        self.tokens = tokens  # how many tokens the job makes before it ends
        self.made = 0
        self.finish: str | None = None  # why the job ended, in OpenAI's words; None while it goes on
        self._ends = ends
        self._began = inf
        self._changed = trio.Event()

    def admit(self) -> None:
        """Begin to make tokens now."""
        self._began = trio.current_time()
        self.change()

    def change(self) -> None:
        """Wake the task that waits in `wait`."""
        self._changed.set()
        self._changed = trio.Event()

    def shift(self, seconds: float) -> None:
        """Take a freeze of this many seconds out of the job's time."""
        self._began += seconds

    def advance(self, rate: float) -> int:
        """Make the tokens that are due by now; return how many those are."""
        due = min(self.tokens, int((trio.current_time() - self._began) * rate + 1e-6)) if self._began < inf else 0
        new, self.made = max(0, due - self.made), max(self.made, due)
        if self.made == self.tokens and self._began < inf:
            self.finish = self._ends
        return new

    async def wait(self, rate: float, interval: float, frozen: bool) -> None:
        """Wait until `interval` seconds' worth of tokens, at least one, is due, or the job's state has changed."""
        ahead = min(self.tokens, self.made + max(1, int(rate * interval)))
        until = inf if frozen or self._began == inf else self._began + ahead / rate
        with trio.move_on_at(until):
            await self._changed.wait()


class Batch:
    """The engine's queue and the running jobs.  `frozen` is SGLang's pause without abort."""

    def __init__(self, slots: int, rate: float) -> None:
        self._slots = slots
        self._rate = rate
        self._running: dict[str, Job] = {}
        self._waiting: deque[Job] = deque()
        self._frozen_since: float | None = None
        self.retracted = False  # a pause has put the running jobs back into the queue
        self.made = 0  # tokens, by all jobs so far
        self.left = 0  # jobs that are over

    @property
    def running(self) -> int:
        return 0 if self.retracted else len(self._running)

    @property
    def waiting(self) -> int:
        return len(self._waiting) + (len(self._running) if self.retracted else 0)

    @property
    def frozen(self) -> bool:
        return self._frozen_since is not None

    def submit(self, job: Job) -> None:
        """Queue a job, and run it at once where a slot is free."""
        self._waiting.append(job)
        self._fill()

    def leave(self, job: Job) -> None:
        """Remove a job that has ended, or whose client is gone."""
        self._running.pop(job.rid, None)
        if job in self._waiting:
            self._waiting.remove(job)
        self.left += 1
        self._fill()

    async def step(self, job: Job, interval: float) -> int:
        """Wait for the job's next tokens, about `interval` seconds' worth; 0 when it has finished."""
        while job.finish is None:
            await job.wait(self._rate, interval, self.frozen)
            if not self.frozen and (new := job.advance(self._rate)):
                self.made += new
                return new
        return 0

    def abort(self, prefix: str) -> None:
        """End every job whose id begins with `prefix`, with what it has made so far."""
        for job in [*self._running.values(), *self._waiting]:
            if job.rid.startswith(prefix) and job.finish is None:
                job.finish = "abort"
                job.change()

    def freeze(self, *, retract: bool) -> None:
        """Stop all jobs until `thaw`; with `retract` the running jobs count as waiting."""
        self.retracted = self.retracted or retract
        if self._frozen_since is None:
            self._frozen_since = trio.current_time()
            self._change()

    def thaw(self) -> None:
        """Let the jobs go on after `freeze`."""
        if self._frozen_since is None:
            return
        for job in self._running.values():
            job.shift(trio.current_time() - self._frozen_since)
        self._frozen_since = None
        self.retracted = False
        self._change()
        self._fill()

    def _fill(self) -> None:
        while self._waiting and len(self._running) < self._slots and not self.frozen:
            job = self._waiting.popleft()
            self._running[job.rid] = job
            job.admit()

    def _change(self) -> None:
        for job in self._running.values():
            job.change()
