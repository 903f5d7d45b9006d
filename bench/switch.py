"""What a switch costs beside the engine's own calls, and where that time goes.

    python bench/switch.py [--quick] [--real [sglang|vllm]] [--profile] [--switches N]

Two models take turns, one at sleep level 1 and one at level 2: simulated ones that sleep and
wake in no time, or with --real an engine on the CPU (see tests/real).  A switch counts

    from   the last byte of the drained answer is at its client; or, where the model that gives
           way is idle, the request for the other one leaves its client
    to     the proxy has the lease and lets the request in

less the time in which the engine worked on its calls and on the wake proof: from
a call's last byte sent to its answer's first byte received.  All else counts: the way through
the proxy, the decisions, the proof that the engine is idle, every look at GPU memory and the
pauses between two of them, connections, the state file, the probe for readiness.

This is wall time, and on a machine that is busy with other things it is theirs that is measured.
Root can have all of it run before them with --first.
"""

import argparse
import json
import os
import sys
import threading
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from figures import Figure, show
from muxd_process import SIMULATED, MuxdProcess, running_muxd, two_real_models
from processes import below, put_first

BENCH = Path(__file__).resolve().parent
STAMPED = (sys.executable, str(BENCH / "stamped.py"))

#: Seconds until the stamps of a switch are in their file: see stamped.py.
WRITTEN_AFTER = 0.05

#: What the engine itself does for a switch: SGLang's calls, and vLLM's.  The wake proof is a request as well.
CALLS = {
    "/pause_generation": "pause",
    "/release_memory_occupation": "release",
    "/resume_memory_occupation": "resume",
    "/update_weights_from_disk": "reload",
    "/continue_generation": "continue",
    "/generate": "proof",
    "/sleep": "sleep",
    "/release_kv_cache_memory": "release",
    "/wake_up": "wake",
    "/collective_rpc": "reload",
    "/reset_prefix_cache": "reset",
    "/v1/completions": "proof",
}

#: Milliseconds that may be added with a real engine, which a wake proof may take as well, and with simulated ones.
GOAL, GOAL_SIMULATED = 20.0, 12.0

#: The wake proof from beginning to end; the engine's own part of it is among its calls.
PROOF = "ProofKeeper.prove"

Stamp = tuple[float, str, str, str]


@dataclass(frozen=True, slots=True)
class Switch:
    """Milliseconds: in all, of each engine call, and of each other part, where a part may be within another."""

    total: float
    calls: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    parts: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    @property
    def engine(self) -> float:
        return sum(self.calls.values())

    @property
    def added(self) -> float:
        return self.total - self.engine


def switch_of(began: float, target: str, stamps: list[Stamp]) -> Switch:
    """What happened from `began` until the proxy admitted requests for `target`."""
    admitted = next(at for at, what, of, _ in stamps if what == "admitted" and of == target and at > began)
    switch = Switch(1000 * (admitted - began))
    pending: dict[str, float] = {}
    for at, what, of, detail in stamps:
        if not began <= at <= admitted:
            continue
        if what in ("sent", "begin"):
            pending[of] = at
        elif what in ("answered", "end") and of in pending:
            took = 1000 * (at - pending.pop(of))
            if (path := of.partition("?")[0]) in CALLS:
                switch.calls[CALLS[path]] += took
            else:
                switch.parts[of] += took
        elif what == "event" and detail in ("LeaseAsked", "LeaseEnded"):
            switch.parts[f"from the beginning to {detail}"] = 1000 * (at - began)
        elif what == "granted":
            switch.parts["from the grant to the end"] = 1000 * (admitted - at)
    return switch


