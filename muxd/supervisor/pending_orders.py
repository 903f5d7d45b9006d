"""What operators had ordered and was not carried out when muxd left its workers: written down, and given again."""

import logging
import time
from collections.abc import Iterable
from math import inf

from msgspec.structs import replace

from muxd.core.events import AdoptedWorker, OrderGiven, SwitchAsked, Verb
from muxd.core.spec import group_of
from muxd.saved_state import OrderRecord

from .context import SupervisorContext
from .service import SupervisorService

log = logging.getLogger(__name__)


def keep_orders(context: SupervisorContext) -> None:
    """Put what is not carried out yet into the state, which is to be saved after this."""
    state, now = context.workers.state, _now()
    state.state.orders = [
        replace(_record(order, context.orders.operator(order.ticket)), boot_id=state.boot_id, left=now)
        for order in context.view.orders()
    ]


def _record(order: SwitchAsked | OrderGiven, by: str) -> OrderRecord:
    if isinstance(order, SwitchAsked):
        return OrderRecord(model=order.group, by=by)
    now, level, replicas = order.now, order.level, order.replicas
    return OrderRecord(model=order.group, verb=order.verb, now=now, level=level, replicas=replicas, by=by)


def _now() -> float:
    """Return the time on a clock that goes on while the host is suspended, and that nobody can set."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def resume_orders(context: SupervisorContext, service: SupervisorService, adopted: Iterable[AdoptedWorker]) -> None:
    """Give again what an earlier muxd left, and the stop of models that an operator stopped and that still run.

    After a reboot nothing runs of what the orders were about, and they are dropped; so is one for which no muxd was
    there for longer than a request may wait for its model.  Nobody waits for the ends; whoever orders the same again
    waits for what is under way.
    """
    state, boot_id = context.workers.state.state, context.workers.state.boot_id
    left, state.orders = state.orders, []
    if left:
        context.workers.state.save()  # a crash long after must not give them once more
    orders = []
    for order in (order for order in left if order.boot_id == boot_id):
        if why := _why_too_late(context, order):
            _tell_dropped(context, order, why)
        else:
            orders.append(order)
    running, known = {group_of(worker.worker) for worker in adopted}, {order.model for order in orders}
    orders += [OrderRecord(model=name, verb=Verb.STOP) for name in state.stopped if name in running - known]
    for each in orders:
        if each.verb is None:
            progress = service.switch(each.model, each.by)
        else:
            progress = service.order(
                each.model, each.verb, now=each.now, level=each.level, replicas=each.replicas, by=each.by
            )
        progress.close()


def _why_too_late(context: SupervisorContext, order: OrderRecord) -> str:
    """Return why an order was left too long ago, or "" if it was not; a stop stands until the model is started."""
    limit = next((m.switch_timeout for m in context.workers.config.models if m.name == order.model), inf)
    passed = 0.0 if order.left is None else _now() - order.left
    if order.verb is Verb.STOP or passed <= limit:
        return ""
    return f"no muxd was there for {passed:.0f} s, longer than the model's switch_timeout of {limit:g} s"


def _tell_dropped(context: SupervisorContext, order: OrderRecord, why: str) -> None:
    what = "switch" if order.verb is None else str(order.verb)
    context.journal.record("order_dropped", model=order.model, order=what, reason=why, by=order.by or None)
    log.warning("%s: %s is not carried out, as %s: order it again if it is still wanted", order.model, what, why)
