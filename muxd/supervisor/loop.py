"""The one loop that owns the core.

All other parts of muxd tell it events.  It hands each to the core, and the core's commands to the executor; it keeps
the core's timer, and looks at the machine every TICK.  It runs in one trio thread.
"""

import logging
import os
from collections.abc import Sequence
from functools import partial
from itertools import count, repeat
from math import inf
from typing import Literal

import trio
from msgspec.structs import replace

from muxd import __version__
from muxd.core.commands import (
    Command,
    EndLease,
    FailLease,
    FinishHandover,
    FinishShutdown,
    GrantLease,
    RecordMove,
    RestoreLease,
    RevokeLease,
    SetTimer,
    SleepWorker,
    WakeWorker,
)
from muxd.core.events import (
    DemandReported,
    Event,
    GpusMeasured,
    LeaseAsked,
    LeaseEnded,
    ShutdownAsked,
    Started,
    TimerFired,
    WeightsSeen,
)
from muxd.core.scheduler import Scheduler
from muxd.core.states import DOWN, UP, WorkerState
from muxd.core.view import CoreView
from muxd.history import History
from muxd.history.decision_journal import DecisionJournal
from muxd.history.series import NotedModel
from muxd.log_losses import LogTeller, Losses
from muxd.members import default_group, spec_of
from muxd.metrics import SupervisorMetrics
from muxd.metrics.engines import awake
from muxd.metrics.facts import Facts, WorkerFacts
from muxd.successor import Successor
from muxd.ticks import next_tick
from muxd.workers import LeftWorkers, WorkerContext

from .adoption import hold_for_proxies, let_go, take_over_workers
from .commands import CommandExecutor
from .context import ProxyView, SupervisorContext
from .gpu_loans import GpuLoans
from .handover import Handover
from .holds import HeldModels
from .learned import LearnedFile
from .measurements import Measurements
from .notices import Notices
from .order_streams import OrderStream, OrderStreams
from .pending_orders import keep_orders, resume_orders
from .reload import ConfigurationReloaded, Reloader, Reread
from .runner_set import RunnerSet
from .service import SupervisorService
from .sessions import ProxySessions, SessionLease
from .switch_book import SwitchBook
from .validations import CycleFigures
from .weight_files import WeightReader

log = logging.getLogger(__name__)

#: Seconds between two progress lines to waiting clients, and between two readings of the GPUs for status.
TICK = 2.0

#: Seconds between two figures of every model.
SAMPLE = 1.0

#: Events that come many times a second, and change nothing for those who wait unless the core has a command for it.
_FREQUENT = (DemandReported, LeaseAsked, LeaseEnded)

#: So many reports that were told by then are taken in one turn of trio's loop, which costs as much as some of them.
REPORTS = 100

#: Commands that a client waits for: they are carried out before what the others write down.
AWAITED = (GrantLease, RevokeLease, RestoreLease, FailLease, EndLease, SleepWorker, WakeWorker)

#: Turns of trio's loop until then: a message leaves in the second, the first request to an engine in the fifth.
HEAD_START = 5


class ReportDecided(DemandReported, frozen=True):
    """A report that was handled at once, and whose commands are still to be carried out."""

    commands: tuple[Command, ...] = ()


