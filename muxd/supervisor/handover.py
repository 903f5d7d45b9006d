"""A handover: muxd leaves its workers and its proxy as they are, to the muxd that it becomes or that is started next.

What has begun (a load, a wake, a sleep, an end) is finished first, and nothing else is begun: whoever asks for another
model waits on, at the next muxd.  Requests in flight go on; nobody waits for them.
"""

import logging
from collections.abc import Callable

import trio

from muxd.core.events import HandoverAsked, HandoverWithdrawn
from muxd.core.states import CHANGING, WorkerState
from muxd.errors import HandoverRefused
from muxd.successor import Successor

from .context import SupervisorContext

log = logging.getLogger(__name__)

#: Seconds that a handover waits for what has begun.
PATIENCE = 600.0

#: Seconds for which a trial of the successor holds: a configuration may be edited, and a muxd installed, meanwhile.
TRIAL_HOLDS = 1.0


class Handover:
    """The way of one supervisor to its handover; at most one is prepared at a time."""

    def __init__(
        self, context: SupervisorContext, stopping: trio.Event, leave: Callable[[], None], successor: Successor | None
    ) -> None:
        """Take what ends this muxd alone, `leave`, and what it becomes by an upgrade, None where it cannot."""
        self.has_left = False
        self.is_upgrade = False
        self._leave = leave
        self._context = context
        self._stopping = stopping
        self._successor = successor
        self._at_rest = trio.Event()
        self._is_prepared = False

    def finish(self) -> None:
        """Take in that every worker is at rest."""
        self._at_rest.set()

    async def prepare(self, *, upgrade: bool, now: bool) -> None:
        """Wait until muxd may leave; raise HandoverRefused, with nothing changed, where it must not.

        `now`: what has begun is not waited for; the next muxd ends and starts it anew.
        """
        if self._stopping.is_set() or self._is_prepared:
            raise HandoverRefused("muxd is already on its way out")
        workers = self._context.view.host().workers.values()
        if stuck := [worker.name for worker in workers if worker.state is WorkerState.STUCK]:
            raise HandoverRefused(
                f"{' and '.join(stuck)} cannot be killed, and the next muxd would not start beside what is left of it: "
                "end its processes by hand, or reset the GPU, first"
            )
        self._is_prepared = True
        try:
            if upgrade:
                await self._try_successor()
            if not now:
                await self._rest(upgrade)
            if self._stopping.is_set():
                raise HandoverRefused("muxd was told to stop meanwhile: it ends, and its models with it")
        except BaseException:
            self._is_prepared = False
            raise
        self.is_upgrade = upgrade

    async def _try_successor(self) -> None:
        if self._successor is None:
            message = "only a muxd that was started by `muxd start` or `muxd router` can be upgraded, and no demo"
            raise HandoverRefused(message)
        if why := await self._successor.why_not(self._context.workers.config):
            raise HandoverRefused(f"the muxd that is installed now would not start: {why}; nothing was changed")

    async def _rest(self, upgrade: bool) -> None:
        """Wait until what has begun is finished, and then try a successor again, if the last trial was long ago.

        Raise HandoverRefused after PATIENCE, and where the successor would not start any more.
        """
        self._at_rest, began = trio.Event(), trio.current_time()
        self._context.tell(HandoverAsked(trio.current_time()))
        try:
            with trio.move_on_after(PATIENCE):
                await self._at_rest.wait()
                if upgrade and trio.current_time() - began > TRIAL_HOLDS:
                    await self._try_successor()
                return
            changing = [w for w in self._context.view.host().workers.values() if w.state in CHANGING]
            busy = ", ".join(f"{worker.name} is {worker.state.replace('_', ' ')}" for worker in changing)
            raise HandoverRefused(f"after {PATIENCE:g} s {busy}; nothing was changed: later, or with --now")
        except BaseException:
            self._context.tell(HandoverWithdrawn(trio.current_time()))
            raise

    def leave(self) -> None:
        """End this muxd, and leave all that it runs; `prepare` has returned.  One that was told to stop since stops."""
        assert self._is_prepared
        if self._stopping.is_set():
            self.is_upgrade = False
            return
        state_dir = self._context.workers.config.daemon.state_dir
        to = "and going on as a new muxd" if self.is_upgrade else f"to the next muxd with this state_dir: {state_dir}"
        log.info("leaving workers and proxy as they are, %s", to)
        self._context.journal.record("handover", upgrade=self.is_upgrade)
        self.has_left = True
        self._leave()
