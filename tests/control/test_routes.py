"""Every route of the control API, over a real socket."""

import getpass
import json
import random
import shutil
from contextlib import suppress
from math import inf
from pathlib import Path

import pytest
import trio

from muxd.control.service import ControlService
from muxd.core.spec import LoanTerms
from muxd.history.journal import EntryFilter
from muxd.history.series import SeriesQuery
from muxd.http.response import request_head

from .conftest import Desk, split, until, until_closed
from .office import METRICS, FakeOffice


def test_the_fake_is_an_office(tmp_path: Path) -> None:
    office: ControlService = FakeOffice(tmp_path)
    assert office.resolve("Qwen/Qwen3-14B") == "qwen"


ODD = {"name": "odd", "last_exit": {"reason": "out of memory", "log_tail": ["api_key='secret'"]}}


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("/v1/version", {"version": "0", "pid": 1, "api": 1, "started": 0.0}),
        ("/v1/status", {"models": []}),
        ("/v1/models/qwen", {"name": "qwen"}),
        ("/v1/models/Qwen%2FQwen3-14B", {"name": "qwen"}),
        ("/v1/models/Qwen/Qwen3-14B", {"name": "qwen"}),
        ("/v1/models/odd%2Flogs", ODD),
        ("/v1/models/odd/logs", {"lines": []}),
        ("http://muxd/v1/models/odd%2flogs/logs", {"lines": []}),
    ],
)
async def test_reading(desk: Desk, target: str, expected: object) -> None:
    status, _, body = await desk.ask("GET", target)
    assert (status, json.loads(body)) == (200, expected)
    status, head, body = await desk.ask("HEAD", target)
    assert (status, body) == (200, b"")
    assert b"content-type: application/json" in head


async def test_metrics_are_plain_text(desk: Desk) -> None:
    status, head, body = await desk.ask("GET", "/metrics")
    assert (status, body.decode()) == (200, METRICS)
    assert b"content-type: text/plain; version=0.0.4; charset=utf-8" in head
    assert (await desk.ask("HEAD", "/metrics"))[::2] == (200, b"")
    assert (await desk.ask("POST", "/metrics"))[0] == 405


@pytest.mark.parametrize(
    ("target", "nearest"),
    [("/v1/stats", "/v1/status"), ("/", "/v1/logs"), ("/v2/events", "/v1/events"), ("/v1/models/", "/v1/models/NAME")],
)
async def test_an_unknown_route_names_the_nearest(desk: Desk, target: str, nearest: str) -> None:
    status, _, body = await desk.ask("GET", target)
    error = json.loads(body)["error"]
    assert (status, error["code"]) == (404, "route_not_found")
    assert nearest in error["details"]["nearest"]
    assert nearest in error["message"]


@pytest.mark.parametrize(
    ("method", "target", "allowed"),
    [
        ("POST", "/v1/status", b"GET, HEAD"),
        ("GET", "/v1/models/qwen/switch", b"POST"),
        ("DELETE", "/v1/session", b"GET, HEAD"),
        ("OPTIONS", "/v1/shutdown", b"POST"),
        ("PROPFIND", "/v1/version", b"GET, HEAD"),
    ],
)
async def test_a_wrong_method_names_the_right_ones(desk: Desk, method: str, target: str, allowed: bytes) -> None:
    status, head, body = await desk.ask(method, target)
    assert (status, json.loads(body)["error"]["code"]) == (405, "method_not_allowed")
    assert b"\r\nallow: " + allowed in head


