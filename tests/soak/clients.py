"""Many clients at once, in threads: what each asked, what came of it, and a table of it all.

Nothing is tried twice.  What may be asked is in `kinds`.
"""

import random
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count as count_up
from statistics import median

import openai
import pytest

from .kinds import KINDS, PATIENCE, Client, Left, Said


@dataclass(frozen=True, slots=True)
class Outcome:
    """One request; times are time.time(), to be laid beside muxd's journal."""

    kind: str
    model: str
    began: float
    first: float  # when the first part of the answer was there
    ended: float
    said: Said | None = None
    problem: str | None = None
    left: bool = False

    @property
    def wait(self) -> float:
        return self.first - self.began


#: How often each kind is asked, of a hundred.
MIX = {
    "chat": 14,
    "chat, streamed": 14,
    "completion": 6,
    "completion, streamed": 6,
    "logprobs": 4,
    "logprobs, streamed": 4,
    "completion's logprobs": 3,
    "two at once": 3,
    "two at once, streamed": 3,
    "stop string": 3,
    "seeded": 3,
    "demanded call": 4,
    "demanded call, streamed": 4,
    "offered tool": 3,
    "unknown model": 2,
    "curl": 6,
    "curl, streamed": 5,
    "curl, Anthropic's messages": 3,
    "leaves a stream": 4,
    "gives up waiting": 3,
    "curl is killed": 3,
}
assert sum(MIX.values()) == 100
assert MIX.keys() == KINDS.keys()


class Crowd:
    """So many clients at once, on one front; `texts` is what each model was seen to say."""

    def __init__(self, url: str, clients: int, seed: int = 1) -> None:
        self.url = url
        self.texts: dict[tuple[str, str], str] = {}
        self._clients = clients
        self._draw = random.Random(seed)
        self._api = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=PATIENCE)
        self._lock = threading.Lock()

    def __enter__(self) -> "Crowd":
        assert shutil.which("curl"), "these tests need curl"
        return self

    def __exit__(self, *exc: object) -> None:
        self._api.close()

    def learn(self, models: Iterable[str], topics: Iterable[str] = ("chat", "completion", "stop string")) -> None:
        """Have each model say its texts while nobody else asks it: what all later ones must equal."""
        wishes = [(topic, model) for model in models for topic in (*topics, "demanded call")]
        with ThreadPoolExecutor(self._clients) as threads:
            for outcome in threads.map(lambda wish: self._one(*wish), wishes):
                assert outcome.problem is None, outcome
                assert outcome.said is not None
                self.texts[outcome.model, outcome.said.topic] = outcome.said.text

    def ask(
        self,
        models: list[str],
        count: int,
        *,
        favourite: float = 0.0,
        after_each: Callable[[int], None] = lambda ended: None,
    ) -> list[Outcome]:
        """So many requests of all kinds; `favourite` is how much the first models are asked more than the last.

        `after_each` is called, by one client at a time, with how many have ended.
        """
        weights = [1 / (1 + number) ** favourite for number in range(len(models))]
        kinds = [name for name, share in MIX.items() for _ in range(-(-count * share // 100))][:count]
        self._draw.shuffle(kinds)
        wishes = [(name, self._draw.choices(models, weights)[0]) for name in kinds]
        ended = count_up(1)
        turn = threading.Lock()

        def one(wish: tuple[str, str]) -> Outcome:
            outcome = self._one(*wish)
            with turn:
                after_each(next(ended))
            return outcome

        with ThreadPoolExecutor(self._clients) as threads:
            return list(threads.map(one, wishes))

    def ask_for(self, models: Sequence[str], seconds: float) -> list[Outcome]:
        """Requests of all kinds for so long: each client asks again when it was answered."""
        kinds, end = list(MIX), time.monotonic() + seconds
        outcomes: list[Outcome] = []

        def ask(seed: int) -> None:
            draw = random.Random(seed)
            while time.monotonic() < end:
                (kind,) = draw.choices(kinds, list(MIX.values()))
                outcomes.append(self._one(kind, draw.choice(models)))
                if outcomes[-1].problem is not None:
                    time.sleep(0.2)  # where nobody listens a client would ask a thousand times a second

        with ThreadPoolExecutor(self._clients) as threads:
            list(threads.map(ask, range(self._clients)))
        return outcomes

    def _one(self, name: str, model: str) -> Outcome:
        with self._lock:
            client = Client(self.url, self._api, random.Random(self._draw.random()))
        began = time.time()
        said: Said | None = None
        problem: str | None = None
        left = False
        try:
            said = KINDS[name](client, model)
            problem = self._differs(model, said)
        except Left:
            left = True
        except (Exception, pytest.fail.Exception) as error:  # whatever it is, it is one request's, and is reported
            problem = f"{type(error).__name__} {getattr(error, 'code', '')}: {error}"
        ended = time.time()
        return Outcome(name, model, began, client.first_at or ended, ended, said, problem, left)

    def _differs(self, model: str, said: Said | None) -> str | None:
        expected = said and self.texts.get((model, said.topic))
        if said is None or expected is None or said.text == expected:
            return None
        return f"it said {said.text!r}, not {expected!r}"


def table(outcomes: list[Outcome], title: str) -> str:
    """How many of each kind, and how long they waited for the first part of their answer."""
    rows = [title, f"{'':28}{'asked':>7}{'whole':>7}{'left':>6}{'failed':>8}{'median':>9}{'max':>9}"]
    for name in MIX:
        rows.append(_row(name, [one for one in outcomes if one.kind == name]))
    return "\n".join([*rows, _row("all", outcomes)])


def _row(name: str, outcomes: list[Outcome]) -> str:
    left = sum(one.left for one in outcomes)
    failed = sum(one.problem is not None for one in outcomes)
    waits = [one.wait for one in outcomes if not one.left] or [0.0]
    counts = f"{len(outcomes):7}{len(outcomes) - left - failed:7}{left:6}{failed:8}"
    return f"{name:28}{counts}{median(waits):7.2f} s{max(waits):7.2f} s"


def spread(outcomes: list[Outcome]) -> str:
    """How the waits are distributed."""
    waits = sorted(one.wait for one in outcomes if not one.left)
    shares = ((share, waits[min(len(waits) - 1, len(waits) * share // 100)]) for share in (50, 75, 90, 95, 99, 100))
    return "waits: " + ", ".join(f"{share} % within {wait:.2f} s" for share, wait in shares)


def problems(outcomes: list[Outcome]) -> list[str]:
    return [f"{one.kind} of {one.model}: {one.problem}" for one in outcomes if one.problem is not None]
