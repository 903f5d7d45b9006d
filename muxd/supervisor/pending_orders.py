"""What operators had ordered and was not carried out when muxd left its workers: written down, and given again."""

from collections.abc import Iterable

from muxd.core.events import AdoptedWorker, OrderGiven, SwitchAsked, Verb
from muxd.core.spec import group_of
from muxd.saved_state import OrderRecord

from .context import SupervisorContext
from .service import SupervisorService


def keep_orders(context: SupervisorContext) -> None:
    """Put what is not carried out yet into the state, which is to be saved after this."""
    state = context.workers.state
    state.state.orders = [
        _record(order, context.orders.operator(order.ticket), state.boot_id) for order in context.view.orders()
    ]


def _record(order: SwitchAsked | OrderGiven, by: str, boot_id: str) -> OrderRecord:
    if isinstance(order, SwitchAsked):
        return OrderRecord(boot_id=boot_id, model=order.group, by=by)
    now, level, replicas = order.now, order.level, order.replicas
    return OrderRecord(
        boot_id=boot_id, model=order.group, verb=order.verb, now=now, level=level, replicas=replicas, by=by
    )


def resume_orders(context: SupervisorContext, service: SupervisorService, adopted: Iterable[AdoptedWorker]) -> None:
    """Give again what an earlier muxd left, and the stop of models that an operator stopped and that still run.

    After a reboot nothing runs of what the orders were about, and they are dropped.  Nobody waits for the ends; whoever
    orders the same again waits for what is under way.
    """
    state, boot_id = context.workers.state.state, context.workers.state.boot_id
    left, state.orders = state.orders, []
    orders = [order for order in left if order.boot_id == boot_id]
    if left:
        context.workers.state.save()  # a crash long after must not give them once more
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
