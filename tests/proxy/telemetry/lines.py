"""Requests to log, and a place that keeps the lines."""

from typing import Any, cast

import trio

from muxd.proxy.telemetry.access_log import AccessLog
from muxd.proxy.telemetry.log_destinations import Lost
from muxd.proxy.telemetry.recorder import Recorder
from muxd.proxy.telemetry.request_ids import RequestId
from muxd.proxy.telemetry.request_record import RequestRecord

NOON = 1_774_008_000.125  # 2026-03-20T12:00:00.125Z

REQUEST: dict[str, Any] = {
    "at": NOON,
    "client": "192.0.2.7",
    "key": "team",
    "request_id": "abc-1",
    "method": "POST",
    "target": b"/v1/chat/completions?api_key=secret",
    "route": "/v1/chat/completions",
    "model": "qwen",
    "status": 200,
    "received": 512,
    "sent": 664,
    "wait": 0.5,
    "ttft": 0.75,
    "duration": 1.25,
    "prompt": 12,
    "completion": 345,
    "replays": 1,
    "code": "",
    "end": "ok",
}


class Kept:
    """A place that writes into a list; `hold` it, and it hangs like a disk."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.came = trio.Event()
        self.tell = trio.lowlevel.current_trio_token().run_sync_soon

    def prepare(self, now: float) -> None:
        pass

    def write(self, lines: list[bytes]) -> Lost | None:
        self.lines += map(bytes.decode, lines)
        self.tell(self.came.set)
        return None


def record(log: AccessLog, **changed: Any) -> None:
    told = REQUEST | changed
    id = RequestId(told["request_id"].encode(), b"")
    asked = (told[name] for name in ("client", "method", "target", "received"))
    visit = RequestRecord(cast(Recorder, None), 0.0, id, *asked)
    visit.ended_at, visit.key, visit.route, visit.model = (told[name] for name in ("at", "key", "route", "model"))
    visit.status, visit.how, visit.code = told["status"], told["end"], told["code"]
    visit.sent = told["sent"]
    visit.waited, visit.first_byte, visit.seconds = told["wait"], told["ttft"], told["duration"]
    visit.tokens, visit.replays = (told["prompt"], 0, told["completion"]), told["replays"]
    log.record([visit])


async def finish(log: AccessLog) -> None:
    """Run it no longer than it takes to write what it has."""
    with trio.CancelScope() as scope:
        scope.cancel()
        await log.run()


async def line_of(form: str, **changed: Any) -> str:
    """What is written of such a request."""
    kept = Kept()
    log = AccessLog(form, kept)
    record(log, **changed)
    await finish(log)
    (line,) = kept.lines
    return line
