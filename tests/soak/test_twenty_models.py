"""Twenty simulated models and two thousand requests: nothing fails that no client and no fault has caused."""

import os
import random
import re
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from muxd.core import policy
from tests.end_to_end.muxd import Muxd, assert_never_two_awake

from .clients import Crowd, Outcome, problems, spread, table
from .follower import LEAVING, Follower

MODELS = [f"m{number:02}" for number in range(20)]
LEVELS = {model: 3 if number % 10 == 9 else 1 + number % 2 for number, model in enumerate(MODELS)}
REQUESTS = 2000
CLIENTS = 64
WAIT_TARGET = 5.0
SWITCH_TIMEOUT = 120.0
SLOWLY = 40.0  # tokens per second, for a kill to hit answers that are being made: most take 0.6 s
SERVING = 2.0  # seconds that an answer in one piece and its client take by themselves, on two busy cores
GRACE = 0.5  # seconds in which a request may still be sent to a worker that is known to be lost

POLICY = f"""\
[policy]
wait_target = "{WAIT_TARGET}s"
[defaults]
engine = "simulator"
switch_timeout = "{SWITCH_TIMEOUT}s"
gpu_release_timeout = "10s"
start_timeout = "60s"
stop_timeout = "5s"
call_timeout = "20s"
probe_interval = "5s"
probe_timeout = "20s"
restart_limit = 99
stable_after = "1s"
"""

MODEL = """\
[models.{name}]
sleep_level = {level}
gpus = [{gpu}]
memory = {{ weights = "40GiB", kv = "16GiB", overhead = "512MiB" }}
[models.{name}.simulation]
load_time = 0.1
sleep_time = 0.01
wake_time = 0.02
release_lag = 0.02
token_rate = {rate}
batch_slots = 32
pace = 0.01
"""


def configured(gpus: int, rate: float) -> str:
    tables = (MODEL.format(name=model, level=LEVELS[model], gpu=gpu_of(model, gpus), rate=rate) for model in MODELS)
    return POLICY + "".join(tables)


def gpu_of(model: str, gpus: int) -> int:
    return MODELS.index(model) % gpus


@dataclass
class Run:
    """What happened, when it is over."""

    muxd: Muxd
    follower: Follower
    outcomes: list[Outcome] = field(default_factory=list)

    @property
    def crashed(self) -> set[str]:
        """The models that were started more often than their sleep level needs, or that muxd gave up for a while."""
        moves = self.follower.moves()
        starts = Counter(model for model, _, after in moves if after == "starting")
        again = {model for model, count in starts.items() if LEVELS[model] < 3 and count > 1}
        return again | {model for model, _, after in moves if after in ("backoff", "failed", "unresponsive", "stuck")}


@contextmanager
def running(folder: Path, gpus: int, rate: float = 500) -> Iterator[tuple[Run, Crowd]]:
    """A muxd whose models have all said what they say, and said it again after a sleep: until then muxd guesses
    how long they wake.  In the end it leaves nothing behind.
    """
    with Muxd(folder, configured(gpus, rate), deadline=120) as muxd, Follower(muxd.socket) as follower:
        with Crowd(muxd.url, CLIENTS) as crowd:
            crowd.learn(MODELS)
            for (model, topic), text in crowd.texts.items():
                assert topic == "call" or text.startswith(f"{model}:"), f"{model} said {text!r}"
            crowd.learn(MODELS)
            yield Run(muxd, follower), crowd
        muxd.stop()
        assert not list((muxd.folder / "state" / "workers").iterdir())


def check_turns(moves: list[tuple[str, str, str]], gpus: int) -> None:
    for gpu in range(gpus):
        assert_never_two_awake([move for move in moves if gpu_of(move[0], gpus) == gpu])


def stated_bounds(follower: Follower, gpus: int) -> dict[str, float]:
    """The maximum wait that the README states, by muxd's own formula and the longest that each switch ever took."""
    bounds = {}
    for gpu in range(gpus):
        models = [model for model in MODELS if gpu_of(model, gpus) == gpu]
        leaving = max(follower.longest(model, *LEAVING) for model in models)
        candidates = [_candidate(follower, model, leaving) for model in models]
        for one in candidates:
            others = [other for other in candidates if other is not one]
            bounds[one.name] = policy.bound(one, policy.turns(others), WAIT_TARGET)
    return bounds


def _candidate(follower: Follower, model: str, leaving: float) -> policy.Candidate:
    cost = leaving + follower.longest(model, "starting" if LEVELS[model] == 3 else "waking")
    turn = max(cost, follower.longest(model, "draining"))
    return policy.Candidate(model, weight=1, since=0, cost=cost, turn=turn)


def proportional_memory(pids: Iterator[int] | list[int]) -> int:
    """Bytes that these processes take, what they share counted once."""
    total = 0
    for pid in pids:
        with suppress(OSError):
            rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
            total += int(re.search(r"^Pss: +(\d+) kB$", rollup, re.M)[1]) << 10
    return total