@pytest.mark.parametrize(
    ("method", "target", "body", "field"),
    [
        ("POST", "/v1/models/qwen/switch", '{"wait": 1}', "$.wait"),
        ("POST", "/v1/models/qwen/switch", "[]", "object"),
        ("POST", "/v1/models/qwen/switch", "null", "object"),
        ("POST", "/v1/models/qwen/switch", "{", "not JSON"),
        ("POST", "/v1/models/qwen/validate", '{"levels": [4]}', "$.levels[0]"),
        ("POST", "/v1/models/qwen/validate", '{"levels": "1"}', "$.levels"),
        ("POST", "/v1/models/qwen/validate", '{"levels": [0, 1, 2, 3, 3]}', "$.levels"),
        ("POST", "/v1/models/qwen/validate", '{"cycles": 0}', "$.cycles"),
        ("POST", "/v1/models/qwen/validate", '{"cycles": 1001}', "$.cycles"),
        ("POST", "/v1/models/qwen/validate", '{"wait": false}', "wait"),
        ("GET", "/v1/models/qwen/logs?lines=-1", "", "lines"),
        ("GET", "/v1/models/qwen/logs?lines=10001", "", "lines"),
        ("GET", "/v1/models/qwen/logs?lines=%C2%B2", "", "lines"),
        ("GET", "/v1/models/qwen/logs?follow=maybe", "", "follow"),
        ("GET", "/v1/models/qwen/logs?stream=stdin", "", "stream"),
        ("GET", "/v1/events?after=x", "", "after"),
        ("GET", "/v1/requests?after=x&follow=1", "", "after"),
        ("GET", "/v1/requests?since=yesterday", "", "since"),
        ("GET", "/v1/requests?until=nan", "", "until"),
        ("GET", "/v1/requests?state=running,asleep", "", "asleep"),
        ("GET", "/v1/requests?modle=qwen", "", "did you mean model?"),
        ("GET", "/v1/events?type=stat", "", "type has no 'stat'; there are handover, loan"),
        ("GET", "/v1/events?folow=1", "", "did you mean follow?"),
        ("GET", "/v1/series?step=2", "", "step must be 1 or 10"),
        ("GET", "/v1/series?fields=tokens", "", "there are tokens_per_s, in_flight"),
        ("GET", "/v1/series?from=now", "", "from"),
        ("GET", "/v1/usage?days=401", "", "days"),
        ("GET", "/v1/usage?by=key", "", "there are days, key, model"),
        ("GET", "/v1/requests?column=age", "", "there are model, since"),
        ("POST", "/v1/requests/x/cancel", '{"now": true}', "now"),
        ("GET", "/v1/status?x=1", "", "x: there is no such field of the query; this route takes no query"),
        ("POST", "/v1/models/qwen/stop?now=1", "{}", "now: there is no such field"),
    ],
)
async def test_what_does_not_fit_is_named(desk: Desk, method: str, target: str, body: str, field: str) -> None:
    desk.office.asked.clear()
    status, _, answer = await desk.ask(method, target, body)
    error = json.loads(answer)["error"]
    assert (status, error["code"]) == (400, "bad_request")
    assert field in error["message"]
    assert desk.office.asked == []


async def test_an_unknown_model_is_not_found_before_anything_streams(desk: Desk) -> None:
    for method, target, body in (
        ("GET", "/v1/models/nope", ""),
        ("GET", "/v1/models/nope/logs?follow=1", ""),
        ("POST", "/v1/models/nope/switch", ""),
    ):
        status, head, answer = await desk.ask(method, target, body)
        assert (status, json.loads(answer)["error"]["code"]) == (404, "model_not_found")
        assert b"content-type: application/json" in head


@pytest.mark.parametrize(
    ("path", "body", "is_upgrade", "now"),
    [
        ("/v1/shutdown", '{"leave_workers":true}', False, False),
        ("/v1/shutdown", '{"leave_workers":true,"now":true}', False, True),
        ("/v1/upgrade", "", True, False),
        ("/v1/upgrade", '{"now":true}', True, True),
    ],
)
async def test_a_handover_is_answered_before_muxd_leaves(
    desk: Desk, path: str, body: str, is_upgrade: bool, now: bool
) -> None:
    status, _, answer = await desk.ask("POST", path, body)
    assert status == 202
    assert json.loads(answer)["upgrading" if is_upgrade else "stopping"] is True
    assert [asked for asked in desk.office.asked if asked != ("version",)] == [
        ("prepare_handover", is_upgrade, now),
        ("leave",),
    ]


async def test_shutdown(desk: Desk) -> None:
    status, _, body = await desk.ask("POST", "/v1/shutdown")
    assert (status, json.loads(body)) == (202, {"stopping": True})
    assert desk.office.asked == [("shutdown",)]


async def test_a_switch_that_is_not_waited_for_is_accepted(desk: Desk) -> None:
    status, _, body = await desk.ask("POST", "/v1/models/Qwen%2FQwen3-14B/switch", '{"wait": false}')
    assert (status, json.loads(body)) == (202, {"accepted": True, "model": "qwen"})
    assert desk.office.asked == [("switch", "qwen")]


async def test_a_switch_tells_its_progress_until_it_is_over(desk: Desk) -> None:
    stream = await desk.send("POST", "/v1/models/qwen/switch")
    await desk.office.opened.wait()
    (tell,) = desk.office.switches
    await tell.send({"type": "switching", "phase": "draining"})
    assert b"application/x-ndjson" in await until(stream, b'"draining"}\n')
    await tell.send({"type": "ready"})
    tell.close()
    assert (await until_closed(stream)).endswith(b'{"type":"ready"}\n\r\n0\r\n\r\n')


