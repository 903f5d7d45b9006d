"""What operators who wait are told, and when."""

from typing import Any

import pytest
import trio

from muxd.core.commands import FailSwitch, FinishOrder, FinishSwitch
from muxd.core.progress import Progress
from muxd.supervisor.order_streams import LAG, OrderStreams
from muxd.supervisor.progress_pace import REPEAT

QUEUED = Progress("queued", (), 1.0, 5.0, 2)
DRAINING = Progress("draining", ("b",), 2.0, None)


@pytest.fixture
def streams() -> OrderStreams:
    return OrderStreams()


def told(lines: trio.MemoryReceiveChannel[dict[str, Any]]) -> list[dict[str, Any]]:
    found = []
    while True:
        try:
            found.append(lines.receive_nowait())
        except (trio.WouldBlock, trio.EndOfChannel):
            return found


def tell(streams: OrderStreams, progress: Progress, now: float) -> None:
    for stream in streams:
        stream.tell_progress(progress, now)


async def test_progress_is_told_when_it_changes_and_again_after_a_while(streams):
    lines = streams.open_switch(7, "a", 0.0)
    for now, view in ((0.0, QUEUED), (0.1, QUEUED), (0.2, DRAINING), (0.3, DRAINING), (0.3 + REPEAT, DRAINING)):
        tell(streams, view, now)
    queued = {"type": "switching", "model": "a", "phase": "queued", "from": [], "elapsed_s": 1.0, "eta_s": 5.0}
    draining = {"type": "switching", "model": "a", "phase": "draining", "from": ["b"], "elapsed_s": 2.0, "eta_s": None}
    assert told(lines) == [queued, draining, draining]


async def test_a_reader_that_is_too_slow_still_learns_how_it_ended(streams):
    lines = streams.open_switch(7, "a", 0.0)
    for n in range(LAG * 2):
        tell(streams, Progress(f"phase {n}"), 0.0)
    streams.end(FailSwitch(7, "superseded", "b was asked for"), 3.0)
    last = told(lines)[-1]
    assert (last["type"], last["error"]["code"], last["model"], last["elapsed_s"]) == ("failed", "superseded", "a", 3.0)


async def test_a_reader_that_left_disturbs_nobody(streams):
    streams.open_order(7, "a", 0.0).close()
    tell(streams, QUEUED, 0.0)
    streams.end(FinishOrder(7, "ready"), 1.0)
    assert list(streams) == []


async def test_an_order_that_nobody_waits_for_ends_untold(streams):
    lines = streams.open_order(7, "a", 0.0)
    streams.end(FinishSwitch(8, "http://a"), 1.0)
    tell(streams, QUEUED, 1.0)
    assert [line["type"] for line in told(lines)] == ["working"]


async def test_the_end_of_muxd_ends_every_stream(streams):
    lines = streams.open_order(7, "a", 0.0)
    streams.close()
    with pytest.raises(trio.EndOfChannel):
        lines.receive_nowait()
