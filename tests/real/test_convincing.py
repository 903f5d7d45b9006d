"""Two hundred requests of sixteen clients to two real models: nothing fails that no client has caused.

Prints what was asked and how long it took: run it with -s.
"""

import time
from pathlib import Path

import pytest

from tests.end_to_end.muxd import Muxd, assert_never_two_awake
from tests.soak.clients import Crowd, problems, spread, table
from tests.soak.follower import Follower

from .sglang_cpu import CPU_ARGS, shared_memory_of
from .test_muxd import A, B, config
from .test_simulator_truth import TOOLS

pytestmark = pytest.mark.long

#: In bfloat16 the likeliest of a random model's tokens are so near each other that what else is in the batch
#: decides: without any muxd, 25 of 200 such requests to tiny-b were answered otherwise than a lone one.
EXACT = ("--dtype", "float32")

REQUESTS, CLIENTS = 200, 16
DEADLINE = 240.0


def with_tools(home: Path) -> str:
    """tiny-a at level 2, tiny-b at level 1, both able to call tools."""
    return config(home, (2, 1), 'restart_limit = 1\n[policy]\nwait_target = "2s"').replace(
        str(list(CPU_ARGS)), str([*CPU_ARGS, *TOOLS, *EXACT])
    )


def test_two_hundred_requests_of_every_kind_are_answered_whole_by_the_model_they_name(sglang_home, tmp_path, capsys):
    with Muxd(tmp_path, with_tools(sglang_home), deadline=DEADLINE) as muxd, Follower(muxd.socket) as follower:
        with Crowd(muxd.url, CLIENTS) as crowd:
            crowd.learn([A, B])
            for topic in ("chat", "completion"):
                assert crowd.texts[A, topic] != crowd.texts[B, topic], "who answers can be told from the text"
            began = time.time()
            outcomes = crowd.ask([A, B], REQUESTS)
            took = time.time() - began
            leftovers = {path for model in ("tiny-a", "tiny-b") for path in shared_memory_of(muxd.status(model)["pid"])}
            restarts = [muxd.status(model)["restarts"] for model in ("tiny-a", "tiny-b")]
        muxd.stop()
        assert not list((muxd.folder / "state" / "workers").iterdir())
    switches = sum(move[1:] == ("waking", "ready") for move in follower.moves())
    with capsys.disabled():
        print(f"\n{table(outcomes, f'two real models on a CPU, {CLIENTS} clients')}")
        print(f"{spread(outcomes)}; {switches} switches; {took:.0f} s")
    assert len(outcomes) == REQUESTS
    assert not problems(outcomes), "\n".join(problems(outcomes))
    assert restarts == [0, 0]
    assert_never_two_awake(follower.moves())
    assert leftovers
    assert not [path for path in leftovers if path.exists()]
