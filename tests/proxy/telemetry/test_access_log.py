"""What a line says, what nobody can make it say, and when it is written or dropped."""

import json
import logging
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from muxd.proxy.telemetry import access_log
from muxd.proxy.telemetry.access_log import AccessLog, CannotWriteLog, open_access_log
from muxd.proxy.telemetry.log_destinations import Lost

from .lines import Kept, finish, line_of, record

FORMS = pytest.mark.parametrize("form", ["text", "json"])


@pytest.mark.parametrize(
    ("zone", "stamp"),
    [
        ("Asia/Kolkata", "2026-03-20T17:30:00.125+05:30"),
        ("America/St_Johns", "2026-03-20T09:30:00.125-02:30"),
        ("UTC", "2026-03-20T12:00:00.125+00:00"),
    ],
)
async def test_text_is_a_line_for_people_by_their_clock(set_zone: Callable[[str], None], zone: str, stamp: str) -> None:
    set_zone(zone)
    assert await line_of("text") == (
        f"{stamp} 192.0.2.7 team POST /v1/chat/completions qwen 200 ok - 1.250s wait=0.500 "
        "first=0.750 in=512 out=664 tokens=12+345 replays=1 id=abc-1\n"
    )


async def test_json_is_one_object_with_units_in_its_names(set_zone: Callable[[str], None]) -> None:
    set_zone("Asia/Kolkata")
    assert json.loads(await line_of("json")) == {
        "time": "2026-03-20T12:00:00.125Z",
        "client": "192.0.2.7",
        "key": "team",
        "request_id": "abc-1",
        "method": "POST",
        "path": "/v1/chat/completions",
        "route": "/v1/chat/completions",
        "model": "qwen",
        "status": 200,
        "end": "ok",
        "code": "",
        "duration_s": 1.25,
        "wait_s": 0.5,
        "ttft_s": 0.75,
        "request_bytes": 512,
        "response_bytes": 664,
        "prompt_tokens": 12,
        "completion_tokens": 345,
        "replays": 1,
    }


async def test_of_probes_only_one_that_fails_is_a_line() -> None:
    kept = Kept()
    log = AccessLog("text", kept)
    record(log, target=b"/health", status=200)
    record(log, target=b"/health", status=503)
    record(log, target=b"/healthy", status=200)
    await finish(log)
    assert [re.search(r"POST (\S+) qwen (\d+)", line).groups() for line in kept.lines] == [
        ("/health", "503"),
        ("/healthy", "200"),
    ]


async def test_what_is_not_known_is_a_dash_or_null() -> None:
    nothing = {"key": "", "model": "", "route": "", "ttft": None, "code": "invalid_json", "end": "refused"}
    assert " - POST /v1/chat/completions - 200 refused invalid_json " in (line := await line_of("text", **nothing))
    assert " first=- " in line
    told = json.loads(await line_of("json", **nothing))
    assert (told["key"], told["model"], told["route"], told["ttft_s"]) == ("", "", "", None)


@FORMS
async def test_a_query_is_not_logged(form: str) -> None:
    assert "secret" not in await line_of(form)


NASTY = [
    "a\nb",
    "a\r\nb",
    'a"b',
    'a" ok "b',
    "a\\b",
    "a b",
    "\x1b[2Jx",
    "\x00",
    "a\x7fb",
    "\x85",
    "\u202eabc",
    "",
    "ü",
    "=",
]


@FORMS
@pytest.mark.parametrize("field", ["client", "key", "request_id", "method", "model", "code", "end"])
async def test_no_value_breaks_a_line_or_forges_a_field(form: str, field: str) -> None:
    fields = len((await line_of(form)).split())
    for value in NASTY:
        line = await line_of(form, **{field: value})
        assert line.count("\n") == 1
        assert line.isascii()
        assert line[:-1].isprintable()
        if form == "json":
            assert json.loads(line)[field] == value
        else:
            assert len(re.findall(r'(?:[^\s"]|"(?:[^"\\]|\\.)*")+', line)) == fields


@FORMS
async def test_no_byte_of_a_path_breaks_a_line(form: str) -> None:
    for byte in (*range(0x21), 0x22, 0x5C, *range(0x7F, 0x100)):
        line = await line_of(form, target=b"/a" + bytes([byte]) + b"b")
        assert line.count("\n") == 1
        assert line[:-1].isascii()
        assert line[:-1].isprintable()
        if form == "json":
            assert json.loads(line)["path"] == f"/a{chr(byte)}b"


async def test_a_long_path_is_cut() -> None:
    assert len(json.loads(await line_of("json", target=b"/" + b"x" * 100_000))["path"]) == 2048


@FORMS
async def test_words_that_come_again_are_the_same_and_others_are_not_taken_for_them(form: str) -> None:
    kept = Kept()
    log = AccessLog(form, kept)
    asked: list[dict[str, Any]] = [
        {"client": f"c{n % 3}", "status": 200 + n % 2, "model": f"m{n % 5}"} for n in range(60)
    ]
    for one in asked:
        record(log, **one)
    await finish(log)
    assert kept.lines == [await line_of(form, **one) for one in asked]


async def test_many_different_clients_do_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access_log, "_MOST_PARTS", 8)
    kept = Kept()
    log = AccessLog("text", kept)
    for number in range(100):
        record(log, client=f"192.0.2.{number}")
    await finish(log)
    assert len(log._parts) <= 8
    assert [line.split()[1] for line in kept.lines] == [f"192.0.2.{number}" for number in range(100)]


# When it is written


