"""One watch of muxd for all viewers: what each is told, when muxd goes and comes, and when a viewer does not read."""

import json
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from muxd.errors import Unreachable
from muxd.ui.live_feed import BACKLOG, LiveFeed

MODEL = {"name": "qwen", "state": "ready", "waiting": 0, "since_s": 1.0}


class PretendMuxd:
    """The control socket, as far as the feed asks it."""

    def __init__(self):
        self.started = 1000.0
        self.models = [MODEL]
        self.events_so_far = []
        self.channels = []
        self.is_up = True
        self.asked = 0

    def _check(self):
        if not self.is_up:
            raise Unreachable("muxd is not running")

    async def version(self):
        self._check()
        return {"started": self.started}

    async def status(self):
        self._check()
        self.asked += 1
        await trio.lowlevel.checkpoint()
        return {"pid": 1, "uptime_s": self.asked, "switch": None, "models": [dict(model) for model in self.models]}

    def record(self, kind, **facts):
        event = {"id": len(self.events_so_far) + 1, "type": kind, **facts}
        self.events_so_far.append(event)
        for channel in self.channels:
            channel.send_nowait(event)

    @asynccontextmanager
    async def events(self, after):
        self._check()
        send, receive = trio.open_memory_channel(10_000)
        for event in self.events_so_far[after:]:
            send.send_nowait(event)
        self.channels.append(send)
        try:
            yield receive
        finally:
            self.channels.remove(send)

    def die(self):
        self.is_up = False

    def come_back(self):
        self.is_up, self.started, self.events_so_far = True, self.started + 100, []


@pytest.fixture
def muxd():
    return PretendMuxd()


@pytest.fixture
async def feed(muxd, autojump_clock, nursery):
    feed = LiveFeed(muxd)
    nursery.start_soon(feed.run)
    return feed


def messages(told):
    """(kind, data, id) of each message in the bytes of a stream."""
    found = []
    for block in told.decode().strip().split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.splitlines())
        found.append((lines["event"], json.loads(lines["data"]), lines.get("id")))
    return found


async def next_of(viewer, kind):
    """The next message of a kind; all before it are dropped."""
    with trio.fail_after(30):
        while True:
            for message in messages(await viewer.messages()):
                if message[0] == kind:
                    return message


async def test_a_viewer_begins_with_all_that_there_is(autojump_clock, feed, muxd):
    muxd.record("state", model="qwen")
    async with feed.watch() as viewer:
        ((kind, data, _),) = messages(await viewer.messages())
        assert kind == "snapshot"
        assert data["status"]["models"][0]["name"] == "qwen"


async def test_an_event_is_told_once_and_in_order(autojump_clock, feed, muxd):
    async with feed.watch() as viewer:
        await viewer.messages()
        for number in range(5):
            muxd.record("state", model=f"m{number}")
        seen = []
        while len(seen) < 5:
            seen += [data["model"] for kind, data, _ in messages(await viewer.messages()) if kind == "event"]
        assert seen == ["m0", "m1", "m2", "m3", "m4"]


async def test_a_status_that_has_only_grown_older_is_not_told_each_time(autojump_clock, feed, muxd):
    async with feed.watch() as viewer:
        await viewer.messages()
        before = muxd.asked
        await next_of(viewer, "status")
        assert muxd.asked - before >= 5
        muxd.models = [MODEL | {"state": "draining"}]
        _, data, _ = await next_of(viewer, "status")
        assert data["models"][0]["state"] == "draining"


async def test_muxd_is_not_asked_while_nobody_looks(autojump_clock, feed, muxd):
    async with feed.watch() as viewer:
        await viewer.messages()
    await trio.sleep(5)
    before = muxd.asked
    await trio.sleep(60)
    assert muxd.asked == before


async def test_twenty_viewers_cost_muxd_as_much_as_one(autojump_clock, feed, muxd):
    async with feed.watch(), trio.open_nursery() as nursery:
        await trio.sleep(10)
        alone = muxd.asked

        async def look():
            async with feed.watch() as viewer:
                while True:
                    await viewer.messages()

        for _ in range(20):
            nursery.start_soon(look)
        await trio.sleep(10)
        assert muxd.asked - alone <= alone + 1
        nursery.cancel_scope.cancel()


async def test_muxd_goes_and_comes_back_with_nothing_lost_or_doubled(autojump_clock, feed, muxd):
    async with feed.watch() as viewer:
        await viewer.messages()
        muxd.die()
        _, data, _ = await next_of(viewer, "gone")
        assert data == {"message": "muxd is not running"}
        muxd.come_back()
        muxd.record("muxd_started")
        _, data, mark = await next_of(viewer, "snapshot")
        events = [event["type"] for event in data["events"]]
        if not events:
            _, event, mark = await next_of(viewer, "event")
            events = [event["type"]]
        assert events == ["muxd_started"]
        assert mark == "1100.000-1"


async def test_who_comes_back_is_told_what_they_missed_and_no_more(autojump_clock, feed, muxd):
    async with feed.watch() as other:
        for number in range(3):
            muxd.record("state", model=f"m{number}")
        await trio.sleep(2)
        async with feed.watch("1000.000-2") as viewer:
            ((_, data, _),) = messages(await viewer.messages())
            assert [event["id"] for event in data["events"]] == [3]
        async with feed.watch("999.000-3") as viewer:  # of another muxd
            ((_, data, _),) = messages(await viewer.messages())
            assert [event["id"] for event in data["events"]] == [1, 2, 3]
        assert other is not None


async def test_a_viewer_that_never_reads_is_dropped_to_a_snapshot(autojump_clock, feed, muxd):
    async with feed.watch() as slow, feed.watch() as quick:
        await slow.messages()
        await quick.messages()
        for _ in range(BACKLOG + 10):
            muxd.record("state", model="qwen")
        seen = 0
        while seen < BACKLOG + 10:
            seen += sum(kind == "event" for kind, _, _ in messages(await quick.messages()))
        assert len(slow._queue) <= BACKLOG
        ((kind, data, _),) = messages(await slow.messages())
        assert kind == "snapshot"
        assert data["events"][-1]["id"] == BACKLOG + 10


@pytest.mark.parametrize(
    "mark", ["", "x", "1000.000-", "1000.000-x", "-5", "9" * 100, "1000.000-\xb2", "1000.000-" + "9" * 5000]
)
async def test_a_cursor_that_is_none_gets_everything(autojump_clock, feed, muxd, mark):
    muxd.record("state", model="qwen")
    async with feed.watch():
        await trio.sleep(2)
        async with feed.watch(mark) as viewer:
            ((_, data, _),) = messages(await viewer.messages())
            assert len(data["events"]) == 1
