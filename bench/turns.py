"""What keeping a turn saves where clients return after each answer, and costs where they do not.

    python bench/turns.py [--quick]

Two simulated models share one GPU: a sleep takes 1 s, a wake 2 s, an answer 0.5 s.  Three loads, each once as shipped
and once with `[policy] keep_turns = false`, where an idle model gives way at once:

    agents   two clients in a closed loop, one for each model, 12 requests each, with a pause of 0.1 s or 1 s between an
             answer and the next request, as a coding agent makes while its tools run
    one-shot 24 requests that come by chance (seeded), one every 2 s in the mean, each to either model, from clients
             that never return

Both models have been loaded and have slept once before the clock runs.  Switches are wakes.
"""

import argparse
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

from muxd_process import MuxdProcess, running_muxd

MODELS = """\
[policy]
keep_turns = {keep_turns}
[defaults]
engine = "simulator"
sleep_level = 1
memory = {{ weights = "40GiB", kv = "16GiB", overhead = "2GiB" }}
simulation = {{ load_time = 0.3, sleep_time = {sleep}, wake_time = {wake}, token_rate = 100 }}
[models.a]
[models.b]
"""

TOKENS = 50  # an answer of 0.5 s


@dataclass(frozen=True, slots=True)
class Run:
    """Seconds until the last answer, the wakes that it took, and the seconds that each request took."""

    seconds: float
    switches: int
    waits: list[float]


Load = Callable[[MuxdProcess, list[float]], None]


def agents(pause: float, requests: int) -> Load:
    """Return a load of one client for each model that pauses after each answer."""

    def client(muxd: MuxdProcess, model: str, waits: list[float]) -> None:
        for number in range(requests):
            if number:
                time.sleep(pause)
            ask(muxd, model, waits)

    def load(muxd: MuxdProcess, waits: list[float]) -> None:
        together([threading.Thread(target=client, args=(muxd, model, waits)) for model in "ab"])

    return load


def one_shot(requests: int, gap: float) -> Load:
    """Return a load of clients that ask once; the same for every run."""

    def client(muxd: MuxdProcess, model: str, waits: list[float], after: float) -> None:
        time.sleep(after)
        ask(muxd, model, waits)

    def load(muxd: MuxdProcess, waits: list[float]) -> None:
        chance, at, threads = random.Random(7), 0.0, []
        for _ in range(requests):
            at += chance.expovariate(1 / gap)
            threads.append(threading.Thread(target=client, args=(muxd, chance.choice("ab"), waits, at)))
        together(threads)

    return load


def together(threads: list[threading.Thread]) -> None:
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def ask(muxd: MuxdProcess, model: str, waits: list[float]) -> None:
    began = time.monotonic()
    muxd.ask(model, max_tokens=TOKENS, ignore_eos=True)
    waits.append(time.monotonic() - began)


def wakes(muxd: MuxdProcess) -> int:
    return sum(model["generation"] for model in muxd.status()["models"])


def run(load: Load, *, keep_turns: bool, scale: float) -> Run:
    written = MODELS.format(keep_turns=str(keep_turns).lower(), sleep=1 * scale, wake=2 * scale)
    with running_muxd(written) as muxd:
        for model in "aba":
            muxd.ask(model, max_tokens=1)
        before, began, waits = wakes(muxd), time.monotonic(), []
        load(muxd, waits)
        return Run(time.monotonic() - began, wakes(muxd) - before, waits)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few requests and short switches: does it run at all?")
    quick = parser.parse_args().quick
    requests, scale = (3, 0.1) if quick else (12, 1.0)
    loads = {
        "agents, pause 0.1 s": agents(0.1 * scale, requests),
        "agents, pause 1 s": agents(1.0 * scale, requests),
        "one-shot": one_shot(2 * requests, 2.0 * scale),
    }
    print("| load | kept: s | switches | longest s | at once: s | switches | longest s | at once / kept |")
    print("|---|---|---|---|---|---|---|---|")
    for name, load in loads.items():
        kept, at_once = (run(load, keep_turns=keep, scale=scale) for keep in (True, False))
        cells = [
            f"{r.seconds:.1f} | {r.switches} | {max(r.waits):.1f} (median {median(r.waits):.1f})"
            for r in (kept, at_once)
        ]
        print(f"| {name} | {' | '.join(cells)} | {at_once.seconds / kept.seconds:.2f} |", flush=True)


if __name__ == "__main__":
    main()
