"""Whose weight files are read before they are needed, and until when."""

import pytest

from muxd.core.commands import (
    PrefetchWeights,
    StopPrefetch,
)
from muxd.core.events import (
    DemandReported,
    Failure,
    HostRamLimited,
    LeaseAsked,
    LeaseEnded,
    ShutdownAsked,
    Started,
    SwitchAsked,
    WorkerAsleep,
    WorkerExited,
    WorkerReady,
)

from .playbook import Playbook, single


def reads(book: Playbook) -> list[PrefetchWeights | StopPrefetch]:
    """What is read ahead since the last look, or no more; other commands are left aside."""
    found = [command for command in book.pending if isinstance(command, PrefetchWeights | StopPrefetch)]
    book.pending.clear()
    return found


def told(book: Playbook, *events) -> list[PrefetchWeights | StopPrefetch]:
    return [command for event in events for command in reads(book >> event)]


def serving(*others, **more) -> Playbook:
    """A has its GPU and a request in flight."""
    book = Playbook("a", *others, **more)
    told(book, Started(0), LeaseAsked(0, 1, "a"), WorkerReady(1, "a", "http://a"), DemandReported(1, 1, 1))
    return book


def test_who_is_next_is_read_while_the_other_one_drains_until_it_is_ready():
    book = serving(single("b", prefetch=True))
    assert told(book, SwitchAsked(2, 7, "b")) == [PrefetchWeights("b")]
    assert told(book, LeaseEnded(3, 1), WorkerAsleep(4, "a")) == [], "it goes on while b starts"
    assert told(book, WorkerReady(30, "b", "http://b")) == [StopPrefetch("b")]


def test_who_waits_for_a_turn_is_read_before_its_switch_begins():
    book = serving(single("b", prefetch=True))
    assert told(book, LeaseAsked(2, 2, "b")) == [PrefetchWeights("b")]
    assert book.state("a") == "ready", "a has its turn yet"
    assert told(book, LeaseEnded(3, 2)) == [StopPrefetch("b")], "nobody waits any more"


def test_a_start_on_a_free_gpu_is_helped_too():
    book = Playbook(single("b", prefetch=True))
    assert told(book, Started(0), LeaseAsked(1, 1, "b")) == [PrefetchWeights("b")]
    assert told(book, WorkerExited(2, "b", Failure.EXITED, "broken")) == [], "it is started anew"
    assert told(book, WorkerReady(9, "b", "http://b")) == [StopPrefetch("b")]


@pytest.mark.parametrize(("level", "is_read"), [(1, False), (2, True), (3, True)])
def test_only_weights_that_are_on_disk_are_read(level, is_read):
    book = serving(single("b", prefetch=True, sleep_level=level))
    told(book, SwitchAsked(2, 7, "b"), LeaseEnded(3, 1), WorkerAsleep(4, "a"), WorkerReady(5, "b", "http://b"))
    told(book, SwitchAsked(6, 8, "a"), WorkerExited(7, "b", Failure.EXITED) if level == 3 else WorkerAsleep(7, "b"))
    told(book, WorkerReady(8, "a", "http://a"))
    assert (told(book, SwitchAsked(9, 9, "b")) == [PrefetchWeights("b")]) is is_read


def test_nothing_is_read_for_a_model_that_is_not_to_be():
    book = serving("b")
    assert told(book, SwitchAsked(2, 7, "b"), LeaseEnded(3, 1), WorkerAsleep(4, "a")) == []


def test_host_ram_for_a_copy_of_the_weights_is_left_free():
    book = serving(single("b", prefetch=True, sleep_level=1, copy=30))
    assert told(book, HostRamLimited(2, 100), SwitchAsked(2, 7, "b")) == [PrefetchWeights("b", 30)]


def test_a_shutdown_ends_it():
    book = serving(single("b", prefetch=True))
    assert told(book, SwitchAsked(2, 7, "b"), ShutdownAsked(3, 33)) == [PrefetchWeights("b"), StopPrefetch("b")]