async def test_a_line_is_written_a_quarter_of_a_second_later(autojump_clock: trio.testing.MockClock) -> None:
    kept = Kept()
    log = AccessLog("text", kept)
    async with trio.open_nursery() as nursery:
        await nursery.start(log.run)
        for _ in range(3):
            await trio.sleep(100)
            kept.came = trio.Event()
            asked_at = trio.current_time()
            record(log)
            record(log)
            await kept.came.wait()
            assert trio.current_time() - asked_at == pytest.approx(0.25)
        nursery.cancel_scope.cancel()
    assert len(kept.lines) == 6


async def test_many_lines_are_written_at_once(autojump_clock: trio.testing.MockClock) -> None:
    kept = Kept()
    log = AccessLog("text", kept)
    async with trio.open_nursery() as nursery:
        await nursery.start(log.run)
        began = trio.current_time()
        for _ in range((1 << 20) // 100):
            record(log)
        await kept.came.wait()
        assert trio.current_time() == began
        nursery.cancel_scope.cancel()


async def test_the_end_writes_what_is_left() -> None:
    kept = Kept()
    log = AccessLog("text", kept)
    async with trio.open_nursery() as nursery:
        await nursery.start(log.run)
        record(log)
        nursery.cancel_scope.cancel()
    assert len(kept.lines) == 1


class Hanging(Kept):
    """A disk that takes nothing until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.begun = trio.Event()
        self.go = threading.Event()

    def write(self, lines: list[str]) -> Lost | None:
        self.tell(self.begun.set)
        self.go.wait()
        return super().write(lines)


async def test_while_the_disk_hangs_8_mib_are_kept_and_the_rest_is_dropped_and_counted() -> None:
    hanging = Hanging()
    log = AccessLog("text", hanging)
    size = len(await line_of("text"))
    total = (8 << 20) // size + 1000
    async with trio.open_nursery() as nursery:
        await nursery.start(log.run)
        record(log)
        await hanging.begun.wait()
        for _ in range(total - 1):
            record(log)
        assert log.dropped == total - (8 << 20) // size
        hanging.go.set()
        await hanging.came.wait()
        nursery.cancel_scope.cancel()
    assert len(hanging.lines) + log.dropped == total
    before = log.dropped
    record(log)
    assert log.dropped == before  # there is room again


async def test_a_disk_that_hangs_holds_the_end_up_for_two_seconds(autojump_clock: trio.testing.MockClock) -> None:
    hanging = Hanging()
    log = AccessLog("text", hanging)
    async with trio.open_nursery() as nursery:
        await nursery.start(log.run)
        record(log)
        await hanging.begun.wait()
        record(log)
        ending_at = trio.current_time()
        nursery.cancel_scope.cancel()
    assert trio.current_time() - ending_at == pytest.approx(2.0)
    hanging.go.set()


class Anywhere(Kept):
    """Also without a thread of its own."""

    def write(self, lines: list[str]) -> Lost | None:
        self.lines += lines
        return None


async def test_where_no_thread_can_be_started_lines_are_written_later(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, start = Anywhere(), threading.Thread.start
    log = AccessLog("text", kept)
    refused: list[object] = []

    def no_thread(thread: object) -> None:
        refused.append(thread)
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", no_thread)
    async with trio.open_nursery() as nursery:
        await nursery.start(log.run)
        record(log)
        await trio.sleep(5)
        record(log)
        assert len(refused) > 1
        assert kept.lines == []
        monkeypatch.setattr(threading.Thread, "start", start)
        while not kept.lines or log._one_at_a_time.borrowed_tokens:  # the thread has ended
            await trio.sleep(1)
        assert len(kept.lines) == 2
        monkeypatch.setattr(threading.Thread, "start", no_thread)
        record(log)
        nursery.cancel_scope.cancel()
    assert len(kept.lines) == 3, "the last are written without one"
    assert log.dropped == 0


class Failing(Kept):
    def __init__(self) -> None:
        super().__init__()
        self.why = ""

    def write(self, lines: list[str]) -> Lost | None:
        return Lost(len(lines), self.why) if self.why else super().write(lines)


async def test_what_cannot_be_written_is_counted_and_told_once_and_so_is_the_recovery(
    caplog: pytest.LogCaptureFixture,
) -> None:
    failing = Failing()
    log = AccessLog("text", failing)
    caplog.set_level(logging.INFO)
    for why in ("", "no space left", "no space left", "", ""):
        failing.why = why
        record(log)
        await finish(log)
    assert log.dropped == 2
    assert len(failing.lines) == 3
    warning, recovery = caplog.records
    assert warning.levelname == "WARNING"
    assert "no space left" in warning.getMessage()
    assert "2 lines were dropped" in recovery.getMessage()


# How it is opened


def test_off_is_nothing() -> None:
    assert open_access_log("off", None) is None


def test_a_folder_that_cannot_be_written_is_told_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    where = tmp_path / "file" / "logs"
    with pytest.raises(CannotWriteLog, match=r"access log cannot be written in .*/file/logs: .*access_log_dir"):
        open_access_log("text", where)


async def test_a_folder_gets_the_lines(tmp_path: Path) -> None:
    log = open_access_log("json", tmp_path / "logs")
    assert log is not None
    record(log, at=time.time())
    await finish(log)
    (file,) = (tmp_path / "logs").iterdir()
    assert json.loads(file.read_text())["request_id"] == "abc-1"


async def test_without_a_folder_stdout_does(capfd: pytest.CaptureFixture[str]) -> None:
    log = open_access_log("text", None)
    assert log is not None
    record(log)
    await finish(log)
    assert "id=abc-1\n" in capfd.readouterr().out


@FORMS
async def test_the_usual_line_is_written_as_any_other(form: str) -> None:
    usual, other = [await line_of(form, wait=0.0, ttft=None, replays=0, request_id=id) for id in ("abc1", "abc-1")]
    assert usual == other.replace("abc-1", "abc1")
