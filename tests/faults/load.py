"""Clients that ask all the while, and what became of each of their requests; and what was measured of a recovery."""

import json
import os
import statistics
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

import httpx

from tests.end_to_end.muxd import DEADLINE, Muxd, chat_body, eventually

from .oracles import is_whole_or_an_error

CLIENTS = 4
PAUSE = 0.1  # seconds of each client between two requests

ANSWERED = "answered"


@dataclass(frozen=True, slots=True)
class Asked:
    """One request; times are of the monotonic clock."""

    began: float
    ended: float
    end: str  # ANSWERED, "told ..." by an error of OpenAI's shape, or "lost ..."


@dataclass
class Load:
    """Some clients that ask one model; one of them streams.  Use it as a context."""

    url: str
    model: str
    asked: list[Asked] = field(default_factory=list)
    _over: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def __enter__(self) -> "Load":
        for number in range(CLIENTS):
            thread = threading.Thread(target=self._ask_on, args=(number == 0,))
            thread.start()
            self._threads.append(thread)
        return self

    def __exit__(self, *exc: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _ask_on(self, streams: bool) -> None:
        body = chat_body(self.model, "hello", max_tokens=100 if streams else 8, ignore_eos=True, stream=streams)
        while not self._over.wait(PAUSE):
            began = time.monotonic()
            end = self._streamed(body) if streams else self._whole(body)
            self.asked.append(Asked(began, time.monotonic(), end))

    def _whole(self, body: dict[str, object]) -> str:
        try:
            answer = httpx.post(f"{self.url}/v1/chat/completions", json=body, timeout=60, trust_env=False)
        except httpx.HTTPError as error:
            return f"lost: {error!r}"
        if not is_whole_or_an_error(answer):
            return f"lost: {answer.text}"
        return ANSWERED if answer.status_code == 200 else f"told {answer.json()['error']['code']}"

    def _streamed(self, body: dict[str, object]) -> str:
        """A stream ends with [DONE], or with an event that has an error."""
        last, url = "", f"{self.url}/v1/chat/completions"
        try:
            with httpx.stream("POST", url, json=body, timeout=60, trust_env=False) as answer:
                for line in answer.iter_lines():
                    last = line if line.startswith(("data: ", "{")) else last
        except httpx.HTTPError as error:
            if '"error"' not in last:
                return f"lost: {error!r}"
        if last == "data: [DONE]":
            return ANSWERED
        with suppress(ValueError, KeyError):
            return f"told {json.loads(last.removeprefix('data: '))['error']['code']}"
        return f"lost: its last line is {last!r}"

    def answered_since(self, at: float) -> float | None:
        """When the first of those who asked after `at` had the whole of an answer; None where nobody has."""
        ended = [each.ended for each in list(self.asked) if each.began >= at and each.end == ANSWERED]
        return min(ended, default=None)

    def until_answered(self, at: float) -> float:
        """Seconds from `at` until somebody who asked after it was answered."""
        first: float = eventually(lambda: self.answered_since(at), "somebody is answered", 2 * DEADLINE)
        return first - at

    def told(self, code: str) -> list[Asked]:
        """Those that ended with an error whose code begins so."""
        return [each for each in list(self.asked) if each.end.startswith(f"told {code}")]

    def lost(self) -> list[Asked]:
        return [each for each in self.asked if each.end.startswith("lost")]


@dataclass(frozen=True, slots=True)
class Recovery:
    """What one fault cost, several times over; seconds."""

    row: int
    fault: str
    seconds: Sequence[float]  # from the fault until a client who asked after it was answered
    loads: Sequence[float]  # of them the engine's own
    asked: int
    told: int
    lost: int
    in_hand: int = 0  # requests that a killed process had

    def record(self) -> None:
        """Append it to the file that MUXD_RECOVERIES names, for bench/recovery.py."""
        own = statistics.median(each - load for each, load in zip(self.seconds, self.loads, strict=True))
        print(f"{self.fault}: {own:.2f} s beside the engine's load; {self.told} told, {self.lost} lost")
        if path := os.environ.get("MUXD_RECOVERIES"):
            with open(path, "a") as file:
                file.write(json.dumps(asdict(self)) + "\n")


def engine_load(muxd: Muxd, former: int) -> float:
    """Seconds that the main process after the former one takes from its exec until it answers by itself."""
    main_process = eventually(
        lambda: (pid := muxd.status("alpha")["pid"]) != former and pid, "there is another main process"
    )
    port = eventually(lambda: port_of(main_process), "which is more than forked")
    eventually(lambda: is_up(port), "the engine is up")
    ticks = int(Path(f"/proc/{main_process}/stat").read_text().rpartition(")")[2].split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")


def port_of(main_process: int) -> int | None:
    """The port on its command line; None where that is still its shim's."""
    words = Path(f"/proc/{main_process}/cmdline").read_text().split("\0")
    return int(words[words.index("--port") + 1]) if "--port" in words else None


def is_up(port: int) -> bool:
    with suppress(httpx.HTTPError):
        return httpx.get(f"http://127.0.0.1:{port}/health", trust_env=False).status_code == 200
    return False
