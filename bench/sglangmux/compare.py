"""`python -m bench.sglangmux`: every experiment with both programs, as a Markdown table."""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from . import kits, passing, processes, switching
from .lab import Experiment, Lab, Observation
from .programs import MUXD, PEER_VERSION, Program, peer

EXPERIMENTS = (
    Experiment("1", "SSE is buffered whole", passing.streaming, real=True),
    Experiment("2", "a client that leaves during a switch wedges it", switching.disconnect, real=True),
    Experiment("3", "a failed reload leaves the target on the GPU", switching.failed_reload),
    Experiment("4a", "a request waits longer than the switch timeout, for a drain", switching.long_drain),
    Experiment("4b", "nothing bounds a drain", switching.endless_drain),
    Experiment("5a", "a crash is noticed at the next request only", processes.crash),
    Experiment("5b", "a death during a start is final", processes.death_at_start),
    Experiment("6a", "SIGTERM leaves servers behind", processes.terminated),
    Experiment("6b", "SIGINT leaves servers behind whose script lacks `exec`", processes.interrupted),
    Experiment("7a", "headers are dropped, JSON is written anew", passing.unchanged),
    Experiment("7b", "other routes cannot be reached", passing.other_routes),
    Experiment("7c", "no metrics", passing.metrics),
    Experiment("8", "arrivals in turns, while answers overlap, switch to and fro (20)", switching.interleaved),
)


def tried(experiment: Experiment, program: Program, kit: kits.Kit) -> Observation:
    with tempfile.TemporaryDirectory(prefix="side-by-side-") as folder:
        return experiment.run(Lab(program, kit, Path(folder) / "lab"))


def cell(observation: Observation) -> str:
    return f"**yes**: {observation.text}" if observation.fault else f"no: {observation.text}"


def row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def main() -> None:
    numbers = [experiment.number for experiment in EXPERIMENTS]
    parser = argparse.ArgumentParser(prog="python -m bench.sglangmux", description=__doc__.partition(": ")[2])
    parser.add_argument("--only", nargs="+", choices=numbers, default=numbers, metavar="N", help=", ".join(numbers))
    parser.add_argument("--real", action="store_true", help="1 and 2 with real SGLang on the CPU; some minutes")
    options = parser.parse_args()
    other = peer()
    if other is None:
        sys.exit(f"sglangmux {PEER_VERSION} is not in this environment: pip install --group peers")
    kit = kits.real() if options.real else kits.SIMULATION
    print(row(("", "fault", other.name, "muxd")) + "\n" + row(("---",) * 4), flush=True)
    for experiment in EXPERIMENTS:
        if experiment.number in options.only and (experiment.real or not options.real):
            at_once = 2 if kit.simulated else 1  # most of it is waiting, but real servers need the cores to load
            with ThreadPoolExecutor(at_once) as pool:
                seen = pool.map(lambda program, of=experiment: tried(of, program, kit), (other, MUXD))
                print(row((experiment.number, experiment.fault, *map(cell, seen))), flush=True)
