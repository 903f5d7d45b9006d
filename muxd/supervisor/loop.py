"""The one loop that owns the core and carries out its commands.

All other parts of muxd tell the supervisor events (`tell`) or ask for what it knows.  The
supervisor runs in one trio thread.  Of the methods that the control socket calls only
`reload`, `metrics` and `unload` wait: a status is never answered behind a switch.
"""

import logging
import os
import time
from dataclasses import replace
from functools import partial
from itertools import repeat
from math import inf
from pathlib import Path
from typing import Any, Protocol

import trio

from muxd import __version__, status
from muxd.config import Config
from muxd.config.plan import Plan, plan_of
from muxd.config.proxy_settings import settings_for_proxy
from muxd.config.written import written_since
from muxd.core.commands import (
    AnswerUnload,
    Command,
    EndLease,
    FailLease,
    FailOrder,
    FailSwitch,
    FinishOrder,
    FinishShutdown,
    FinishSwitch,
    GrantLease,
    PersistStopped,
    ReconfigureWorker,
    RecordMove,
    RemoveWorker,
    RestoreLease,
    RevokeLease,
    SetTimer,
    SleepWorker,
    StartWorker,
    StopWorker,
    SyncRouter,
    WakeWorker,
)
from muxd.core.events import (
    DemandReported,
    Event,
    GpusMeasured,
    LeaseAsked,
    LeaseEnded,
    OrderGiven,
    Reconfigured,
    ShutdownAsked,
    Started,
    SwitchAsked,
    TimerFired,
    UnloadAsked,
    Verb,
    Waiting,
    WeightsSeen,
)
from muxd.core.progress import Progress, progress_of
from muxd.core.scheduler import Scheduler
from muxd.core.spec import group_of
from muxd.core.states import WorkerState
from muxd.engines.registry import kind_of
from muxd.errors import LeaseNotFound, ModelNotFound, ShuttingDown
from muxd.journal import Journal
from muxd.launchers.observed_scripts import completed
from muxd.lease_streams import seconds
from muxd.log_losses import LogTeller, Losses
from muxd.members import router_of, spec_of
from muxd.metrics import SupervisorMetrics
from muxd.metrics.engines import awake
from muxd.metrics.facts import Facts, WorkerFacts
from muxd.own_log import setup_logging
from muxd.reload import Reload, Reread, read_again
from muxd.threads import in_thread
from muxd.ticks import next_tick
from muxd.workers import RouterRunner, WorkerContext

from .client_streams import ClientStreams
from .measurements import Measurements
from .runner_set import RunnerSet

log = logging.getLogger(__name__)

#: Seconds between two progress lines to waiting clients, and between two readings of the GPUs for status.
TICK = 2.0

#: Log levels of moves into states that an operator should notice; all other moves are logged as info.
LOUD = {
    WorkerState.BACKOFF: logging.WARNING,
    WorkerState.UNRESPONSIVE: logging.WARNING,
    WorkerState.FAILED: logging.ERROR,
    WorkerState.STUCK: logging.ERROR,
}


class ProxyView(Protocol):
    @property
    def log_teller(self) -> LogTeller | None:
        """Return the source of the proxy's log, or None where muxd does not run the proxy."""
        ...

    def status(self) -> dict[str, Any]: ...

    def reconfigure(self, config: Config) -> None:
        """Set the configuration that the next proxy is started with."""
        ...


