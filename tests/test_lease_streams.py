import pytest
import trio

from muxd.core.progress import Progress
from muxd.lease_streams import LAG, REPEAT, LeaseStreams
from muxd.supervisor.wire import lease_line, switch_line

QUEUED = Progress("queued", (), 1.0, 5.0, 2)
DRAINING = Progress("draining", ("b",), 2.0, None)


@pytest.fixture
def streams():
    return LeaseStreams(lease_line)


def told(stream):
    lines = []
    while True:
        try:
            lines.append(stream.receive.receive_nowait())
        except (trio.WouldBlock, trio.EndOfChannel):
            return lines


async def test_progress_is_told_when_it_changes_and_again_after_a_while(streams):
    stream = streams.open(7, "a", 0.0)
    for now, view in ((0.0, QUEUED), (0.1, QUEUED), (0.2, DRAINING), (0.3, DRAINING), (0.3 + REPEAT, DRAINING)):
        streams.tell_progress(lambda _, view=view: view, now)
    draining = {"type": "switching", "lease": "7", "model": "a", "phase": "draining", "from": ["b"], "eta_s": None}
    assert told(stream) == [
        {"type": "queued", "lease": "7", "model": "a", "eta_s": 5.0, "position": 2},
        draining,
        draining,
    ]


async def test_a_reader_that_is_too_slow_still_learns_how_it_ended(streams):
    stream = streams.open(7, "a", 0.0)
    for n in range(LAG * 2):
        stream.say({"type": "switching", "n": n})
    streams.end(7, {"type": "failed"})
    assert told(stream)[-1] == {"type": "failed"}


async def test_a_reader_that_left_disturbs_nobody(streams):
    stream = streams.open(7, "a", 0.0)
    stream.receive.close()
    streams.tell_progress(lambda _: QUEUED, 0.0)
    streams.end(7, {"type": "failed"})
    assert streams.get(7) is None


async def test_an_operator_is_told_the_phase_and_how_long_it_took_so_far():
    streams = LeaseStreams(switch_line)
    stream = streams.open(1, "a", 0.0)
    streams.tell_progress(lambda _: DRAINING, 2.0)
    assert told(stream) == [
        {"type": "switching", "model": "a", "phase": "draining", "from": ["b"], "elapsed_s": 2.0, "eta_s": None}
    ]
