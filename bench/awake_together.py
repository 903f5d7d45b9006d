"""What several models awake on one GPU are worth, beside one at a time.

    python bench/awake_together.py [--quick]

Eight simulated models of 25 GiB share a GPU of 80: three fit together.  A sleep takes 0.5 s, a wake 1 s, an answer
0.2 s.  Requests come by chance (seeded), four a second for a minute, each to one of the models by a Zipf distribution
(exponent 1): once with the models' sizes, and once without a size for the KV cache, where each has the GPU to itself.
Goodput is what is answered in time, for several bounds.  All have been loaded and have slept once before.
"""

import argparse
import random
import threading
import time
from dataclasses import dataclass
from statistics import median

from muxd_process import MuxdProcess, running_muxd

HEAD = """\
[defaults]
engine = "simulator"
sleep_level = 1
memory = {{ weights = "{weights}GiB", {kv} }}
simulation = {{ load_time = 0.3, sleep_time = {sleep}, wake_time = {wake}, token_rate = 100 }}
"""
NAMES = "abcdefgh"
RATE = 4.0  # requests a second
PATIENCE = (1.0, 2.0, 5.0, 10.0)  # seconds
TOKENS = 20  # an answer of 0.2 s


@dataclass(frozen=True, slots=True)
class Run:
    """Seconds that each request took, and the wakes that all of them took."""

    waits: list[float]
    wakes: int

    def good(self, patience: float) -> int:
        """Return how many were answered within `patience` seconds."""
        return sum(wait <= patience for wait in self.waits)


def run(seconds: float, scale: float, *, sized: bool) -> Run:
    """Send the requests of `seconds`, and wait for every answer."""
    weights, kv = (14, 'kv = "10GiB", overhead = "1GiB"') if sized else (24, 'overhead = "1GiB"')
    head = HEAD.format(weights=weights, kv=kv, sleep=0.5 * scale, wake=1.0 * scale)
    with running_muxd(head + "".join(f"[models.{name}]\n" for name in NAMES)) as muxd:
        for name in NAMES * 2:
            muxd.ask(name, max_tokens=1)
        before, waits, threads = wakes(muxd), list[float](), []
        chance, at = random.Random(7), 0.0

        def client(name: str, after: float) -> None:
            time.sleep(after)
            began = time.monotonic()
            waits.append(muxd.ask(name, max_tokens=TOKENS, ignore_eos=True) - began)

        while (at := at + chance.expovariate(RATE)) < seconds:
            (name,) = chance.choices(NAMES, [1 / rank for rank in range(1, len(NAMES) + 1)])
            threads.append(threading.Thread(target=client, args=(name, at)))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return Run(waits, wakes(muxd) - before)


def wakes(muxd: MuxdProcess) -> int:
    return sum(model["generation"] for model in muxd.status()["models"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few seconds and short switches: does it run at all?")
    quick = parser.parse_args().quick
    seconds, scale = (3.0, 0.1) if quick else (60.0, 1.0)
    together, alone = (run(seconds, scale, sized=sized) for sized in (True, False))
    print(f"| | requests | {' | '.join(f'within {p:g} s' for p in PATIENCE)} | median s | longest s | wakes |")
    print("|---|---|---|---|---|---|---|---|---|")
    for what, r in (("as many awake as fit", together), ("one at a time", alone)):
        good = " | ".join(str(r.good(p)) for p in PATIENCE)
        print(f"| {what} | {len(r.waits)} | {good} | {median(r.waits):.2f} | {max(r.waits):.1f} | {r.wakes} |")
    ratios = " | ".join(f"{together.good(p) / max(1, alone.good(p)):.2f}" for p in PATIENCE)
    print(f"| goodput together / alone | | {ratios} | | | |")


if __name__ == "__main__":
    main()