@pytest.mark.parametrize("verb", ["start", "stop", "restart", "sleep"])
async def test_an_order_tells_its_progress_until_it_is_done(desk: Desk, verb: str) -> None:
    stream = await desk.send("POST", f"/v1/models/Qwen%2FQwen3-14B/{verb}", '{"now": true}')
    await desk.office.opened.wait()
    assert desk.office.asked == [(verb, "qwen", True)]
    (tell,) = desk.office.switches
    await tell.send({"type": "working", "phase": "draining"})
    await until(stream, b'"draining"}\n')
    await tell.send({"type": "done", "state": "stopped"})
    tell.close()
    assert (await until_closed(stream)).endswith(b'{"type":"done","state":"stopped"}\n\r\n0\r\n\r\n')


async def test_a_model_is_held_for_a_time_and_let_go(desk: Desk) -> None:
    status, _, _ = await desk.ask("POST", "/v1/models/qwen/hold", '{"wait": false, "for_s": 60}')
    assert (status, desk.office.asked) == (202, [("hold", "qwen", 60.0)])
    for seconds in (0, -1, "1h"):
        status, _, _ = await desk.ask("POST", "/v1/models/qwen/hold", json.dumps({"for_s": seconds}))
        assert status == 400
    status, _, body = await desk.ask("POST", "/v1/models/Qwen%2FQwen3-14B/unhold", "{}")
    assert (status, json.loads(body)) == (200, {"model": "qwen", "held": False})
    assert desk.office.asked[1:] == [("unhold", "qwen")]


async def test_a_loan_ends_with_who_asked_for_it_unless_there_is_a_borrower(desk: Desk) -> None:
    stream = await desk.send("POST", "/v1/loans", '{"gpus": [0, "GPU-1"], "preemptible": true}')
    await desk.office.opened.wait()
    terms = LoanTerms(frozenset({"0", "GPU-1"}), is_preemptible=True)
    assert desk.office.asked == [("lend", terms)]
    (tell,) = desk.office.switches
    await tell.send({"type": "lent"})
    await until(stream, b'"lent"}\n')
    status, _, _ = await desk.ask("POST", "/v1/loans/4/borrower", '{"pid": 77}')
    assert (status, desk.office.asked[1:]) == (200, [("borrow", 4, 77, None)])
    await stream.aclose()
    await desk.office.closed.wait()
    assert desk.office.asked[2:] == [("leave_loan", 4)]


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "/v1/loans", {}, 400),
        ("POST", "/v1/loans", {"gpus": [-1]}, 400),
        ("POST", "/v1/loans", {"borrowed": False, "gpus": ["0"]}, 400),
        ("POST", "/v1/loans", {"borrowed": False, "preemptible": True}, 400),
        ("POST", "/v1/loans", {"gpus": ["0"], "for_s": 0}, 400),
        ("POST", "/v1/loans/4/borrower", {"pid": 1}, 400),
        ("POST", "/v1/loans/four/borrower", {"pid": 77}, 404),
        ("GET", "/v1/loans/5", None, 404),
    ],
)
async def test_what_is_no_loan_is_refused(
    desk: Desk, method: str, path: str, body: dict[str, object] | None, status: int
) -> None:
    found, _, _ = await desk.ask(method, path, json.dumps(body) if body is not None else "")
    assert (found, desk.office.asked) == (status, [])


async def test_gpus_that_were_given_up_are_taken_back(desk: Desk) -> None:
    status, _, body = await desk.ask("POST", "/v1/loans/end", "{}")
    assert (status, json.loads(body), desk.office.asked) == (200, {"ended": 1}, [("end_yields",)])


async def test_a_sleep_may_say_how_deep_and_no_other_order_may(desk: Desk) -> None:
    status, _, _ = await desk.ask("POST", "/v1/models/qwen/sleep", '{"wait": false, "level": 0}')
    assert (status, desk.office.asked) == (202, [("sleep", "qwen", False, 0)])
    for verb, level in (("stop", 0), ("sleep", 4), ("sleep", -1), ("sleep", "2"), ("sleep", 1.5)):
        status, _, body = await desk.ask("POST", f"/v1/models/qwen/{verb}", json.dumps({"level": level}))
        assert (status, json.loads(body)["error"]["code"]) == (400, "bad_request")
    assert len(desk.office.asked) == 1


