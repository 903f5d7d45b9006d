"""The types that muxd and its proxies share."""

import ast
from pathlib import Path

import msgspec
import pytest

from muxd.core.events import Verb
from muxd.protocol import (
    ActivityReport,
    CancelWish,
    DemandReport,
    KeepWish,
    LeaseClaim,
    LeaseComing,
    LeaseDemand,
    LeaseFailed,
    LeaseGranted,
    LeaseOver,
    LeasePlaces,
    LeaseQueued,
    LeaseRelease,
    LeaseRestored,
    LeaseRevoked,
    LeaseWish,
    ModelActivity,
    MuxdMessage,
    ProxyMessage,
    RequestsCancelled,
    RequestsTold,
    RequestsWanted,
    RevocationReason,
    SessionRefused,
    ToldError,
    ToldRequest,
    UnloadAnswer,
    UnloadWish,
    WaitingRequests,
    seconds,
)

CORE = Path(__file__).parents[1] / "muxd" / "core"

SAID = [
    LeaseWish(1, "a", (WaitingRequests("k", 2, 3, 1.5),)),
    LeaseClaim(1, "a", "http://127.0.0.1:1", 2, (WaitingRequests(),)),
    DemandReport((LeaseDemand(1, 2), LeaseDemand(2, 0, (WaitingRequests(),)))),
    LeaseRelease(1),
    UnloadWish("a"),
    KeepWish("a", 2.5, age=0.5),
    ActivityReport((ModelActivity("a", 7, (0.1,)),), left_out=1),
    RequestsTold(3, (ToldRequest("r1", "streaming", "a", 1.5),)),
    RequestsCancelled(4, 1),
]
TOLD = [
    LeaseQueued(1, 2, 0.5),
    LeaseComing(1, "draining", ("b",)),
    LeaseGranted(1, "http://127.0.0.1:1", 3),
    LeaseGranted(1, "http://127.0.0.1:1", 3, 4, 1),
    LeasePlaces(1, 2, 4),
    LeasePlaces(1, None, 5),
    LeaseRevoked(1, RevocationReason.STOP, "an operator stops it", 0.0),
    LeaseRestored(1),
    LeaseFailed(1, ToldError("model_failed", "it died", True, {"n": 1}), 2.0),
    LeaseOver(1),
    UnloadAnswer("a", "it is in use"),
    SessionRefused(ToldError("bad_request", "what?")),
    RequestsWanted(3),
    CancelWish(4, "r1"),
]


@pytest.mark.parametrize(("messages", "kind"), [(SAID, ProxyMessage), (TOLD, MuxdMessage)], ids=["proxy", "muxd"])
def test_every_message_comes_as_it_was_sent_and_has_a_type_of_its_own(messages, kind):
    assert [msgspec.json.decode(msgspec.json.encode(message), type=kind) for message in messages] == messages
    assert {type(message) for message in messages} == set(kind.__args__)


def test_what_a_newer_side_adds_is_ignored():
    line = b'{"type": "ask", "lease": 1, "model": "a", "waiting": [{"count": 2, "new": 1}], "newer": {}}'
    assert msgspec.json.decode(line, type=ProxyMessage) == LeaseWish(1, "a", (WaitingRequests(count=2),))


def test_the_wire_says_from_for_who_leaves():
    assert msgspec.json.encode(LeaseComing(1, "draining", ("b",))) == (
        b'{"type":"switching","lease":1,"phase":"draining","from":["b"],"eta_s":null}'
    )


def reasons_of_the_core() -> set[str]:
    """Return the reasons that the core gives, as literals, to those of its methods which revoke leases."""
    found = set()
    places = {"revoke_all": 1, "drain": 1, "_lost": 2, "_move_lost": 3}
    for path in CORE.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in places:
                reason = node.args[places[node.func.attr]]
                found |= {each.value for each in ast.walk(reason) if isinstance(each, ast.Constant)}
    return found


def test_every_reason_that_the_core_has_to_revoke_a_lease_is_told():
    literal = reasons_of_the_core()
    assert {"switch", "shutdown", "worker_exited", "worker_unresponsive"} <= literal
    told_as_another = {Verb.SCALE, Verb.RENEW_ROUTER}  # one that is scaled to 0 sleeps; a reload renews a router
    orders = {str(verb) for verb in Verb} - {Verb.START} - told_as_another
    assert literal | orders == set(RevocationReason)


@pytest.mark.parametrize(("value", "told"), [(None, None), (float("inf"), None), (1.23456, 1.235), (0.0, 0.0)])
def test_a_duration_is_told_in_milliseconds_and_one_without_end_not_at_all(value, told):
    assert seconds(value) == told
