"""What each of the core's commands does: to a worker's runner, to a client's stream, to journal and state file."""

import logging

import trio

from muxd.core.commands import (
    ActivateStandby,
    AnswerUnload,
    Command,
    DrainWorker,
    EndLease,
    FailLease,
    FailLoan,
    FailOrder,
    FailSwitch,
    FinishHandover,
    FinishLoan,
    FinishOrder,
    FinishShutdown,
    FinishSwitch,
    GrantLease,
    GrantLoan,
    MeasureWorker,
    PersistHold,
    PersistStopped,
    PrefetchWeights,
    PrepareStandby,
    RecallLoan,
    ReconfigureWorker,
    RecordMove,
    RecordScale,
    RecordSwitch,
    RemoveWorker,
    ReportCycle,
    RestoreLease,
    RevokeLease,
    SetTimer,
    SleepWorker,
    StartWorker,
    StopPrefetch,
    StopWorker,
    SyncRouter,
    WakeWorker,
)
from muxd.core.spec import group_of
from muxd.core.states import WorkerState
from muxd.members import router_of
from muxd.metrics import SupervisorMetrics
from muxd.protocol import seconds
from muxd.workers import RouterRunner

from .context import SupervisorContext
from .wire import Line

log = logging.getLogger(__name__)

#: Log levels of moves into states that an operator should notice; all other moves are logged as info.
LOUD = {
    WorkerState.BACKOFF: logging.WARNING,
    WorkerState.UNRESPONSIVE: logging.WARNING,
    WorkerState.FAILED: logging.ERROR,
    WorkerState.STUCK: logging.ERROR,
}


class CommandExecutor:
    """Carries out the core's commands; a worker's life runs as a task of `nursery`."""

    def __init__(self, context: SupervisorContext, metrics: SupervisorMetrics, nursery: trio.Nursery) -> None:
        self._context = context
        self._runners = context.runners
        self._metrics = metrics
        self._nursery = nursery
        self._moved: dict[str, float] = {}  # when a worker or a group last changed its state

    def carry_out(self, command: Command, now: float) -> None:
        """Begin what the command, of an event at the time `now`, asks for; nothing here waits."""
        match command:
            case StartWorker(name, level, gpus):
                self._nursery.start_soon(self._runners[name].start(level, gpus), name=f"life of {name}")
            case PrepareStandby(name, is_urgent):
                self._nursery.start_soon(self._runners[name].prepare(is_urgent=is_urgent), name=f"life of {name}")
            case ActivateStandby(name):
                self._runners[name].activate()
            case WakeWorker(name):
                self._runners[name].wake()
            case SleepWorker(name, level):
                self._runners[name].sleep(level)
            case DrainWorker(name):
                self._nursery.start_soon(self._runners[name].drain, name=f"drain of {name}")
            case StopWorker(name, kill):
                self._runners[name].stop(kill=kill)
            case SyncRouter(group, urls):
                router = self._runners[router_of(group)]
                assert isinstance(router, RouterRunner)
                servers = self._runners.routed(group, urls)
                self._nursery.start_soon(router.keep_synced, group, servers, name=f"workers of {group}'s router")
            case GrantLease() | RevokeLease() | RestoreLease() | FailLease() | EndLease():
                self._context.sessions.tell_holder(command)
            case AnswerUnload():
                self._context.sessions.answer_unload(command)
            case FinishSwitch() | FailSwitch() | FinishOrder() | FailOrder():
                self._context.orders.end(command, trio.current_time())
            case MeasureWorker(name):
                self._nursery.start_soon(self._context.figures.measure, command, name=f"figures of {name}")
            case ReportCycle(ticket):
                self._report_cycle(ticket, self._context.figures.line(command))
            case PersistStopped(name, stopped):
                self._remember_stop(name, stopped=stopped)
            case PersistHold(name, until):
                self._context.holds.remember(name, until)
            case GrantLoan() | FailLoan() | RecallLoan() | FinishLoan():
                self._context.loans.carry_out(command)
            case PrefetchWeights(group):
                self._nursery.start_soon(self._context.weights.read, command, name=f"weight files of {group}")
            case StopPrefetch(group):
                self._context.weights.stop(group)
            case ReconfigureWorker(name):
                self._runners.renew(name)
            case RemoveWorker(name):
                self._runners.remove(name)
                if (model := group_of(name)) not in self._runners.models:
                    self._remember_stop(model, stopped=False)
                    self._context.holds.remember(model, None)
            case RecordMove():
                self._record_move(command, now)
            case RecordSwitch():
                self._context.switches.begin(command, now)
            case RecordScale(group, before, after, reason):
                log.info("%s: %d -> %d replicas (%s)", group, before, after, reason)
                self._context.journal.record("scaled", model=group, **{"from": before, "to": after, "reason": reason})
                self._metrics.note_scaling(group, before, after)
                state = self._context.workers.state
                state.state.scaled[group] = after
                state.save()
            case SetTimer() | FinishShutdown() | FinishHandover():
                raise AssertionError(f"{command} is for the loop itself")

    def _report_cycle(self, ticket: int, line: Line) -> None:
        model = group_of(line["worker"])
        about = {key: line[key] for key in ("worker", "level", "cycle", "sleep_s", "wake_s", "identical", "error")}
        self._context.journal.record("validated", model=model, **about)
        self._context.orders.say(ticket, {**line, "model": model})

    def _record_move(self, move: RecordMove, now: float) -> None:
        name, reason = move.worker, move.reason
        level = LOUD.get(move.after, logging.INFO)
        log.log(level, "%s: %s -> %s%s", name, move.before, move.after, f" ({reason})" if reason else "")
        since, self._moved[name] = self._moved.get(name), now
        was = seconds(now - since) if since is not None else None
        facts: Line = {"from": move.before, "to": move.after, "reason": reason or None, "was_s": was}
        if move.code:
            facts["code"] = move.code
        if name == (model := group_of(name)):
            self._count_switch(move, now)
        else:
            facts["worker"] = name
        self._context.journal.record("state", model=model, **facts)
        for about_to_be_called in self._foreseen(move):
            self._nursery.start_soon(self._runners[about_to_be_called].expect_order, name=f"to {about_to_be_called}")

    def _foreseen(self, move: RecordMove) -> list[str]:
        """Return the workers whose servers are called soon after a move, while something else is waited for."""
        if move.after is WorkerState.DRAINING:
            return [move.worker] if move.worker in self._runners else []
        if move.after is not WorkerState.FALLING_ASLEEP:
            return []
        coming = {switch.target for switch in self._context.view.switches() if group_of(move.worker) in switch.victims}
        return [name for name in self._runners if group_of(name) in coming] if coming else []

    def _count_switch(self, move: RecordMove, now: float) -> None:
        view = self._context.view
        waits = [r.gpu_memory.waited for name, r in self._runners.items() if group_of(name) == move.worker]
        level = view.level(move.worker)
        running = view.switches()
        end = self._metrics.switches.note(move, now, running, level=level, waited=max(waits))
        self._context.switches.look(end, {switch.target: switch.since for switch in running}, move.reason, now)

    def _remember_stop(self, name: str, *, stopped: bool) -> None:
        state = self._context.workers.state
        others = [other for other in state.state.stopped if other != name]
        state.state.stopped = [*others, name] if stopped else others
        state.save()
