"""Twenty clients switch between three models at random, leave, and ask meanwhile: row 23."""

import json
import random
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import httpx

from tests.end_to_end.conftest import QUICK
from tests.end_to_end.muxd import Muxd, chat_body

from .oracles import is_whole_or_an_error, judged

MODELS = """\
[defaults]
engine = "simulator"
gpu_release_timeout = "1500ms"
stop_timeout = "3s"
call_timeout = "5s"
memory = {{ weights = "40GiB", kv = "16GiB", overhead = "2GiB" }}
simulation = {{ {quick} }}
[models.a]
sleep_level = 1
[models.b]
sleep_level = 2
[models.c]
sleep_level = 3
"""

SWITCHES, CLIENTS = 200, 20


def test_of_two_hundred_switches_each_ends_and_never_two_are_awake(start: Callable[..., Muxd]) -> None:
    muxd = start(MODELS.format(quick=QUICK))
    texts = {model: muxd.ask(model) for model in "abc"}
    ends, lock = Counter[str](), threading.Lock()

    def switch(number: int) -> None:
        draw = random.Random(number)
        model = draw.choice("abc")
        transport = httpx.HTTPTransport(uds=str(muxd.socket))
        with httpx.Client(transport=transport, base_url="http://muxd", timeout=60) as client:
            if number % 10 == 0:
                answer = httpx.post(f"{muxd.url}/v1/chat/completions", json=chat_body(model, "hello"), timeout=60)
                assert is_whole_or_an_error(answer)
                end = "answered" if answer.status_code == 200 else answer.json()["error"]["code"]
            else:
                with client.stream("POST", f"/v1/models/{model}/switch") as lines:
                    end = "left"
                    if number % 7:
                        last = [json.loads(line) for line in lines.iter_lines()][-1]
                        end = last["type"] if last["type"] == "ready" else str(last["error"]["code"])
        with lock:
            ends[end] += 1

    with judged(muxd):
        with ThreadPoolExecutor(CLIENTS) as clients:
            list(clients.map(switch, range(SWITCHES)))
        assert sum(ends.values()) == SWITCHES
        assert ends["ready"] > 0
        assert set(ends) <= {"ready", "left", "answered", "superseded"}, ends
        assert muxd.switch("b")["type"] == "ready", "the last one wins"
        assert muxd.state("b") == "ready"
        assert {model: muxd.ask(model) for model in "abc"} == texts
