"""The streams to clients that hold a lease, or wait for a switch, an order or an unload, and what they are told."""

from collections.abc import Callable

import trio

from muxd.core.commands import EndLease, FailLease, FailOrder, FailSwitch, FinishOrder, FinishSwitch, GrantLease
from muxd.core.progress import Progress
from muxd.lease_streams import LeaseStream, LeaseStreams, seconds

from .wire import LeaseCommand, OrderEnd, end_line, holder_line, lease_line, order_line, switch_line


class ClientStreams:
    """All streams, each with a number of its own."""

    def __init__(self) -> None:
        self.leases = LeaseStreams(lease_line)
        self.switches = LeaseStreams(switch_line)
        self.orders = LeaseStreams(order_line)
        self.unloads = LeaseStreams(order_line)
        self._last_number = 0

    def open(self, streams: LeaseStreams, name: str, now: float) -> LeaseStream:
        """Open a stream about a model among those of one kind."""
        self._last_number += 1
        return streams.open(self._last_number, name, now)

    def close(self) -> None:
        """End every stream that is still open."""
        for streams in (self.leases, self.switches, self.orders, self.unloads):
            streams.end_all()

    def tell_progress(self, progress_of: Callable[[str], Progress | None]) -> None:
        """Send each client who waits a line of how it goes, where one is due."""
        now = trio.current_time()
        for streams in (self.leases, self.switches, self.orders):
            streams.tell_progress(progress_of, now)

    def tell_holder(self, command: LeaseCommand | EndLease) -> None:
        """Tell a lease's holder of a command; a failed lease and an ended one are over."""
        stream = self.leases.get(command.lease)
        if stream is None:
            return
        if isinstance(command, EndLease):
            self.leases.end(command.lease)
            return
        line = holder_line(command, stream.worker, trio.current_time())
        if isinstance(command, FailLease):
            self.leases.end(command.lease, line)
        else:
            stream.waiting = stream.waiting and not isinstance(command, GrantLease)
            stream.say(line)

    def end_order(self, command: OrderEnd) -> None:
        """Tell an operator or a client how the switch, order or unload ended, with its duration."""
        streams = self.unloads
        if isinstance(command, FinishSwitch | FailSwitch):
            streams = self.switches
        elif isinstance(command, FinishOrder | FailOrder):
            streams = self.orders
        stream = streams.get(command.ticket)
        if stream is not None:
            elapsed = seconds(trio.current_time() - stream.opened)
            streams.end(command.ticket, {**end_line(command), "model": stream.worker, "elapsed_s": elapsed})
