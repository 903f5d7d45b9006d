"""The order in which requests come that wait for one model."""

from dataclasses import dataclass

from muxd.protocol import WaitingRequests
from muxd.proxy.queue import Queue


@dataclass(eq=False)
class Request:
    name: str
    since: float = 0.0
    priority: int = 0
    is_batch: bool = False
    key_name: str = ""


def queue(*requests: Request) -> Queue[Request]:
    made: Queue[Request] = Queue()
    for request in requests:
        made.put(request)
    return made


def order(waiting: Queue[Request], now: float = 0.0, batch_max_wait: float = 600.0) -> list[str]:
    popped = []
    while waiting:
        popped.append(waiting.pop(now, batch_max_wait).name)
    return popped


def test_of_one_key_the_oldest_comes_first():
    assert order(queue(Request("a"), Request("b"), Request("c"))) == ["a", "b", "c"]


def test_the_higher_priority_comes_first_and_batch_after_all_others():
    waiting = queue(Request("a", is_batch=True, priority=9), Request("b"), Request("c", priority=2))
    assert order(waiting) == ["c", "b", "a"]


def test_a_greedy_key_does_not_keep_out_one_with_few_requests():
    greedy = [Request(f"g{number}", key_name="greedy") for number in range(4)]
    waiting = queue(*greedy, Request("m0", key_name="modest"), Request("o0", key_name="other"))
    assert [request.name for request in waiting] == ["g0", "m0", "o0", "g1", "g2", "g3"]
    assert order(waiting) == ["g0", "m0", "o0", "g1", "g2", "g3"]


def test_keys_take_turns_whoever_comes_meanwhile():
    greedy = (Request(f"g{number}", key_name="greedy") for number in range(3))
    waiting = queue(*greedy, Request("m0", key_name="modest"))
    assert waiting.pop(0, 600).name == "g0"
    assert waiting.pop(0, 600).name == "m0"
    waiting.put(Request("m1", key_name="modest"))
    assert order(waiting) == ["g1", "m1", "g2"]


def test_batch_that_has_waited_for_too_long_comes_first():
    waiting = queue(Request("i"), Request("young", 90, is_batch=True), Request("old", 10, is_batch=True, key_name="k"))
    assert order(queue(Request("i"), Request("b", 50, is_batch=True)), now=100, batch_max_wait=60) == ["i", "b"]
    assert order(waiting, now=100, batch_max_wait=60) == ["old", "i", "young"]


def test_one_that_leaves_is_gone_and_an_empty_queue_is_false():
    first, second = Request("a", key_name="k"), Request("b", is_batch=True)
    waiting = queue(first, second)
    assert waiting.discard(first)
    assert not waiting.discard(first)
    assert (len(waiting), bool(waiting), [*waiting]) == (1, True, [second])
    assert waiting.discard(second)
    assert (len(waiting), bool(waiting), waiting.lines) == (0, False, {})


def test_muxd_is_told_how_many_wait_of_each_class_and_priority():
    waiting = queue(Request("a", 4, key_name="x"), Request("b", 2, key_name="y"), Request("c", 1, 3, is_batch=True))
    assert waiting.demand(10) == (
        WaitingRequests(count=2, oldest_s=8),
        WaitingRequests(count=1, oldest_s=9, priority=3, batch=True),
    )
