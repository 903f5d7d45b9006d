"""The states of a lease and of a proxied request, and every move between them; another one is a bug."""

from collections.abc import Mapping
from enum import StrEnum


class LeaseState(StrEnum):
    """What a proxy has of a model's lease."""

    NOT_ASKED = "not asked"  # no request waits
    ASKED = "asked"  # requests wait, and muxd was asked or cannot be reached
    GRANTED = "granted"  # requests are admitted, as far as there are places
    SUSPECTED = "suspected"  # its worker may be lost: nothing is admitted until muxd has said, or a moment is over
    DRAINING = "draining"  # revoked: nothing is admitted, and what is in flight comes to its end


LEASE_MOVES: Mapping[LeaseState, frozenset[LeaseState]] = {
    LeaseState.NOT_ASKED: frozenset({LeaseState.ASKED}),
    LeaseState.ASKED: frozenset({LeaseState.GRANTED, LeaseState.NOT_ASKED}),
    LeaseState.GRANTED: frozenset({LeaseState.SUSPECTED, LeaseState.DRAINING, LeaseState.ASKED}),
    LeaseState.SUSPECTED: frozenset({LeaseState.GRANTED, LeaseState.DRAINING, LeaseState.ASKED}),
    LeaseState.DRAINING: frozenset({LeaseState.GRANTED, LeaseState.ASKED}),
}


class RequestState(StrEnum):
    """Where a request is between its client and a worker; see `proxied_request`."""

    QUEUED = "queued"  # the lease's queue has it
    ASKED = "asked"  # a worker has it, and nothing of a response is here
    ANSWERING = "answering"  # the head of a response is here
    DONE = "done"  # the client has every byte, or an error, or is gone


REQUEST_MOVES: Mapping[RequestState, frozenset[RequestState]] = {
    RequestState.QUEUED: frozenset({RequestState.ASKED, RequestState.DONE}),
    RequestState.ASKED: frozenset({RequestState.ANSWERING, RequestState.QUEUED, RequestState.DONE}),
    RequestState.ANSWERING: frozenset({RequestState.QUEUED, RequestState.DONE}),
    RequestState.DONE: frozenset(),
}
