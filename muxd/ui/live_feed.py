"""One watch of muxd for all viewers: its status, its events and its series, and the stream that each viewer gets.

muxd is asked a few times a second while anybody looks, and not at all while nobody does.  A viewer gets messages of
server-sent events:

    snapshot   {"status", "events", "series"}   at first, and in place of what a slow viewer has missed
    status     the whole status of muxd, where more than ages changed, with `at`, the time that its ages are of
    event      one entry of muxd's events, with its id as the message's
    gone       {"message"}: muxd cannot be reached; it is tried again

A viewer that does not read is never waited for: beyond BACKLOG messages those are dropped, and a snapshot takes their
place once it reads again.
"""

import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import trio

from muxd.client import ControlClient
from muxd.errors import MuxdError

Message = dict[str, Any]

#: Seconds between two looks at muxd's status while anybody watches, and while it cannot be reached.
PACE, RETRY = 0.5, 1.0

#: Seconds until the status is told again though nothing but its ages has changed.
AT_LEAST = 5.0

#: Messages that a viewer may lag behind.
BACKLOG = 256

#: Entries of muxd's events that a snapshot has.
EVENTS = 200

_NUMBER = re.compile("[0-9]{1,18}")


class LiveFeed:
    """The watch; `run` it, and `watch` it for each viewer."""

    def __init__(self, control: ControlClient) -> None:
        self._control = control
        self._viewers: set[_Viewer] = set()
        self._wanted = trio.Event()
        self._status: Message | None = None
        self._trouble = "muxd was not asked yet"
        self._events: list[Message] = []
        self._started: float | None = None  # when the muxd of these events began: ids begin anew with each muxd
        self._asked = trio.Event()
        self._lasting: Message = {}
        self._next = 0.0  # when the status is told again though nothing has changed

    async def run(self) -> None:
        """Watch muxd for as long as anybody looks; never returns."""
        while True:
            await self._wanted.wait()
            try:
                await self._follow()
            except* MuxdError as group:
                self._lose(group)
                await trio.sleep(RETRY)

    @asynccontextmanager
    async def watch(self, last_id: str | None = None) -> AsyncIterator["_Viewer"]:
        """Add a viewer for the scope; `last_id`: the last message that it has seen, if it was here before."""
        viewer = _Viewer(self, last_id)
        self._viewers.add(viewer)
        self._wanted.set()
        try:
            await self._asked.wait()
            yield viewer
        finally:
            self._viewers.discard(viewer)
            if not self._viewers:
                self._wanted = trio.Event()

    async def _follow(self) -> None:
        """Watch one muxd until nobody looks, or until it cannot be reached; raises MuxdError."""
        version = await self._control.version()
        if version["started"] != self._started:
            self._started, self._events = version["started"], []
        after = self._events[-1]["id"] if self._events else 0
        async with self._control.events(after) as events, trio.open_nursery() as nursery:
            nursery.start_soon(self._take_events, events)
            nursery.start_soon(self._take_status, nursery.cancel_scope)

    async def _take_events(self, events: AsyncIterator[Message]) -> None:
        async for event in events:
            if event["type"] == "gap":
                self._events.clear()
                self._refresh()
                continue
            self._events = [*self._events[1 - EVENTS :], event]
            self._tell("event", event, self._id_of(event))

    async def _take_status(self, scope: trio.CancelScope) -> None:
        while self._viewers:
            status = await self._control.status()
            was_away = self._status is None
            due = _is_moving(status) or _lasting(status) != self._lasting or trio.current_time() >= self._next
            self._status, self._lasting = status | {"at": time.time()}, _lasting(status)
            self._asked.set()
            if was_away:
                self._refresh()
            elif due:
                self._tell("status", self._status)
            if was_away or due:
                self._next = trio.current_time() + AT_LEAST
            await trio.sleep(PACE)
        scope.cancel()

    def _lose(self, group: BaseExceptionGroup[MuxdError]) -> None:
        """Tell every viewer that muxd cannot be reached."""
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        assert isinstance(error, MuxdError)
        self._status, self._trouble = None, error.message
        self._asked.set()
        self._tell("gone", {"message": self._trouble})

    def _tell(self, kind: str, value: Message, mark: str = "") -> None:
        message = _framed(kind, value, mark)
        for viewer in self._viewers:
            viewer.tell(message)

    def _refresh(self) -> None:
        for viewer in self._viewers:
            viewer.refresh()

    def snapshot(self, last_id: str | None) -> bytes:
        """Return the message for a viewer that has seen nothing, or what came until `last_id`."""
        if self._status is None:
            return _framed("gone", {"message": self._trouble})
        missed = [event for event in self._events if last_id is None or not self._is_seen(event, last_id)]
        mark = self._id_of(self._events[-1]) if self._events else ""
        return _framed("snapshot", {"status": self._status, "events": missed, "now": time.time()}, mark)

    def _id_of(self, event: Message) -> str:
        return f"{self._started:.3f}-{event['id']}"

    def _is_seen(self, event: Message, last_id: str) -> bool:
        muxd, _, number = last_id.partition("-")
        return muxd == f"{self._started:.3f}" and _NUMBER.fullmatch(number) is not None and event["id"] <= int(number)


class _Viewer:
    """One viewer's queue of messages."""

    def __init__(self, feed: LiveFeed, last_id: str | None) -> None:
        self._feed = feed
        self._last_id = last_id
        self._queue: list[bytes] = []
        self._stale = True  # a snapshot comes next
        self._more = trio.Event()

    def tell(self, message: bytes) -> None:
        if self._stale:
            return
        self._queue.append(message)
        if len(self._queue) > BACKLOG:
            self.refresh()
        self._more.set()

    def refresh(self) -> None:
        """Have a snapshot in place of what waits."""
        self._queue.clear()
        self._stale = True
        self._more.set()

    async def messages(self) -> bytes:
        """Wait for the next messages, and return them."""
        while not (self._stale or self._queue):
            self._more = trio.Event()
            await self._more.wait()
        if self._stale:
            self._stale = False
            self._queue = [self._feed.snapshot(self._last_id)]
            self._last_id = None
        told, self._queue = b"".join(self._queue), []
        return told


def _is_moving(status: Message) -> bool:
    """Say whether something is under way of which the ages matter."""
    return status["switch"] is not None or any(model["waiting"] for model in status["models"])


def _lasting(status: Message) -> Message:
    """Return what of a status does not change by the passing of time alone."""
    models = [{key: value for key, value in model.items() if not key.endswith("_s")} for model in status["models"]]
    return {**{key: value for key, value in status.items() if not key.endswith("_s")}, "models": models}


def _framed(kind: str, value: Message, mark: str = "") -> bytes:
    """Return a message of server-sent events."""
    line = f"id: {mark}\n".encode() if mark else b""
    return b"%bevent: %b\ndata: %b\n\n" % (line, kind.encode(), msgspec.json.encode(value))