async def test_a_scale_must_say_to_how_many(desk: Desk) -> None:
    status, _, _ = await desk.ask("POST", "/v1/models/qwen/scale", '{"wait": false, "replicas": 3}')
    assert (status, desk.office.asked) == (202, [("scale", "qwen", False, 3)])
    for body in ({}, {"replicas": -1}, {"replicas": "2"}, {"replicas": 1.5}, {"replicas": 2000}):
        status, _, answer = await desk.ask("POST", "/v1/models/qwen/scale", json.dumps(body))
        assert (status, json.loads(answer)["error"]["code"]) == (400, "bad_request")
    assert len(desk.office.asked) == 1


async def test_an_order_that_is_not_waited_for_is_accepted(desk: Desk) -> None:
    status, _, body = await desk.ask("POST", "/v1/models/qwen/stop", '{"wait": false}')
    assert (status, json.loads(body)) == (202, {"accepted": True, "model": "qwen"})
    assert desk.office.asked == [("stop", "qwen", False)]


async def test_a_validation_lives_as_long_as_who_ordered_it(desk: Desk) -> None:
    stream = await desk.send("POST", "/v1/models/Qwen/Qwen3-14B/validate", '{"levels": [0, 2], "cycles": 3}')
    await desk.office.opened.wait()
    assert desk.office.asked == [("validate", "qwen", (0, 2), 3)]
    (tell,) = desk.office.switches
    await tell.send({"type": "cycle", "level": 0})
    await until(stream, b'{"type":"cycle","level":0}\n')
    await stream.aclose()
    await desk.office.closed.wait()
    assert desk.office.asked[1:] == [("end_validation", "qwen", 5)]


async def test_a_validation_tells_what_it_finds_until_it_is_done(desk: Desk) -> None:
    stream = await desk.send("POST", "/v1/models/qwen/validate")
    await desk.office.opened.wait()
    assert desk.office.asked == [("validate", "qwen", (), 2)]
    (tell,) = desk.office.switches
    await tell.send({"type": "done", "state": "ready"})
    tell.close()
    assert (await until_closed(stream)).endswith(b'{"type":"done","state":"ready"}\n\r\n0\r\n\r\n')


async def test_a_reload_tells_its_plan_or_every_problem(desk: Desk) -> None:
    status, _, body = await desk.ask("POST", "/v1/reload", '{"dry_run": true}')
    assert (status, json.loads(body)["applied"]) == (200, False)
    assert desk.office.asked == [("reload", True)]
    desk.office.broken = ["muxd.toml:3: models.a.port: ...", "muxd.toml:9: models.b: ..."]
    status, _, body = await desk.ask("POST", "/v1/reload")
    error = json.loads(body)["error"]
    assert (status, error["code"]) == (400, "config_invalid")
    assert error["details"]["problems"] == desk.office.broken


async def test_status_is_answered_while_a_switch_goes_on(desk: Desk) -> None:
    stream = await desk.send("POST", "/v1/models/qwen/switch")
    await until(stream, b"\r\n\r\n")
    assert (await desk.ask("GET", "/v1/status"))[0] == 200


async def test_events_follow_from_where_the_reader_left(desk: Desk) -> None:
    stream = await desk.send("GET", "/v1/events?after=1")
    answer = await until(stream, b'{"id":3,"type":"started","model":"qwen"}\n')
    assert b'{"id":1,' not in answer
    desk.office.switches[0].close()
    assert (await until_closed(stream)).endswith(b"0\r\n\r\n")


async def test_events_that_are_not_followed_end(desk: Desk) -> None:
    answer = await until_closed(await desk.send("GET", "/v1/events?after=2&follow=0"))
    assert answer.endswith(b'{"id":3,"type":"started","model":"qwen"}\n\r\n0\r\n\r\n')


