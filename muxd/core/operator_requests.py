"""What operators ask: switches, holds and orders are taken, or it is said why not."""

from collections.abc import Iterator

from .commands import Command, FailOrder, FailSwitch
from .events import HoldAsked, OrderGiven, SwitchAsked, Verb
from .group import Group
from .host_state import HostState
from .idling import Idling
from .loans import Loans
from .orders import Orders, why_not_to_level, why_not_to_validate
from .refusals import Refusals, not_configured
from .scaling import Scaler
from .switching import Switching


class OperatorRequests:
    """Takes what operators ask."""

    def __init__(
        self,
        host: HostState,
        switching: Switching,
        orders: Orders,
        scaler: Scaler,
        loans: Loans,
        idling: Idling,
        refusals: Refusals,
    ) -> None:
        self._host = host
        self._placement = host.placement
        self._switching = switching
        self._operator_switch = switching.operator_switch
        self._orders = orders
        self._scaler = scaler
        self._loans = loans
        self._idling = idling
        self._refusals = refusals

    def take_in(self, asked: SwitchAsked | HoldAsked | OrderGiven) -> Iterator[Command]:
        group = self._host.groups.get(asked.group)
        match asked:
            case OrderGiven() if group is None:
                yield FailOrder(asked.ticket, *not_configured(asked.group)[:2])
            case _ if group is None:
                yield FailSwitch(asked.ticket, *not_configured(asked.group)[:2])
            case SwitchAsked():
                yield from self._switch(asked.ticket, group)
            case HoldAsked():
                yield from self._hold(asked.ticket, group, asked.until)
            case OrderGiven():
                yield from self._order(asked, group)

    def _hold(self, ticket: int, group: Group, until: float) -> Iterator[Command]:
        """Bring a group as an operator's switch does, and hold it unless that is refused."""
        switched = [*self._switch(ticket, group)]
        if not any(isinstance(command, FailSwitch) and command.ticket == ticket for command in switched):
            yield from self._idling.hold(group, until)
        yield from switched

    def _switch(self, ticket: int, group: Group) -> Iterator[Command]:
        self._host.retry_now(group)
        self._placement.place(group)
        if (loan := self._loans.keeps_off(group)) is not None:
            yield FailSwitch(ticket, *self._loans.refusal(loan, group)[:2])
            return
        exposed = [other for other in self._placement.fixed_in_the_way(group) if not other.is_pinned]
        self._host.expose(exposed, is_exposed=True)
        refusal = self._refusals.why_not(group)
        if refusal is not None:
            self._host.expose(exposed, is_exposed=False)
            yield FailSwitch(ticket, refusal[0], refusal[1])
            return
        if group.order is not None and group.order.verb in (Verb.SLEEP, Verb.UNLOAD):
            yield from self._orders.fail(group, "superseded", f"a newer switch to {group.name} took its place")
        if self._operator_switch.is_to(group):
            self._operator_switch.tickets.append(ticket)
            return
        former = self._operator_switch.target
        yield from self._operator_switch.open(group, ticket, exposed)
        self._switching.drop_unbegun(group)
        if former is not None and not (former.wanted or former.is_pinned or former.order is not None):
            self._switching.drop(former)  # nobody else wants it: what still drains for it serves again

    def _order(self, order: OrderGiven, group: Group) -> Iterator[Command]:
        verb, ticket = order.verb, order.ticket
        is_no_start = verb in (Verb.SLEEP, Verb.VALIDATE) or (verb is Verb.SCALE and order.replicas == 0)
        refusal = self._refusals.why_not(group)
        if refusal is not None and refusal[0] in ("shutting_down", "model_not_found", "model_stopped" * is_no_start):
            yield FailOrder(ticket, refusal[0], refusal[1])
            return
        if order.level is not None and (why := why_not_to_level(group, order.level)):
            yield FailOrder(ticket, "level_refused", why)
            return
        if verb is Verb.VALIDATE and not self._host.lent.isdisjoint(group.gpus):
            yield FailOrder(ticket, "gpu_lent", f"{group.name} cannot be validated: its GPU is lent")
            return
        if verb is Verb.VALIDATE:
            yield from self._validate(order, group)
            return
        if verb is Verb.SCALE:
            yield from self._scaler.order(order, group)
            return
        if verb is Verb.SLEEP and self._operator_switch.is_to(group):
            yield from self._operator_switch.fail("superseded", f"a newer order, sleep {group.name}, took its place")
        yield from self._orders.give(group, verb, ticket, now=order.now, level=order.level)

    def _validate(self, order: OrderGiven, group: Group) -> Iterator[Command]:
        if why := why_not_to_validate(group, order.levels):
            yield FailOrder(order.ticket, "level_refused", why)
        elif group.pending_spec is not None:
            why = f"a new configuration of {group.name} is about to hold; validate it after that"
            yield FailOrder(order.ticket, "superseded", why)
        else:
            yield from self._orders.validate(group, order.ticket, order.levels, order.cycles)
