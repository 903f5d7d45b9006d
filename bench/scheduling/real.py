"""The same requests to muxd and to sglangmux, on the same simulated servers: real processes, and wall time.

Two models share a GPU.  Sixteen clients in a closed loop ask for either by chance (seeded), 160 requests in all: short
answers and longer ones, streamed and not.
"""

import random
import tempfile
import threading
import time
from collections import deque
from pathlib import Path
from statistics import median

from bench.sglangmux import kits
from bench.sglangmux.lab import Lab
from bench.sglangmux.programs import MUXD, PEER_VERSION, Program, peer

CLIENTS, REQUESTS = 16, 160

#: The most that muxd may take of sglangmux's time.
GOAL = 0.55

#: A sleep and a wake take a second and two, as of a model of a few GB.
SLOW = "--sleep-time 1 --wake-time 2"

#: Tokens of answers; a server writes 200 a second.
TOKENS = (20, 60, 120)


def tried(program: Program) -> tuple[float, int, list[float]]:
    """Return the seconds until the last answer, the switches, and the seconds that each request took."""
    with tempfile.TemporaryDirectory(prefix="scheduling-") as folder:
        lab = Lab(program, kits.SIMULATION, Path(folder) / "lab")
        chance = random.Random(7)
        todo = deque(
            (chance.choice((lab.kit.alpha, lab.kit.beta)), chance.choice(TOKENS), chance.random() < 0.5)
            for _ in range(REQUESTS)
        )
        took: list[float] = []
        with lab.host(SLOW, SLOW) as host:

            def client() -> None:
                while todo:
                    try:
                        model, tokens, stream = todo.popleft()
                    except IndexError:
                        return
                    answer = lab.ask(host, model, 120, max_tokens=tokens, ignore_eos=True, stream=stream)
                    assert answer.status == 200, answer
                    took.append(answer.end)

            clients = [threading.Thread(target=client) for _ in range(CLIENTS)]
            began = time.monotonic()
            for each in clients:
                each.start()
            for each in clients:
                each.join()
            seconds, switches = time.monotonic() - began, host.wire.switches()
        assert len(took) == REQUESTS, f"{program.name}: {REQUESTS - len(took)} requests failed"
        return seconds, switches, took


def compared() -> str:
    """Return a table of both; raises SystemExit where sglangmux is not there."""
    other = peer()
    if other is None:
        raise SystemExit(f"sglangmux {PEER_VERSION} is not in this environment: pip install --group peers")
    lines = ["| | seconds | switches | a request: median s | longest s |", "|---|---|---|---|---|"]
    seconds = []
    for program in (other, MUXD):
        span, switches, took = tried(program)
        seconds.append(span)
        lines.append(f"| {program.name} | {span:.1f} | {switches} | {median(took):.1f} | {max(took):.1f} |")
    ratio = seconds[1] / seconds[0]
    return "\n".join([*lines, f"| muxd / sglangmux | {ratio:.2f} (goal {GOAL}) | | | |"])