async def test_mutated_requests_never_change_anything_nor_show_a_traceback(desk: Desk) -> None:
    """Damaged requests get an error; what is asked of the office is only what an intact one would ask."""
    chance = random.Random(18)
    seeds = [
        request_head(method, target, body) + body
        for method, target, body in (
            ("POST", "/v1/models/qwen/switch", b'{"wait": false}'),
            ("GET", "/v1/models/qwen/logs?lines=5&stream=both", b""),
        )
    ]
    for _ in range(800):
        data = bytearray(chance.choice(seeds))
        for _ in range(chance.randint(1, 4)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        stream = await desk.connect()
        await stream.send_all(data[: chance.choice((len(data), chance.randrange(len(data))))])
        await stream.send_eof()
        answer = await until_closed(stream)
        await stream.aclose()
        assert not answer or split(answer)[0] in (200, 202, 400, 403, 404, 405)
        assert b"Traceback" not in answer
    assert (await desk.ask("GET", "/v1/status"))[0] == 200
    assert ("shutdown",) not in desk.office.asked


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")
@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["/v1/version"], b'"api":1'),
        (["/v1/status"], b'{"models":[]}'),
        (["/v1/models/qwen"], b'{"name":"qwen"}'),
        (["-X", "POST", "/v1/models/qwen/switch"], b'{"type":"ready"}\n'),
        (["-d", '{"wait": false}', "/v1/models/qwen/switch"], b'"accepted":true'),
        (["/v1/models/qwen/logs"], b'{"lines":[]}'),
        (["-N", "-m", "0.5", "/v1/models/qwen/logs?follow=1"], b""),
        (["-N", "-m", "0.5", "/v1/events"], b'"id":1'),
        (["/v1/session"], b"Connection: upgrade"),
        (["-X", "POST", "/v1/shutdown"], b'{"stopping":true}'),
        (["-0", "/v1/status"], b'{"models":[]}'),
        (["-I", "/v1/status"], b"content-length: 14"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
async def test_curl_works(desk: Desk, arguments: list[str], expected: bytes) -> None:
    async def finish_switch() -> None:
        await desk.office.opened.wait()
        for tell in desk.office.switches:
            with suppress(trio.BrokenResourceError):  # it was not waited for
                await tell.send({"type": "ready"})
            tell.close()

    *options, target = arguments
    command = ["curl", "-sS", "--unix-socket", str(desk.path), *options, f"http://muxd{target}"]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(finish_switch)
        done = await trio.run_process(command, capture_stdout=True, check=False)
        nursery.cancel_scope.cancel()
    assert expected in done.stdout
    assert done.returncode in ((0, 28) if "-m" in options else (0,))


async def test_requests_are_asked_for_with_what_the_query_says(desk: Desk) -> None:
    status, _, body = await desk.ask("GET", "/v1/requests?model=Qwen/Qwen3-14B&key=alice&state=running,waiting&since=5")
    assert (status, json.loads(body)) == (200, {"requests": [], "left_out": 0})
    wanted = EntryFilter("qwen", frozenset({"request"}), "alice", 5.0, last=100)
    assert desk.office.asked == [("requests", ["running", "waiting"], wanted)]
    _, _, body = await desk.ask("GET", "/v1/requests?follow=1&after=3")
    assert b'{"id":1,"type":"request"}' in body
    assert desk.office.asked[-1] == ("ended_requests", 3, EntryFilter())


async def test_events_are_asked_for_by_model_type_and_time(desk: Desk) -> None:
    await desk.ask("GET", "/v1/events?after=0&follow=0&model=Qwen/Qwen3-14B&type=switch,state&since=5&lines=2")
    wanted = EntryFilter("qwen", frozenset({"switch", "state"}), since=5.0, last=2)
    assert desk.office.asked == [("events", 0, wanted)]


async def test_switches_are_asked_for_by_model_and_time(desk: Desk) -> None:
    assert json.loads((await desk.ask("GET", "/v1/switches"))[2]) == {"switches": []}
    await desk.ask("GET", "/v1/switches?model=qwen&began_before=5.5&lines=1")
    assert desk.office.asked == [("switches", EntryFilter(), inf), ("switches", EntryFilter("qwen", last=1), 5.5)]


async def test_series_and_usage_are_asked_for_with_what_the_query_says(desk: Desk) -> None:
    await desk.ask("GET", "/v1/series")
    await desk.ask("GET", "/v1/series?step=10&from=5&to=9.5&fields=waiting,tokens_per_s&model=Qwen/Qwen3-14B")
    await desk.ask("GET", "/v1/usage")
    await desk.ask("GET", "/v1/usage?days=30&key=alice&model=qwen")
    assert desk.office.asked == [
        SeriesQuery(),
        SeriesQuery(10, 5.0, 9.5, ("tokens_per_s", "waiting"), "qwen"),
        ("usage", 7, None, None),
        ("usage", 30, "alice", "qwen"),
    ]


async def test_a_request_is_cancelled_in_the_name_of_who_asks(desk: Desk) -> None:
    status, _, body = await desk.ask("POST", "/v1/requests/odd%2Fone/cancel")
    assert (status, json.loads(body)) == (200, {"cancelled": 1, "id": "odd/one"})
    assert desk.office.asked == [("cancel", "odd/one", getpass.getuser())]
