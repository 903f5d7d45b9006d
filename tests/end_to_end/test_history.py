"""What a real muxd remembers: rates that add up over sleeps, whose requests they were; and it outlasts a restart."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from datetime import UTC, datetime

import httpx
import pytest

from .conftest import two_models
from .muxd import Muxd, eventually

#: Tokens of an answer: enough for 2 % of some of them to be one.
LONG = 100

#: Models that send one token in an event, as an engine does that does not guess ahead.
MODELS = two_models().replace("token_rate = 500, pace = 0.02", "token_rate = 100, pace = 0.01")


def told(muxd: Muxd, path: str) -> dict:
    return muxd.control("GET", path).json()


def answered(muxd: Muxd, model: str, *, with_usage: bool) -> int:
    """Have a stream, and return its tokens: by its usage, or as many as it had events with text."""
    more = {"stream_options": {"include_usage": True}} if with_usage else {}
    with muxd.stream(model, max_tokens=LONG, ignore_eos=True, **more) as lines:
        events = [line for line in lines if line.startswith("data: ")]
    assert events[-1] == "data: [DONE]"
    return LONG if with_usage else len(events) - 3


def total(muxd: Muxd, model: str) -> float:
    return sum(rate or 0 for rate in told(muxd, "/v1/series")["models"][model]["tokens_per_s"])


@pytest.mark.thorough
def test_tokens_add_up_over_switches_with_and_without_usage_and_outlast_muxd(start):
    muxd = start(MODELS)
    given = {"alpha": 0, "beta": 0}
    for _ in range(2):
        for model in given:
            given[model] += answered(muxd, model, with_usage=True) + answered(muxd, model, with_usage=False)
    for model, count in given.items():
        eventually(lambda m=model, n=count: abs(total(muxd, m) - n) <= 0.02 * n, f"{count} tokens of {model}")
    ended = "/v1/requests?state=ended"
    eventually(lambda: len(told(muxd, ended)["requests"]) == 8, "the proxy's report of all eight requests")
    usage = {row["model"]: row for row in told(muxd, "/v1/usage")["usage"]}
    assert (usage["alpha"]["requests"], usage["alpha"]["completion_tokens"]) == (4, 2 * LONG)
    of_events = given["alpha"] - 2 * LONG
    assert abs(usage["alpha"]["event_tokens"] - of_events) <= 0.02 * of_events
    switches = told(muxd, "/v1/switches")["switches"]
    assert [(each["from"], each["to"], each["result"]) for each in switches[:3]] == [
        ([], "alpha", "ready"),
        (["alpha"], "beta", "ready"),
        (["beta"], "alpha", "ready"),
    ]
    requests = told(muxd, ended)["requests"]
    assert {each["request"] for each in switches[1]["asked_by"]} <= {request["id"] for request in requests}
    assert switches[1]["asked_by"]
    muxd.stop()
    for command in (["replay"], ["whatif", "--set", "wait_target=60s"]):
        words = [sys.executable, "-m", "muxd", *command, str(muxd.folder / "state/decisions.journal")]
        told_by = subprocess.run(words, capture_output=True, text=True)
        assert (told_by.returncode, told_by.stderr) == (0, "")
    muxd.start_again()
    assert told(muxd, "/v1/requests?state=ended")["requests"] == requests
    assert told(muxd, "/v1/switches")["switches"][: len(switches)] == switches
    assert {row["model"]: row for row in told(muxd, "/v1/usage")["usage"]} == usage
    assert "muxd_started" in muxd.muxctl("events").stdout.splitlines()[0]


def test_a_request_is_seen_while_it_runs_and_is_cancelled(start):
    muxd = start(MODELS)
    lines: list[str] = []

    def ask() -> None:
        with suppress(httpx.HTTPError), muxd.stream("alpha", max_tokens=5000, ignore_eos=True) as stream:
            lines.extend(stream)

    client = threading.Thread(target=ask)
    client.start()
    running = eventually(
        lambda: [r for r in told(muxd, "/v1/requests?state=running")["requests"] if r["completion_tokens"] > 3],
        "a request that runs",
    )
    shown = muxd.muxctl("requests", "--model", "alpha").stdout
    assert ["running", running[0]["id"]] in [line.split()[:2] for line in shown.splitlines()]
    assert muxd.muxctl("requests", "--cancel", running[0]["id"]).returncode == 0
    client.join(20)
    assert any("request_cancelled" in line for line in lines)
    assert told(muxd, "/v1/requests?state=running")["requests"] == []


def test_the_logs_of_all_are_one_stream(start):
    muxd = start()
    muxd.ask("alpha")
    lines = muxd.muxctl("logs", "-t", "-n", "9999").stdout.splitlines()
    times, whose = zip(*(line.split(" ")[:2] for line in lines), strict=True)
    assert {"muxd:", "proxy:", "alpha:"} <= set(whose)
    assert list(times) == sorted(times)
    assert whose.index("muxd:") < whose.index("alpha:"), "muxd says what it does before alpha says anything"
    with muxd._control.stream("GET", "/v1/logs?follow=1&lines=0") as lines:
        muxd.ask("beta")
        assert any('"beta stdout"' in line for line in lines.iter_lines())


@pytest.mark.thorough
def test_the_logs_of_a_time_outlive_a_killed_muxd_that_takes_its_models_over(start):
    muxd = start()
    muxd.ask("alpha")
    pid = muxd.status("alpha")["pid"]
    muxd.kill()
    muxd.start_again()
    assert muxd.status("alpha")["pid"] == pid
    moment = time.time()
    muxd.ask("alpha")
    since = datetime.fromtimestamp(moment, UTC).isoformat()
    of_now = ("logs", "alpha", "--since", since)
    eventually(lambda: "POST /v1/chat/completions" in muxd.muxctl(*of_now).stdout, "it is told")
    said = [json.loads(line) for line in muxd.muxctl(*of_now, "--json").stdout.splitlines()]
    assert all(moment <= line["time"] <= time.time() for line in said)
    before = muxd.muxctl("logs", "alpha", "--until", since).stdout
    assert "loading" in before
    assert "was taken over from an earlier muxd" in muxd.muxctl("logs", "muxd").stdout


@pytest.mark.thorough
def test_a_model_whose_output_is_joined_has_one_log_that_every_reader_finds(start):
    muxd = start(two_models().replace("[models.alpha]", "[models.alpha]\njoin_output = true", 1))
    muxd.ask("alpha")
    assert {path.name for path in (muxd.folder / "logs").glob("alpha.*")} == {"alpha.stdout.log"}
    lines = muxd.muxctl("logs", "alpha", "-n", "9999").stdout.splitlines()
    assert sum("fired up and ready to roll" in line for line in lines) == 1
    os.kill(muxd.status("alpha")["pid"], signal.SIGKILL)
    eventually(lambda: muxd.status("alpha")["last_exit"], "its end is known")
    assert any("chat/completions" in line for line in muxd.status("alpha")["last_exit"]["log_tail"])
