"""A validation: an operator's order to have a group sleep and wake at each of some levels, and to measure that.

A cycle is one sleep and one wake of every worker of the group.  From the first cycle on until the end of the last, the
group's clients wait, and nobody else comes to its GPUs.  A group that is not ready comes first, as in an operator's
switch; one of two that share GPUs waits until the other's validation is over.  Levels that its processes were not
launched for are tried with others that are (`Stage.RELAUNCH`); in the end it is ready, and as configured.

What goes wrong ends the cycle, not the validation: the worker is started again, the level counts as failed and is not
tried again, and the next one's turn comes.  A level from which wakes were wrong too often is tried all the same, and
trusted again if it does well.  A process that was launched for a level, and is not as configured, fails that level when
it ends by itself (it cannot even be launched so, for one): its end does not count against the worker.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

from .commands import Command, MeasureWorker, Moment, ReportCycle
from .events import Verb, WorkerMeasured
from .group import Group
from .host_state import HostState
from .order import Order
from .states import AT_REST, LOST, UP, WorkerState
from .switching import Switching
from .validation import Cycle, Stage, Validation
from .worker import Worker

_NOT_SO = "its process cannot sleep at this level"


def planned(group: Group, levels: Iterable[int], cycles: int) -> Validation:
    """Return a validation of the group at these levels, or all that it has, each so many times.

    Levels that its processes have come first, then those that others must be launched for; level 3, which ends them,
    comes last.
    """
    wanted = set(levels) or set(range(4))
    possible = [level for level in wanted if all(worker.spec.can_ever_sleep_at(level) for worker in group.enlisted)]
    possible.sort(key=lambda level: (level == 3, not _can_sleep_at(group, level), level))
    return Validation(deque(Cycle(level, number) for level in possible for number in range(1, cycles + 1)))


class Validations:
    """Brings the validations of groups forward."""

    def __init__(self, host: HostState, switching: Switching) -> None:
        self._host = host
        self._switching = switching
        self._last_number = 0  # of a question to a worker

    def measured(self, group: Group, event: WorkerMeasured) -> None:
        """Take in what became of a question to a worker; an answer that nobody waits for any more changes nothing."""
        validation = group.validation
        if validation is None or validation.asked.get(event.worker) != event.number:
            return
        del validation.asked[event.worker]
        if event.error:
            validation.errors.setdefault(event.worker, event.error)

    def ended(self, group: Group, worker: Worker) -> bool:
        """Take in that a worker's process ended by itself; say whether it counts for a validated level alone."""
        validation = group.validation
        if validation is None or validation.launch_level is None or validation.stage is Stage.RELAUNCH:
            return False
        is_otherwise = worker.launched not in (None, worker.launch_level)
        validation.has_lost = validation.has_lost or is_otherwise
        return is_otherwise

    def forward(self, group: Group, order: Order) -> Iterator[Command]:
        """Bring a group's validation as far as it goes now."""
        validation = order.validation
        assert validation is not None
        if validation.has_lost:
            yield from self._give_up(group, order, validation)
        before = None
        while (now := (validation.stage, len(validation.cycles))) != before:
            before = now
            yield from self._take_stage(group, order, validation)

    def _take_stage(self, group: Group, order: Order, validation: Validation) -> Iterator[Command]:
        match validation.stage:
            case Stage.COME if self._has_come(group) and not self._switching.validated_beside(group):
                yield from self._begin_cycle(group, order, validation)
            case Stage.RELAUNCH:
                yield from self._send_away(group, 3)
                if all(worker.is_down for worker in group.enlisted):  # those that are spare sleep on, with their router
                    validation.stage = Stage.COME
            case Stage.DRAIN:
                yield from self._drain(group)
                if group.state is WorkerState.DRAINING and not group.granted:
                    yield from self._host.resume(group, "its clients wait")
                if group.state is WorkerState.READY:
                    yield from self._look(group, validation)
                elif group.state is not WorkerState.DRAINING:
                    validation.stage = Stage.COME  # it was lost
            case Stage.LOOK if not validation.asked:
                if validation.errors:
                    yield from self._end_cycle(group, order, validation)
                else:
                    self._leave(validation, validation.cycles[0].level)
            case Stage.LEAVE:
                yield from self._send_away(group, validation.cycles[0].level)
                if group.state in AT_REST and all(w.state in AT_REST or w.state in LOST for w in group.enlisted):
                    validation.stage = Stage.LOOK_ASLEEP
                    yield from self._ask(group, validation, Moment.ASLEEP)
            case Stage.LOOK_ASLEEP if not validation.asked:
                validation.stage = Stage.RETURN
            case Stage.RETURN if self._has_come(group):
                validation.stage = Stage.LOOK_AWAKE
                yield from self._ask(group, validation, Moment.AWAKE)
            case Stage.LOOK_AWAKE if not validation.asked:
                yield from self._end_cycle(group, order, validation)
            case _:
                pass  # an event brings it forward

    def _has_come(self, group: Group) -> bool:
        """Say whether the group is ready, with all of its workers that are not lost, or kept out by others."""
        there = (w.state is WorkerState.READY or w.state in LOST or self._is_kept_out(w) for w in group.enlisted)
        return group.state is WorkerState.READY and all(there)

    def _is_kept_out(self, worker: Worker) -> bool:
        """Say whether a worker waits for nothing but room, which nobody is about to give it."""
        if not worker.may_come(self._host.now) or self._host.changing_on(worker.gpus):
            return False
        is_lent = not self._host.lent.isdisjoint(worker.gpus)
        return is_lent or bool(self._host.ledger.shortfall(worker.name, worker.gpu_claim))

    def _begin_cycle(self, group: Group, order: Order, validation: Validation) -> Iterator[Command]:
        """Begin the next cycle with a group that is ready, or have it launched so that it can; without one, end."""
        validation.has_begun = True
        self._forget_last(group, validation)
        level = validation.cycles[0].level if validation.cycles else None
        for worker in group.enlisted:
            if level in worker.distrusted:
                validation.retried[worker.name] = level
                worker.distrusted -= {level}
        if level is None:
            self._end(group, validation)
        elif not _can_sleep_at(group, level):
            if validation.launch_level == level:
                validation.errors = {worker.name: worker.launch_note or _NOT_SO for worker in group.enlisted}
                yield from self._end_cycle(group, order, validation)
            else:
                self._relaunch(validation, level)
        elif validation.is_known:
            self._leave(validation, level)
        elif any(worker.unproved for worker in group.enlisted):
            self._relaunch_for_next(group, validation)  # later answers are held against what one says that was loaded
        elif group.granted:
            validation.stage = Stage.DRAIN
        else:
            yield from self._look(group, validation)

    def _forget_last(self, group: Group, validation: Validation) -> None:
        """Forget what came of the cycle before."""
        validation.errors.clear()
        validation.since = self._host.now
        for worker in group.enlisted:
            worker.took.clear()
            worker.bad_levels, worker.level_trouble = 0, ""  # an operator's trials are not held against it

    def _give_up(self, group: Group, order: Order, validation: Validation) -> Iterator[Command]:
        """Have the cycle failed for which a process was launched that has ended, and end the group's others."""
        validation.has_lost = False
        validation.asked.clear()
        is_under_way = validation.stage is not Stage.COME
        if not is_under_way and validation.cycles and validation.cycles[0].level == validation.launch_level:
            self._forget_last(group, validation)
            is_under_way = True
        if is_under_way:
            yield from self._end_cycle(group, order, validation)
        self._relaunch_for_next(group, validation)
        yield from self._host.rest(group, WorkerState.BACKOFF)  # what ended does not count, nor does its next start
        yield from self._host.stop(group, f"{group.name} is validated by an operator", kill=True)

    def _look(self, group: Group, validation: Validation) -> Iterator[Command]:
        validation.stage = Stage.LOOK
        yield from self._ask(group, validation, Moment.BEFORE)

    def _leave(self, validation: Validation, level: int) -> None:
        """Have the group sleep; at level 3 its next processes are what its configuration says."""
        validation.stage = Stage.LEAVE
        if level == 3:
            validation.launch_level = None

    def _relaunch(self, validation: Validation, level: int | None) -> None:
        validation.launch_level = level
        validation.is_known = False
        validation.stage = Stage.RELAUNCH

    def _relaunch_for_next(self, group: Group, validation: Validation) -> None:
        """Have the group launched for the next cycle: as configured, where such processes can sleep at its level."""
        level = validation.cycles[0].level if validation.cycles else 3
        is_configured = all(worker.spec.can_sleep_at(level) for worker in group.enlisted)
        self._relaunch(validation, None if is_configured else level)

    def _end(self, group: Group, validation: Validation) -> None:
        """End the validation, once the group's processes are what its configuration says."""
        if is_launched_otherwise(group, validation):
            self._relaunch(validation, None)
        else:
            validation.stage = Stage.DONE

    def _send_away(self, group: Group, level: int) -> Iterator[Command]:
        yield from self._drain(group)
        if group.state is WorkerState.DRAINING and not group.granted:
            yield from self._host.deactivate(group, level)

    def _drain(self, group: Group) -> Iterator[Command]:
        if group.state in UP and any(worker.state is WorkerState.READY for worker in group.enlisted):
            message = f"{group.name} is validated by an operator"
            yield from self._host.drain(group, Verb.VALIDATE, message, self._host.now + group.spec.drain_timeout)
        if group.state is WorkerState.DRAINING:
            yield from self._host.leases.end_overdue(group)

    def _ask(self, group: Group, validation: Validation, moment: Moment) -> Iterator[Command]:
        """Have those workers measured that are where they should be."""
        for worker in group.enlisted:
            if moment is not Moment.ASLEEP and worker.state is not WorkerState.READY:
                why = "others have its GPU" if self._is_kept_out(worker) else worker.reason
                validation.errors.setdefault(worker.name, f"{worker.state}: {why}")
                continue
            self._last_number += 1
            validation.asked[worker.name] = self._last_number
            yield MeasureWorker(worker.name, self._last_number, moment)

    def _end_cycle(self, group: Group, order: Order, validation: Validation) -> Iterator[Command]:
        """Report the cycle, and go on to the next; a level that failed is not tried again.

        One that said something else after a wake is not what it was: it is started anew before anybody else asks it.
        """
        cycle, is_wrong = validation.cycles.popleft(), validation.stage is Stage.LOOK_AWAKE and validation.errors
        reports = [self._report(worker, validation, cycle) for worker in group.enlisted]
        yield from (ReportCycle(ticket, *report) for ticket in order.tickets for report in reports)
        well = [report[0] for report in reports if not report[-1]]
        validation.retried = {name: level for name, level in validation.retried.items() if name not in well}
        distrust_again(group, validation)
        validation.is_known = len(well) == len(reports)
        if not validation.is_known:
            validation.cycles = deque(each for each in validation.cycles if each.level != cycle.level)
        validation.stage = Stage.COME
        if is_wrong:
            self._relaunch_for_next(group, validation)

    def _report(self, worker: Worker, validation: Validation, cycle: Cycle) -> tuple[Any, ...]:
        """Return what a ReportCycle says of the worker, but for the ticket."""
        took, is_end = worker.took, cycle.level == 3
        sleep = took.get(WorkerState.STOPPING if is_end else WorkerState.FALLING_ASLEEP)
        wake = took.get(WorkerState.STARTING if is_end else WorkerState.WAKING)
        ended = worker.ended if worker.ended_at >= validation.since else ""
        error = worker.level_trouble or validation.errors.get(worker.name) or ended
        if not error and wake is None:
            error = "it was not tried" if sleep is None else "it was started anew instead of woken"
        elif not error and sleep is None:
            error = "it was stuck before it was gone"
        return worker.name, cycle.level, cycle.number, sleep, wake, error


def is_launched_otherwise(group: Group, validation: Validation) -> bool:
    """Say whether processes of the group were launched, to validate it, for a level for which others would not be."""
    level = validation.launch_level
    launched = [worker for worker in group.enlisted if level is not None and worker.launched == level]
    return any(worker.launched != worker.launch_level for worker in launched)


def distrust_again(group: Group, validation: Validation) -> None:
    """Go on not to trust the levels that were tried again, and have not proved well."""
    for worker in group.enlisted:
        worker.distrusted |= {validation.retried[worker.name]} if worker.name in validation.retried else set()
    validation.retried.clear()


def _can_sleep_at(group: Group, level: int) -> bool:
    return all(worker.can_sleep_at(level) for worker in group.enlisted)