class Stamps:
    """What muxd and its proxy have written down."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read = 0

    def new(self) -> list[Stamp]:
        time.sleep(3 * WRITTEN_AFTER)
        data = self._path.read_bytes()
        lines, self._read = data[self._read :].splitlines(), len(data)
        return sorted(tuple(json.loads(line)) for line in lines)


def from_idle(muxd: MuxdProcess, stamps: Stamps, target: str) -> Switch:
    time.sleep(0.25)  # until the end of the request before has been reported
    began = time.monotonic()
    muxd.ask(target, max_tokens=1)
    return switch_of(began, target, stamps.new())


def from_busy(muxd: MuxdProcess, stamps: Stamps, leaving: str, target: str) -> Switch:
    """A request waits for `target` while one of the other model is drained."""
    lines = muxd.stream(leaving, max_tokens=60, ignore_eos=True, stream=True)
    next(lines)
    waiting = threading.Thread(target=muxd.ask, args=(target,), kwargs={"max_tokens": 1})
    waiting.start()
    for _ in lines:
        began = time.monotonic()
    waiting.join()
    return switch_of(began, target, stamps.new())


def report(title: str, switches: list[Switch], goal: float, *, profile: bool) -> None:
    """`switches`: to level 1 and to level 2 in turns; `goal`: for what is added, in milliseconds."""
    figures = []
    for name, some in (("level 2 to level 1", switches[0::2]), ("level 1 to level 2", switches[1::2])):
        figures.append(Figure(f"{name}: added", [switch.added for switch in some], "ms", goal))
        figures.append(Figure(f"{name}: the engine's calls", [switch.engine for switch in some], "ms"))
        figures.append(Figure(f"{name}: the wake proof", [switch.parts[PROOF] for switch in some], "ms", GOAL))
    show(title, figures)
    if profile:
        for what in ("calls", "parts"):
            each = [getattr(switch, what) for switch in switches]
            names = sorted({name for one in each for name in one})
            show(
                f"{title}: {what}",
                [Figure(name, [one[name] for one in each if name in one], "ms") for name in names],
            )


def real_models(engine: str) -> str:
    sys.path.append(str(BENCH.parent))
    if engine == "vllm":
        from tests.real.vllm.install import DEFAULT
        from tests.real.vllm.vllm_cpu import CPU_ARGS, CPU_ENV
    else:
        from tests.real.install import DEFAULT
        from tests.real.sglang_cpu import CPU_ARGS, CPU_ENV
    home = Path(os.environ.get(f"MUXD_REAL_{engine.upper()}") or DEFAULT).absolute()
    return two_real_models(engine, home, CPU_ARGS, CPU_ENV)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="only to see that it works")
    real = {"nargs": "?", "const": "sglang", "choices": ("sglang", "vllm")}
    parser.add_argument("--real", **real, help="a real engine on the CPU, SGLang where none is named")
    parser.add_argument("--profile", action="store_true", help="where the time goes")
    parser.add_argument("--first", action="store_true", help="at real-time priority, once all is loaded; needs root")
    parser.add_argument("--switches", type=int, default=42, metavar="N")
    options = parser.parse_args()
    count = 4 if options.quick else options.switches
    os.environ["MUXD_STAMPS"] = path = f"/tmp/muxd-bench-{os.getpid()}.stamps"
    stamps, turns = Stamps(Path(path)), ["a", "b"] * (count // 2)
    models = real_models(options.real) if options.real else SIMULATED
    with running_muxd(models, STAMPED, managed=False) as muxd:
        for model in ("a", "b"):  # loads them
            muxd.ask(model, max_tokens=1)
        if options.first:
            for pid in below(os.getpid()):
                put_first(pid)
        idle = [from_idle(muxd, stamps, target) for target in turns]
        busy = [from_busy(muxd, stamps, "b" if target == "a" else "a", target) for target in turns]
    Path(path).unlink()
    what, goal = (f"real {options.real} on a CPU", GOAL) if options.real else ("simulated", GOAL_SIMULATED)
    report(f"A switch away from an idle model, {what}", idle, goal, profile=options.profile)
    report(f"A switch away from a busy model, {what}", busy, goal, profile=options.profile)


if __name__ == "__main__":
    main()