@pytest.mark.parametrize("gpus", [1, 2])
def test_every_request_is_answered_whole_by_the_model_it_names_within_the_stated_wait(gpus, tmp_path, capsys):
    with running(tmp_path, gpus) as (run, crowd):
        began = time.time()
        run.outcomes = crowd.ask(MODELS, REQUESTS, favourite=0.5)
        taken = proportional_memory(list(run.muxd.left_behind()))
    moves, bounds = run.follower.moves(), stated_bounds(run.follower, gpus)
    switches = sum(after == "ready" and before in ("waking", "starting") for _, before, after in moves)
    with capsys.disabled():
        print(f"\n{table(run.outcomes, f'{len(MODELS)} simulated models, {gpus} pretend GPU(s), {CLIENTS} clients')}")
        print(f"{spread(run.outcomes)}; bounds {min(bounds.values()):.1f} to {max(bounds.values()):.1f} s")
        print(f"{time.time() - began:.0f} s, {switches} switches, {taken / (1 << 30):.1f} GiB of memory")
    assert len(run.outcomes) == REQUESTS
    assert not problems(run.outcomes), "\n".join(problems(run.outcomes))
    assert run.crashed == set()
    check_turns(moves, gpus)
    assert run.follower.most_awake() == gpus
    assert max(one.wait for one in run.outcomes) < SWITCH_TIMEOUT
    late = [one for one in run.outcomes if one.wait > bounds[one.model] + SERVING]
    assert not late, "\n".join(f"{one.kind} of {one.model} waited {one.wait:.1f} s" for one in late)


# Faults


@dataclass(frozen=True)
class Kill:
    """`model` None: the proxy."""

    when: float
    model: str | None
    role: str


class Killer:
    """Ends random processes of random workers with SIGKILL, and a few times the proxy."""

    def __init__(self, muxd: Muxd, every: int, seed: int = 2) -> None:
        self.kills: list[Kill] = []
        self._muxd = muxd
        self._every = every
        self._draw = random.Random(seed)

    def __call__(self, ended: int) -> None:
        if ended % self._every == 0:
            self._kill_proxy() if ended % (15 * self._every) == 0 else self._kill_worker()

    def _kill_proxy(self) -> None:
        self._kill(None, "proxy", self._muxd.status()["proxy"]["pid"])

    def _kill_worker(self) -> None:
        """Two of three times of one that is answering, else of one that is asleep or on its way."""
        alive = [one for one in self._muxd.status()["models"] if one["pid"]]
        busy = [one for one in alive if one["in_flight"]]
        model = self._draw.choice(busy if busy and len(self.kills) % 3 else alive)["name"]
        with suppress(OSError):
            role, pid = self._draw.choice(sorted(self._muxd.worker(model).items()))
            self._kill(model, role, pid)

    def _kill(self, model: str | None, role: str, pid: int | None) -> None:
        if pid is not None:
            now = time.time()
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                self.kills.append(Kill(now, model, role))


#: What a client may see of a worker that was lost under its request: an error, or a stream that is cut.
WORKER_LOST = re.compile(r"worker_(died|exited|unresponsive)|curl ended with 18|peer closed")

#: And of the second one that was lost under it.
GIVEN_UP = "was with its worker at 2 deaths"

#: And of the proxy: its connection is gone.
PROXY_LOST = re.compile(r"APIConnectionError|curl ended with (18|52|56)|peer closed|RemoteProtocolError|ReadError")


def cause(outcome: Outcome, kills: list[Kill], follower: Follower) -> str | None:
    """What of all that was killed while it was there explains its failure: the proxy, or its worker.

    One worker is not enough: the next one answers, unless the client has something of the answer already.
    """
    met = [kill.model for kill in kills if kill.model in (None, outcome.model) and was_there(outcome, kill, follower)]
    problem = outcome.problem or ""
    if None in met and PROXY_LOST.search(problem):
        return "proxy"
    if not WORKER_LOST.search(problem):
        return None
    deaths = met.count(outcome.model)
    if GIVEN_UP in problem:
        return "two workers" if deaths > 1 else None
    return "worker, in the midst of a stream" if deaths and has_begun(outcome) else None


def was_there(outcome: Outcome, kill: Kill, follower: Follower) -> bool:
    noticed = kill.when if kill.model is None else follower.next_move(kill.model, kill.when)
    return outcome.began <= noticed + GRACE and outcome.ended >= kill.when


def has_begun(outcome: Outcome) -> bool:
    """A stream of which the client has seen something; of what was asked for with curl it is not known."""
    if outcome.kind in ("curl, streamed", "curl is killed"):
        return True
    return outcome.kind.endswith("streamed") and outcome.first < outcome.ended


def replayed(muxd: Muxd) -> int:
    """How many requests were answered whole, but not by the worker they were first sent to, by the access log."""
    files = (muxd.folder / "logs").glob("muxd-proxy.stdout.log*")
    return sum(len(re.findall(r" 200 ok .* replays=[1-9]", file.read_text())) for file in files)


def test_what_is_killed_fails_only_streams_that_had_begun_and_what_was_with_two_that_died(tmp_path, capsys):
    with running(tmp_path, 1, rate=SLOWLY) as (run, crowd):
        killer = Killer(run.muxd, every=20)
        run.outcomes = crowd.ask(MODELS, 1000, favourite=0.5, after_each=killer)
    failed = [one for one in run.outcomes if one.problem is not None]
    saved = replayed(run.muxd)
    causes = Counter(cause(one, killer.kills, run.follower) for one in failed)
    counts = Counter(kill.role for kill in killer.kills)
    with capsys.disabled():
        kinds = ", ".join(f"{count} {role}" for role, count in sorted(counts.items()))
        print(f"\n{table(run.outcomes, f'{len(MODELS)} simulated models; killed: {kinds}')}")
        print(f"{spread(run.outcomes)}; {len(run.crashed)} models crashed")
        print(f"{saved} answered by a second worker; failures by cause: {dict(causes)}")
    assert problems([one for one in failed if cause(one, killer.kills, run.follower) is None]) == []
    assert saved > 0, "a kill hit a request"
    assert len(counts) == 4, "each kind of process was killed"
    assert len(run.crashed) > 10, "muxd has seen it"
    assert len(killer.kills) > 40
    check_turns(run.follower.moves(), 1)
