"""What muxd does over the servers of any real engine: the module of an engine imports the tests, and has the fixtures.

Its `muxd` runs tiny-a and tiny-b; its `crowd` is a number of clients, and how many requests they make together.
"""

import json
import os
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from tests.end_to_end.muxd import Muxd, assert_never_two_awake, eventually
from tests.end_to_end.test_adoption import Streams, pids

A, B = "tests/tiny-a", "tests/tiny-b"

#: A cold start takes 18 to 40 s of two shared cores; a request may wait for two of them and a switch.
DEADLINE = 240.0


def inline_table(values: dict[str, str]) -> str:
    return "{ " + ", ".join(f'{key} = "{value}"' for key, value in values.items()) + " }"


def test_both_answer_in_turn_after_wakes_at_levels_2_and_1_with_their_own_unchanged_text(muxd, texts):
    for stream in (False, True, False):
        for model in (A, B):
            assert muxd.ask(model, stream=stream, max_tokens=24) == texts[model]
    assert_never_two_awake(muxd.moves())
    woken = [model for model, before, after in muxd.moves() if (before, after) == ("waking", "ready")]
    assert {"tiny-a", "tiny-b"} <= set(woken)


def test_all_requests_of_a_crowd_succeed(muxd, texts, crowd):
    clients, requests = crowd

    def one(number: int) -> bool:
        model = (A, B)[number % 2]
        return muxd.ask(model, stream=number % 3 == 0, max_tokens=24) == texts[model]

    with ThreadPoolExecutor(clients) as pool:
        assert list(pool.map(one, range(requests))) == [True] * requests
    assert_never_two_awake(muxd.moves())


def test_a_stream_whose_client_leaves_does_not_hold_up_a_switch(muxd, texts):
    muxd.ask(A)
    with muxd.stream(A, max_tokens=1500, ignore_eos=True) as lines:
        next(lines)
    assert muxd.ask(B, max_tokens=24) == texts[B]


def test_streams_and_a_sleeper_outlive_muxd(muxd, texts):
    """It is killed while one server streams and another one sleeps; the next one goes on with both."""
    for model in (B, A):
        assert muxd.ask(model, max_tokens=24) == texts[model]
    eventually(lambda: muxd.state("tiny-b") == "asleep", "the other one sleeps")
    before = pids(muxd)
    streams = Streams(muxd, A, 4, 600)
    muxd.kill()
    muxd.start_again()
    assert pids(muxd) == before
    assert streams.join() == ["data: [DONE]"] * 4
    for model in (B, A, B):
        assert muxd.ask(model, max_tokens=24) == texts[model]
    assert pids(muxd) == before, "no server was started again"


def test_a_validation_finds_every_level_of_the_running_process_well(muxd, texts):
    validated = muxd.muxctl("validate", "tiny-a", "--levels", "0,2", "--cycles", "2", "--json")
    assert validated.returncode == 0, validated.stdout + validated.stderr
    cycles = [line for line in map(json.loads, validated.stdout.splitlines()) if line["type"] == "cycle"]
    assert [(c["level"], c["cycle"], c["identical"]) for c in cycles] == [
        (level, number, True) for level in (0, 2) for number in (1, 2)
    ]
    assert all(c["sleep_s"] and c["wake_s"] and c["first_token_s"] and c["host_mib"]["asleep"] for c in cycles)
    assert muxd.ask(A, max_tokens=24) == texts[A]


def is_back_after_a_sigkill(
    muxd: Muxd, texts: dict[str, str], role: str, roles: set[str], processes: Callable[[], dict[str, int]]
) -> None:
    """Kill one of tiny-a's processes: the next request is answered, and none of the others is left."""
    muxd.ask(A)
    before, restarts = processes(), muxd.status("tiny-a")["restarts"]
    assert set(before) >= roles
    os.kill(before[role], signal.SIGKILL)
    assert muxd.ask(A, max_tokens=24) == texts[A]
    assert muxd.status("tiny-a")["restarts"] == restarts + 1
    assert not set(before.values()) & set(muxd.processes())