class Supervisor:
    """The owner of the core; `service` is what the control socket may ask of it."""

    def __init__(
        self,
        context: WorkerContext,
        mailbox: trio.MemoryReceiveChannel[Event],
        proxy: ProxyView,
        reread: Reread,
        left: LeftWorkers | None = None,
        history: History | None = None,
        successor: Successor | None = None,
    ) -> None:
        """Build the core and a runner for each configured model.

        `mailbox` is the receiving end of `context.tell`; `reread` reads the configuration again for a reload.  `left`:
        workers that an earlier muxd has left, and that are to be taken over.  `history`: what is remembered of earlier
        ones; `successor`: what an upgrade executes.
        """
        self._left = left or {}
        self._put, context = context.tell, replace(context, tell=self._tell)
        config = context.config
        context.withhold(config)
        self.stopping = trio.Event()  # a shutdown was asked for
        self.hurried = trio.Event()  # a shutdown without waiting for requests was asked for
        self.finished = trio.Event()  # no worker is left, or all are left to the next muxd
        self._mailbox = mailbox
        self._started = trio.current_time()
        specs, policy = map(spec_of, config.models, repeat(config.daemon)), config.policy
        self._scheduler = Scheduler(
            specs,
            policy.wait_target,
            keep_turns=policy.keep_turns,
            default=default_group(policy),
            batch_max_wait=policy.batch_max_wait,
        )
        self._view = CoreView(self._scheduler)
        self._runners = RunnerSet(context, config)
        numbers = count(1)
        self._orders = OrderStreams()
        self._history = history if history is not None else History()
        self._history.keep_models(model.name for model in config.models)
        self.journal = self._history.events
        self.decisions = DecisionJournal(config.daemon.state_dir / "decisions.journal")
        limit_of = self._runners.concurrency_limit
        self._sessions = ProxySessions(
            context.tell, self._take_report, self._runners.resolve, partial(next, numbers), self._history, limit_of
        )
        self._notices = Notices(self.journal.record)
        self._losses = Losses(config.daemon.log_dir, self.journal.record)
        self._learned = LearnedFile(context.state, self._view, self._runners)
        self._measurements = Measurements(context, self._view.host, self._runners)
        self._metrics = SupervisorMetrics(lambda: awake(self._view.host().workers, self._runners), self._facts)
        self._context = SupervisorContext(
            tell=context.tell,
            view=self._view,
            workers=context,
            runners=self._runners,
            next_number=partial(next, numbers),
            orders=self._orders,
            sessions=self._sessions,
            journal=self.journal,
            losses=self._losses,
            measurements=self._measurements,
            holds=HeldModels(context.state),
            loans=GpuLoans(context.tell, context.state, self.journal, self._measure_gpus),
            figures=CycleFigures(self._runners, context.tell),
            switches=SwitchBook(self._sessions, self._orders, self._history),
            history=self._history,
            weights=WeightReader(lambda: self._runners.models),
            proxy=proxy,
        )
        self.reloader = Reloader(self._context, reread, self.stopping)
        self.handover = Handover(self._context, self.stopping, self._leave, successor)
        self.service = SupervisorService(
            self._context, self.reloader, self._metrics, self.shutdown, self.handover, self._started
        )
        self._impossible: dict[str, str] = {}  # model name -> why it can never be loaded, as last logged
        self._timer = trio.CancelScope()  # its deadline is when the core wants to be woken
        self._is_free = False  # the loop waits for an event, and none was told that it has not taken yet

    @property
    def stuck(self) -> list[str]:
        """Return the models whose process survived SIGKILL, or whose GPU memory did not become free."""
        workers = self._view.host().workers.items()
        return [name for name, worker in workers if worker.state is WorkerState.STUCK]

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Handle every event of the mailbox and carry out the core's commands, until cancelled.

        `task_status.started()` is called once the GPUs were read and the core was told `Started`.
        """
        tell, config = self._context.tell, self.reloader.config
        async with trio.open_nursery() as nursery:
            executor = CommandExecutor(self._context, self._metrics, nursery)
            nursery.start_soon(self._keep_time, name="timer")
            nursery.start_soon(self._tick, name="tick")
            nursery.start_soon(self._sessions.places.go_round, name="places")
            nursery.start_soon(self._sample, name="series")
            nursery.start_soon(self._context.weights.watch, self._may_load, name="weight files")
            nursery.start_soon(self.reloader.watch_files, 2 * TICK, name="configuration's files")
            self.journal.record("muxd_started", version=__version__, pid=os.getpid())
            adopted = await take_over_workers(self._context, self._left, nursery)
            await self._measurements.measure_gpus(config)
            await self._measurements.measure_host_ram(config)
            await self._measurements.weigh_models(config)
            stopped = frozenset(self._context.workers.state.state.stopped)
            known, troubles = self._learned.recalled(), self._learned.recalled_troubles()
            held, scaled = self._context.holds.recalled(), dict(self._context.workers.state.state.scaled)
            loans = self._context.loans.recalled()
            tell(Started(trio.current_time(), stopped, known, troubles, adopted, held, scaled, loans))
            nursery.start_soon(self._context.loans.watch, name="borrowers")
            for name, trouble in troubles.items():
                if trouble.waits == "failed" and trouble.awaits_port:
                    nursery.start_soon(self._context.runners[name].watch_port, name=f"port of {name}")
            for_proxies = hold_for_proxies(self._context, adopted)
            resume_orders(self._context, self.service, adopted)
            nursery.start_soon(let_go, self._context, for_proxies, name="grace for proxies")
            task_status.started()
            self._note_free()
            async for event in self._mailbox:
                self._is_free = False
                await self._take(event, executor)
                for _ in range(REPORTS):
                    if not isinstance(event, DemandReported) or not self._mailbox.statistics().current_buffer_used:
                        break
                    event = self._mailbox.receive_nowait()
                    await self._take(event, executor)
                self._note_free()

    def _note_free(self) -> None:
        self._is_free = not self._mailbox.statistics().current_buffer_used

    def _tell(self, event: Event) -> None:
        """Tell the loop an event, before which no report is taken: what is decided later must not be done earlier."""
        self._is_free = False
        self._put(event)

    def _take_report(self, report: DemandReported) -> bool:
        """Handle a report at once if the loop waits for events: to wake it costs as much as the report.

        What the core commands then is left to the loop, but for its timer.  Return whether nothing is commanded.
        """
        if not self._is_free:
            self._tell(report)
            return False
        if not (commands := self._decide(report)):
            return True
        timers = [command for command in commands if isinstance(command, SetTimer)]
        if len(timers) < len(commands):
            self._tell(ReportDecided(report.time, report.lease, report.in_flight, commands=tuple(commands)))
            return False
        for timer in timers:
            self._set_timer(timer)
        return False

    def _decide(self, event: Event) -> Sequence[Command]:
        self.decisions.before(self._scheduler)
        commands = self._scheduler.handle(event)
        self.decisions.record(event, commands)
        return commands

    async def _take(self, event: Event, executor: CommandExecutor) -> None:
        """Handle an event, and tell those who wait how they fare."""
        if isinstance(event, ConfigurationReloaded):
            self.reloader.take_over(event.reload)
        commands = event.commands if isinstance(event, ReportDecided) else self._decide(event)
        await self._carry_out_all(commands, executor)
        if isinstance(event, GpusMeasured | WeightsSeen | ConfigurationReloaded):
            self._warn_of_impossible()
        if not isinstance(event, _FREQUENT) or not all(isinstance(command, SetTimer) for command in commands):
            self._tell_progress()
        elif isinstance(event, LeaseAsked):
            self._tell_waiting(self._sessions.waiting(event.lease))

    async def _carry_out_all(self, commands: Sequence[Command], executor: CommandExecutor) -> None:
        """Carry out first those of an event's commands that a client waits for, the others once these are under way."""
        awaited = [command for command in commands if isinstance(command, AWAITED)]
        others = [command for command in commands if not isinstance(command, AWAITED)]
        for ahead in awaited:
            self._carry_out(ahead, executor)
        for _ in range(HEAD_START if awaited else 0):
            await trio.lowlevel.checkpoint()
        for other in others:
            self._carry_out(other, executor)

    def _carry_out(self, command: Command, executor: CommandExecutor) -> None:
        match command:
            case SetTimer():
                self._set_timer(command)
            case FinishShutdown():
                self._context.workers.state.state.scaled.clear()
                self._learned.keep(with_troubles=False)
                self.finished.set()
            case FinishHandover():
                self.handover.finish()
            case _:
                executor.carry_out(command, self._scheduler.host.now)
                if isinstance(command, RecordMove) and command.after in (WorkerState.BACKOFF, WorkerState.FAILED):
                    self._learned.keep()  # a muxd that is killed in the next moment must not start it anew at once

    def shutdown(self, *, hurry: bool = False, by: str = "") -> None:
        """Let requests in flight finish within `shutdown_timeout` seconds, then stop every worker.

        `hurry` stops them at once.
        """
        now = trio.current_time()
        if hurry:
            self.hurried.set()
        if not self.stopping.is_set() or hurry:
            self._note_ending("stop")
            self.stopping.set()
            self.journal.record("shutdown", hurry=hurry, by=by or None)
            log.info("shutting down%s", " at once" if hurry else "")
            patience = 0.0 if hurry else self.reloader.config.daemon.shutdown_timeout
            self._context.tell(ShutdownAsked(now, now + patience))

    def _leave(self) -> None:
        self._learned.keep()
        keep_orders(self._context)
        self._note_ending("handover")
        self.finished.set()

    def _note_ending(self, ending: Literal["stop", "handover"]) -> None:
        """Write down how muxd ends, for whoever ends what it may leave: see left_behind."""
        self._context.workers.state.state.ending = ending
        self._context.workers.state.save()

    def close(self) -> None:
        """End every stream that is still open."""
        self._orders.close()
        self._sessions.close()
        self._history.close()

    async def _measure_gpus(self) -> None:
        await self._measurements.measure_gpus(self.reloader.config)

    # Time

    def _set_timer(self, command: SetTimer) -> None:
        self._timer.deadline = inf if command.at is None else command.at

    async def _keep_time(self) -> None:
        while True:
            with self._timer:
                await trio.sleep_forever()
            self._timer = trio.CancelScope()
            self._context.tell(TimerFired(trio.current_time()))

    async def _tick(self) -> None:
        while True:
            await self._measurements.measure_gpus(self.reloader.config)
            self._tell_progress()
            self._learned.keep()
            tellers: dict[str, LogTeller] = {**self._runners}
            if (proxy := self._context.proxy.log_teller) is not None:
                tellers["muxd-proxy"] = proxy
            self._notices.look({name: runner.notice for name, runner in self._runners.items()})
            self._losses.look([(name, teller.dropped) for name, teller in tellers.items()], trio.current_time())
            await next_tick(TICK)

    async def _sample(self) -> None:
        """Note every second how all models are."""
        held = self._context.workers.held_memory
        while True:
            await next_tick(SAMPLE)
            taken: dict[str, int] = {}
            for name, worker in self._view.host().workers.items():
                if worker.state not in DOWN:
                    taken[worker.group] = taken.get(worker.group, 0) + sum(held.get(name, {}).values())
            demand = self._view.demand().items()
            self._history.note({name: NotedModel(*counts, taken.get(name, 0)) for name, counts in demand})

    def _may_load(self, model: str) -> bool:
        """Say whether a model may have to read its weights before it serves."""
        return model in self._view.host().groups and self._view.group(model, trio.current_time()).state not in UP

    def _tell_progress(self) -> None:
        """Tell everybody who waits how it goes, where that is due."""
        self._tell_waiting([*self._sessions.waiting(), *self._orders])

    def _tell_waiting(self, waiting: Sequence[SessionLease | OrderStream]) -> None:
        """Tell these how it goes, where that is due; each model is looked at once.

        Nothing is told of a model that a reload has just removed: the core refuses its leases and orders with its next
        commands.
        """
        now = trio.current_time()
        found = {model: self._view.progress(model, now) for model in {each.model for each in waiting}}
        for each in waiting:
            if (progress := found[each.model]) is not None:
                each.tell_progress(progress, now)

    def _warn_of_impossible(self) -> None:
        """Log a warning for each model that can never be loaded, once for each reason."""
        found = self._view.impossible()
        for name, text in found.items():
            if text not in ("", self._impossible.get(name)):
                log.warning("model %s %s", name, text)
        self._impossible = found

    def _facts(self) -> Facts:
        workers = self._view.host().workers.items()
        return Facts(
            version=__version__,
            uptime=trio.current_time() - self._started,
            workers=tuple(WorkerFacts.of(worker, self._runners[name]) for name, worker in workers),
            gpus=tuple(self._context.workers.gpus.latest.values()),
            replicas=self._view.scales(),
            scalings=dict(self._metrics.scalings),
            switches=self._metrics.switches.tallies(),
            scrape_failures=dict(self._metrics.scrape_failures),
            usage={name: tuple(counts) for name, counts in self._history.usage.total.items()},
        )
