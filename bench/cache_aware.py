"""What the policy of a router does for the prefix caches of two replicas: cache_aware beside round_robin.

    python bench/cache_aware.py HOME [--rounds N]

HOME: a real SGLang for this machine's CPU, as `python tests/real/install.py` makes it, with its models.  Agents ask in
turns, four at once: each has a long beginning of its own (about 400 tokens) and asks ten times behind it.  The cache of
a replica holds about half of these beginnings, so that it pays to send an agent where it was before.  The hit rate is
what the engines say: prompt tokens that were in the cache, by all prompt tokens.
"""

import argparse
import json
import random
import re
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from muxd_process import MuxdProcess, running_muxd, until

CONFIG = """\
[models.tiny]
python = "{home}/venv/bin/python"
model_path = "{home}/models/tiny-a"
args = {args}
env = {{ SGLANG_USE_CPU_ENGINE = "1", HF_HUB_OFFLINE = "1", OMP_NUM_THREADS = "1" }}
replicas = 2
gpus = [0, 1]
wake_proof = false
router = {{ policy = "{policy}", balance_abs_threshold = 8, balance_rel_threshold = 2.0 }}
"""

#: Tokens of a replica's KV cache.
CACHE = 4096

ARGS = (
    *("--device", "cpu", "--attention-backend", "torch_native", "--sampling-backend", "pytorch"),
    *("--grammar-backend", "none", "--disable-overlap-schedule", "--mem-fraction-static", "0.1"),
    *("--max-total-tokens", str(CACHE), "--context-length", "2048"),
)

AGENTS, TURNS, AT_ONCE, WORDS = 16, 10, 4, 120

POLICIES = ("cache_aware", "round_robin")


def prompts(seed: int) -> list[str]:
    """Return the requests in their order: each agent's in turn, the agents by chance."""
    chance = random.Random(seed)
    words = ["".join(chance.choices("abcdefghijklmnopqrstuvwxyz", k=5)) for _ in range(2000)]
    beginnings = [" ".join(chance.choices(words, k=WORDS)) for _ in range(AGENTS)]
    order = [agent for agent in range(AGENTS) for _ in range(TURNS)]
    chance.shuffle(order)
    return [f"{beginnings[agent]} {chance.choice(words)}" for agent in order]


def hit_rate(policy: str, home: Path, seed: int) -> float:
    """Return the share of prompt tokens that the engines had in their caches."""
    models = CONFIG.format(home=home, args=json.dumps(ARGS), policy=policy)
    with running_muxd(models) as muxd:
        muxd.ask("tiny", max_tokens=1)
        until(lambda: ready(muxd) == 2, 300)
        before = tokens(muxd)
        with ThreadPoolExecutor(AT_ONCE) as clients:
            list(clients.map(lambda prompt: ask(muxd, prompt), prompts(seed)))
        after = tokens(muxd)
    cached, prompt = (now - then for now, then in zip(after, before, strict=True))
    return cached / prompt


def ask(muxd: MuxdProcess, prompt: str) -> None:
    muxd.ask("tiny", messages=[{"role": "user", "content": prompt}], max_tokens=1)


def ready(muxd: MuxdProcess) -> int:
    workers = muxd.status()["models"][0]["workers"]
    return sum(worker["state"] == "ready" for worker in workers if worker["role"] == "serve")


def tokens(muxd: MuxdProcess) -> tuple[float, float]:
    """Return the prompt tokens that were in a cache, and all, of both replicas so far."""
    time.sleep(1.5)  # SGLang counts once a second
    page = muxd.metrics()
    found = []
    for name in ("sglang:cached_tokens_total", "sglang:prompt_tokens_total"):
        values = re.findall(rf"^{name}\{{[^}}\n]*\}} ([0-9.e+]+)$", page, re.MULTILINE)
        found.append(sum(map(float, values)))
    return found[0], found[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("home", type=Path)
    parser.add_argument("--rounds", type=int, default=1)
    options = parser.parse_args()
    for seed in range(options.rounds):
        rates = {policy: hit_rate(policy, options.home.absolute(), seed) for policy in POLICIES}
        said = ", ".join(f"{policy} {rate:.0%}" for policy, rate in rates.items())
        print(f"prompt tokens found in the cache: {said}; {rates['cache_aware'] / rates['round_robin']:.2f} x")


if __name__ == "__main__":
    main()