class Supervisor:
    """The owner of the core, of the workers' runners, and of the streams to waiting clients."""

    def __init__(
        self, context: WorkerContext, mailbox: trio.MemoryReceiveChannel[Event], proxy: ProxyView, reread: Reread
    ) -> None:
        """Build the core and a runner for each configured model.

        `mailbox` is the receiving end of `context.tell`; `reread` reads the configuration again for a reload.
        """
        self.config: Config = context.config
        context.withhold(self.config)
        context.scripts.on_news = self._take_over_observed
        self.journal = Journal()
        self.stopping = trio.Event()  # a shutdown was asked for
        self.hurried = trio.Event()  # a shutdown without waiting for requests was asked for
        self.finished = trio.Event()  # no worker is left
        self._context = context
        self._mailbox = mailbox
        self._proxy = proxy
        self._started = trio.current_time()
        specs, policy = map(spec_of, self.config.models, repeat(self.config.daemon)), self.config.policy
        self._scheduler = Scheduler(specs, policy.wait_target, keep_turns=policy.keep_turns)
        self._runners = RunnerSet(context, self.config)
        self._reread = reread
        self._reloading = trio.Lock()
        self._reload: Reload | None = None  # the reload that `_take_over` carries out next
        self._streams = ClientStreams()
        self._metrics = SupervisorMetrics(lambda: awake(self._scheduler.host.workers, self._runners), self._facts)
        self._measurements = Measurements(context, self._scheduler.host, self._runners)
        self._losses = Losses(self.config.daemon.log_dir, self.journal.record)
        self._impossible: dict[str, str] = {}  # model name -> why it can never be loaded, as last logged
        self._written = False  # whether the configuration's files were written since muxd read them
        self._timer: float | None = None
        self._timer_changed = trio.Event()

    def tell(self, event: Event) -> None:
        self._context.tell(event)

    @property
    def stuck(self) -> list[str]:
        """Return the models whose process survived SIGKILL, or whose GPU memory did not become free."""
        return [name for name, worker in self._scheduler.host.workers.items() if worker.state is WorkerState.STUCK]

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Handle every event of the mailbox and carry out the core's commands, until cancelled.

        `task_status.started()` is called once the GPUs were read and the core was told `Started`.
        """
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keep_time, name="timer")
            nursery.start_soon(self._tick, name="tick")
            nursery.start_soon(self._watch_files, name="configuration's files")
            self.journal.record("muxd_started", version=__version__, pid=os.getpid())
            await self._measurements.measure_gpus(self.config)
            await self._measurements.measure_host_ram(self.config)
            await self._measurements.weigh_models(self.config)
            self.tell(Started(trio.current_time(), frozenset(self._context.state.state.stopped)))
            task_status.started()
            async for event in self._mailbox:
                if isinstance(event, Reconfigured):
                    self._take_over()
                for command in self._scheduler.handle(event):
                    self._carry_out(command, nursery)
                if isinstance(event, GpusMeasured | WeightsSeen | Reconfigured):
                    self._warn_of_impossible()
                self._streams.tell_progress(self._progress)

    def _carry_out(self, command: Command, nursery: trio.Nursery) -> None:
        match command:
            case StartWorker(name, level, gpus):
                nursery.start_soon(self._runners[name].start(level, gpus), name=f"life of {name}")
            case WakeWorker(name):
                self._runners[name].wake()
            case SleepWorker(name, level):
                self._runners[name].sleep(level)
            case StopWorker(name, kill):
                self._runners[name].stop(kill=kill)
            case SyncRouter(group, urls):
                router = self._runners[router_of(group)]
                assert isinstance(router, RouterRunner)
                nursery.start_soon(router.keep_synced, group, urls, name=f"workers of {group}'s router")
            case GrantLease() | RevokeLease() | RestoreLease() | FailLease() | EndLease():
                self._streams.tell_holder(command)
            case FinishSwitch() | FailSwitch() | FinishOrder() | FailOrder() | AnswerUnload():
                self._streams.end_order(command)
            case PersistStopped(name, stopped):
                self._remember_stop(name, stopped=stopped)
            case ReconfigureWorker(name):
                self._runners.renew(name)
            case RemoveWorker(name):
                self._runners.remove(name)
                if (model := group_of(name)) not in self._runners.models:
                    self._remember_stop(model, stopped=False)
            case RecordMove(name, before, after, reason):
                level = LOUD.get(after, logging.INFO)
                log.log(level, "%s: %s -> %s%s", name, before, after, f" ({reason})" if reason else "")
                facts = {"from": before, "to": after, "reason": reason or None}
                if name == (model := group_of(name)):
                    self._count_switch(command)
                else:
                    facts["worker"] = name
                self.journal.record("state", model=model, **facts)
            case SetTimer(at):
                self._timer = at
                self._timer_changed.set()
            case FinishShutdown():
                self.finished.set()

    def close(self) -> None:
        """End every stream that is still open."""
        self._streams.close()
        self.journal.close()

    # Time

    async def _keep_time(self) -> None:
        while True:
            self._timer_changed = trio.Event()
            with trio.move_on_at(inf if self._timer is None else self._timer) as scope:
                await self._timer_changed.wait()
            if scope.cancelled_caught:
                self._timer = None
                self.tell(TimerFired(trio.current_time()))

    async def _tick(self) -> None:
        while True:
            await self._measurements.measure_gpus(self.config)
            self._streams.tell_progress(self._progress)
            tellers: dict[str, LogTeller] = {**self._runners}
            if (proxy := self._proxy.log_teller) is not None:
                tellers["muxd-proxy"] = proxy
            self._losses.look([(name, teller.dropped) for name, teller in tellers.items()], trio.current_time())
            await next_tick(TICK)

    async def _watch_files(self) -> None:
        while True:
            config = self.config
            written = await in_thread(partial(written_since, config), abandon_on_cancel=True)
            self._written = written and config is self.config
            await next_tick(2 * TICK)  # the thread costs more CPU than all the rest of a tick

    def _warn_of_impossible(self) -> None:
        """Log a warning for each model that can never be loaded, once for each reason."""
        host = self._scheduler.host
        found = {name: str(host.placement.never_loads(group) or "") for name, group in host.groups.items()}
        for name, text in found.items():
            if text not in ("", self._impossible.get(name)):
                log.warning("model %s %s", name, text)
        self._impossible = found

    # Streams to clients that wait

    def _progress(self, name: str) -> Progress | None:
        """Return the progress of a worker, or None where a reload has just removed it.

        The core then refuses the removed worker's leases and orders with its next commands.
        """
        host = self._scheduler.host
        if name not in host.groups:
            return None
        return progress_of(host, self._scheduler.switching, host.groups[name], trio.current_time())

    def _count_switch(self, move: RecordMove) -> None:
        now, running = self._scheduler.host.now, self._scheduler.switching.running
        group = self._scheduler.host.groups.get(move.worker)
        level = group.level if group is not None else 3  # a reload has just removed it
        waits = [r.gpu_memory.waited for name, r in self._runners.items() if group_of(name) == move.worker]
        self._metrics.switches.note(move, now, running, level=level, waited=max(waits))

    def _remember_stop(self, name: str, *, stopped: bool) -> None:
        state = self._context.state
        others = [other for other in state.state.stopped if other != name]
        state.state.stopped = [*others, name] if stopped else others
        state.save()

    # ControlService: the methods that the control socket calls

    def version(self) -> dict[str, Any]:
        started = time.time() - (trio.current_time() - self._started)
        return {"version": __version__, "pid": os.getpid(), "api": 1, "started": round(started, 3)}

    def status(self) -> dict[str, Any]:
        now = trio.current_time()
        return {
            "version": __version__,
            "pid": os.getpid(),
            "uptime_s": seconds(now - self._started),
            "simulated": any(kind_of(model).is_pretend for model in self.config.models),
            "proxy": self._proxy.status() | {"dropped_log_ago_s": seconds(self._losses.ago(["muxd-proxy"], now))},
            "door": status.door_status(self.config, time.time()),
            "gpus": status.gpu_status(self._context.gpus, self.config.gpus, self._measurements.strangers.found),
            "host_memory": status.host_memory_status(self._scheduler),
            "switch": status.switch_status(self._scheduler, now),
            "models": [self._model_status(name, now) for name in self._scheduler.host.groups],
            "log_dir": str(self.config.daemon.log_dir),
            "config": str(self.config.path) if self.config.path is not None else None,
            "config_written": self._written,
        }

    def proxy_settings(self) -> dict[str, Any]:
        return settings_for_proxy(self.config)

    async def metrics(self) -> bytes:
        return await self._metrics.page()

    def _facts(self) -> Facts:
        workers = self._scheduler.host.workers.items()
        return Facts(
            version=__version__,
            uptime=trio.current_time() - self._started,
            workers=tuple(WorkerFacts.of(worker, self._runners[name]) for name, worker in workers),
            gpus=tuple(self._context.gpus.latest.values()),
            switches=self._metrics.switches.tallies(),
            scrape_failures=dict(self._metrics.scrape_failures),
        )

    def _model_status(self, name: str, now: float) -> dict[str, Any]:
        said = status.model_status(self._scheduler, name, self._runners, self._runners.models.get(name), now)
        members = [worker.name for worker in self._scheduler.host.groups[name].members]
        return said | {"dropped_log_ago_s": seconds(self._losses.ago(members, now))}

    def resolve(self, name: str) -> str:
        return self._runners.resolve(name)

    def model_status(self, name: str) -> dict[str, Any]:
        return self._model_status(name, trio.current_time())

    def switch(self, name: str) -> trio.MemoryReceiveChannel[dict[str, Any]]:
        now = trio.current_time()
        stream = self._streams.open(self._streams.switches, name, now)
        self._record_order(name, "switch")
        self.tell(SwitchAsked(now, stream.number, name))
        return stream.receive

    def order(
        self, name: str, verb: Verb, *, now: bool = False, level: int | None = None
    ) -> trio.MemoryReceiveChannel[dict[str, Any]]:
        time = trio.current_time()
        stream = self._streams.open(self._streams.orders, name, time)
        self._record_order(name, verb if level is None else f"{verb} at level {level}")
        self.tell(OrderGiven(time, stream.number, name, verb, now, level))
        return stream.receive

    async def unload(self, name: str) -> dict[str, Any]:
        now = trio.current_time()
        stream = self._streams.open(self._streams.unloads, name, now)
        self.tell(UnloadAsked(now, stream.number, name))
        async for answer in stream.receive:
            return answer
        raise ShuttingDown("muxd is shutting down, and every model with it")

    def _record_order(self, name: str, order: str) -> None:
        self.journal.record("operator", model=name, order=order)
        log.info("%s: an operator ordered %s", name, order)

    async def reload(self, *, dry_run: bool = False) -> dict[str, Any]:
        """Read the configuration again and take it over, or with `dry_run` only return the plan.

        Concurrent reloads wait for one another.  Raises ConfigError, NeedsRestart or ShuttingDown, each with nothing
        changed.
        """
        async with self._reloading:
            reload = await read_again(self._reread, self.config)
            if self.stopping.is_set():
                raise ShuttingDown("muxd is shutting down; nothing was changed")
            if not dry_run:
                await self._measurements.weigh_models(reload.wanted)
                await self._apply(reload)
        files = [str(file) for file in reload.wanted.files]
        return {"applied": not dry_run, "files": files, "warnings": list(reload.warnings), **reload.plan.as_json()}

    async def _apply(self, reload: Reload) -> None:
        self._reload = reload
        specs, policy = tuple(map(spec_of, reload.wanted.models, repeat(reload.wanted.daemon))), reload.wanted.policy
        now = trio.current_time()
        self.tell(Reconfigured(now, specs, reload.changed(), policy.wait_target, policy.keep_turns))
        await reload.taken_over.wait()
        await self._measurements.measure_gpus(self.config)  # models may have more or less of them now

    async def _take_over_observed(self) -> None:
        """Put what muxd has just observed of a launch script's server into the configuration, and take that over.

        A server that uses other GPUs than it was granted is started again; every other difference takes effect at
        once.
        """
        async with self._reloading:
            wanted = completed(self.config, self._context.scripts.known)
            holds, steps = self._scheduler.host.ledger.is_awake, []
            for step in plan_of(self.config, wanted).steps:
                before, after = (next(m for m in c.models if m.name == step.model) for c in (self.config, wanted))
                strays = holds(step.model) and not set(after.gpus) <= set(before.gpus)
                steps.append(replace(step, action="restart" if strays else "update"))
                for contradiction in after.script.contradictions if after.script is not None else ():
                    log.warning("%s: %s", step.model, contradiction)
            if steps and not self.stopping.is_set():
                plan = Plan(tuple(steps))
                await self._apply(
                    Reload(wanted, plan, news="servers of launch scripts were seen, and taken as they are")
                )

    def _take_over(self) -> None:
        """Make the reloaded configuration the current one, just before the core handles `Reconfigured`.

        This runs without a checkpoint between the two, so that no request sees one configuration here and another in
        the core.
        """
        reload = self._reload
        assert reload is not None
        self._context.gpus.cover(reload.wanted)
        self._context.withhold(reload.wanted)
        self.config = reload.wanted
        self._written = False
        self._runners.take_over(self.config, reload.plan.steps)
        self._proxy.reconfigure(self.config)
        if any(key.startswith("muxd.log_") for key in reload.plan.settings):
            setup_logging(self.config.daemon.log_level, self.config.daemon.log_format)
        self.journal.record("reload", **reload.plan.as_json())
        log.info("%s: %s", reload.news, reload.plan)
        for warning in reload.warnings:
            log.warning("%s", warning)
        reload.taken_over.set()

    def open_lease(
        self, name: str, waiting: tuple[Waiting, ...]
    ) -> tuple[int, trio.MemoryReceiveChannel[dict[str, Any]]]:
        now = trio.current_time()
        stream = self._streams.open(self._streams.leases, name, now)
        self.tell(LeaseAsked(now, stream.number, name, waiting))
        return stream.number, stream.receive

    def report_demand(self, lease: int, in_flight: int, waiting: tuple[Waiting, ...]) -> None:
        if self._streams.leases.get(lease) is None:
            raise LeaseNotFound(f"no lease {lease}: it has ended; ask for a new one", lease=str(lease))
        self.tell(DemandReported(trio.current_time(), lease, in_flight, waiting))

    def close_lease(self, lease: int) -> None:
        if self._streams.leases.get(lease) is not None:
            self._streams.leases.end(lease)
            self.tell(LeaseEnded(trio.current_time(), lease))

    def events(self, after: int | None, *, follow: bool) -> trio.MemoryReceiveChannel[dict[str, Any]]:
        return self.journal.read(after, follow=follow)

    def log_of(self, name: str) -> tuple[dict[str, Path], dict[str, Any] | None]:
        teller: LogTeller | None = self._proxy.log_teller
        if name in self._runners and name not in self._runners.names:
            return self._runners.logs_of([name])
        if name in self._runners.names or name not in ("proxy", "muxd"):
            group = self._scheduler.host.groups[self.resolve(name)]
            return self._runners.logs_of([worker.name for worker in group.members])
        if name == "muxd" or teller is None:
            who = "muxd writes its own log to its stderr" if name == "muxd" else "the proxy is a service of its own"
            raise ModelNotFound(f"{who}: see its unit's journal (journalctl -u), or where its stderr goes", model=name)
        return teller.log_files, status.lost(teller.dropped)

    def shutdown(self, *, hurry: bool = False) -> None:
        """Let requests in flight finish within `shutdown_timeout` seconds, then stop every worker.

        `hurry` stops them at once.
        """
        now = trio.current_time()
        if hurry:
            self.hurried.set()
        if not self.stopping.is_set() or hurry:
            self.stopping.set()
            self.journal.record("shutdown", hurry=hurry)
            log.info("shutting down%s", " at once" if hurry else "")
            self.tell(ShutdownAsked(now, now if hurry else now + self.config.daemon.shutdown_timeout))
