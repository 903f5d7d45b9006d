"""What several models awake on one GPU are worth, beside one at a time.

    python bench/awake_together.py [--quick]

Eight simulated models of 25 GiB share a GPU of 80: three fit together.  A sleep takes 0.5 s, a wake 1 s, an answer 0.2
s. Twelve clients ask in closed loops, each time one of the models by a Zipf distribution (exponent 1, seeded), for a
minute: once with the models' sizes, and once without a size for the KV cache, where each has the GPU to itself.  All
have been loaded and have slept once before the clock runs.
"""

import argparse
import random
import threading
import time

from muxd_process import MuxdProcess, running_muxd

HEAD = """\
[defaults]
engine = "simulator"
sleep_level = 1
memory = {{ weights = "{weights}GiB", {kv} }}
simulation = {{ load_time = 0.3, sleep_time = {sleep}, wake_time = {wake}, token_rate = 100 }}
"""
NAMES = "abcdefgh"
CLIENTS = 12
TOKENS = 20  # an answer of 0.2 s


def run(seconds: float, scale: float, *, sized: bool) -> tuple[int, int]:
    """Return the answers within `seconds`, and the wakes that they took."""
    weights, kv = (14, 'kv = "10GiB", overhead = "1GiB"') if sized else (24, 'overhead = "1GiB"')
    head = HEAD.format(weights=weights, kv=kv, sleep=0.5 * scale, wake=1.0 * scale)
    with running_muxd(head + "".join(f"[models.{name}]\n" for name in NAMES)) as muxd:
        for name in NAMES * 2:
            muxd.ask(name, max_tokens=1)
        before, answers, end = wakes(muxd), [], time.monotonic() + seconds

        def client(number: int) -> None:
            chance = random.Random(number)
            while time.monotonic() < end:
                (name,) = chance.choices(NAMES, [1 / rank for rank in range(1, len(NAMES) + 1)])
                if muxd.ask(name, max_tokens=TOKENS, ignore_eos=True) < end:
                    answers.append(name)

        threads = [threading.Thread(target=client, args=(number,)) for number in range(CLIENTS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return len(answers), wakes(muxd) - before


def wakes(muxd: MuxdProcess) -> int:
    return sum(model["generation"] for model in muxd.status()["models"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few seconds and short switches: does it run at all?")
    quick = parser.parse_args().quick
    seconds, scale = (3.0, 0.1) if quick else (60.0, 1.0)
    together, alone = (run(seconds, scale, sized=sized) for sized in (True, False))
    print("| | answers | wakes |")
    print("|---|---|---|")
    print(f"| as many awake as fit | {together[0]} | {together[1]} |")
    print(f"| one at a time | {alone[0]} | {alone[1]} |")
    print(f"\nanswers together / alone: {together[0] / max(1, alone[0]):.2f}")


if __name__ == "__main__":
    main()
