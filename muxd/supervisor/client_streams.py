"""The streams to clients that hold a lease, or wait for a switch, an order or an unload, and what they are told."""

from collections.abc import Callable

import trio

from muxd.core.commands import (
    AnswerUnload,
    EndLease,
    FailLease,
    FailOrder,
    FailSwitch,
    FinishOrder,
    FinishSwitch,
    GrantLease,
    RestoreLease,
    RevokeLease,
)
from muxd.core.progress import Progress
from muxd.errors import error_of
from muxd.lease_streams import LeaseStream, LeaseStreams, Line, lease_line, order_line, seconds, switch_line


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

    def tell_holder(self, command: GrantLease | RevokeLease | RestoreLease | FailLease | EndLease) -> None:
        stream = self.leases.get(command.lease)
        if stream is None:
            return
        about: Line = {"lease": str(command.lease), "model": stream.worker}
        match command:
            case GrantLease(_, url, generation):
                stream.waiting = False
                stream.say({"type": "granted", **about, "url": url, "generation": generation})
            case RevokeLease(_, reason, message, deadline):
                left = seconds(max(0.0, deadline - trio.current_time()))
                stream.say({"type": "revoked", **about, "reason": reason, "message": message, "deadline_s": left})
            case RestoreLease():
                stream.say({"type": "restored", **about})
            case FailLease(_, code, message, retry_after):
                line = {
                    "type": "failed",
                    **about,
                    **error_of(code, message).as_json(),
                    "retry_after_s": retry_after,
                }
                self.leases.end(command.lease, line)
            case EndLease(lease):
                self.leases.end(lease)

    def end_order(self, command: FinishSwitch | FailSwitch | FinishOrder | FailOrder | AnswerUnload) -> None:
        """Tell an operator or a client how the switch, order or unload ended."""
        match command:
            case FinishSwitch(ticket, url):
                self._end(self.switches, ticket, {"type": "ready", "url": url})
            case FailSwitch(ticket, code, message):
                self._end(self.switches, ticket, {"type": "failed", **error_of(code, message).as_json()})
            case FinishOrder(ticket, state):
                self._end(self.orders, ticket, {"type": "done", "state": state})
            case FailOrder(ticket, code, message):
                self._end(self.orders, ticket, {"type": "failed", **error_of(code, message).as_json()})
            case AnswerUnload(ticket, reason):
                self._end(self.unloads, ticket, {"sleeps": not reason, "reason": reason or None})

    def _end(self, streams: LeaseStreams, ticket: int, line: Line) -> None:
        """Send the last line to the operator who gave the order, with its duration, and close the stream."""
        stream = streams.get(ticket)
        if stream is not None:
            elapsed = seconds(trio.current_time() - stream.opened)
            streams.end(ticket, {**line, "model": stream.worker, "elapsed_s": elapsed})
