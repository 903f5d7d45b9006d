"""`python -m bench.dataplane`: every row with every target, in turns, and the table in the end."""

import argparse
import json
import os
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path

from bench.processes import below
from bench.sglangmux.programs import free_ports

from .interpreter import built
from .programs import Load, hurried, may_hurry, upstream
from .rows import EXPERIMENTS, HELD, Experiment, Failed, streams_to_hold
from .table import Results, lines, number, scaling
from .targets import MUXD_ALONE, ON_BOTH, OPEN, SCALED_ROWS, Place, Running, missing, used, version

IDLE = 0.05  # of a core: less than this, and a target has nothing left to do
SETTLE = 30.0  # seconds that it may take to get there


@dataclass(frozen=True, slots=True)
class Plan:
    rounds: int
    targets: Sequence[str]
    experiments: Sequence[Experiment]
    holders: Sequence[str]  # of many streams
    first: bool
    proxy_core: int
    load_core: int

    def takes(self, experiment: Experiment, target: str) -> bool:
        if experiment.name == "quota" and target not in MUXD_ALONE:
            return False
        if target in ON_BOTH:
            return experiment.name in SCALED_ROWS
        return experiment.name != "held" or target in self.holders


def main() -> None:
    options = arguments()
    lacking = {name: how for name in options.targets if (how := missing(name))}
    plan = planned(options, [name for name in options.targets if name not in lacking])
    raise_open_files()
    os.sched_setaffinity(0, {plan.load_core})
    with hurried(os.getpid()) if options.first else nullcontext():
        results, proofs = compared(plan)
    left_out = (f"{name}: left out; {how}" for name, how in lacking.items())
    notes = [built(), *scaling(results), *proofs, *left_out, *_about_open_files(plan)]
    table = lines(results, plan.experiments, plan.targets)
    print("\n".join(["", _title(plan), "", *table, "", *(f"- {note}" for note in notes)]))
    if options.json is not None:
        options.json.write_text(json.dumps({"title": _title(plan), "notes": notes, **results.as_json()}, indent=1))


def planned(options: argparse.Namespace, targets: Sequence[str]) -> Plan:
    """Raises SystemExit where this machine cannot do it."""
    if any(shutil.which(needed) is None for needed in ("cc", "taskset")):
        sys.exit("the servers and the load are C programs on a core of their own: install cc and taskset (util-linux)")
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        sys.exit("the proxies need a core of their own, and the load another: this process may use one only")
    if options.first and not may_hurry():
        sys.exit("--first: this user may not put a process before others: run it as root, or leave it out")
    if not targets:
        sys.exit("none of these targets is installed: `make dataplane` installs them, but for nginx")
    experiments = [each for each in EXPERIMENTS if each.name in options.rows]
    return Plan(options.rounds, targets, experiments, options.held, options.first, *cores[:2])


def arguments() -> argparse.Namespace:
    names = [each.name for each in EXPERIMENTS]
    parser = argparse.ArgumentParser(prog="python -m bench.dataplane", description=__doc__.partition(": ")[2])
    parser.add_argument("--rounds", type=int, default=3, metavar="N")
    parser.add_argument("--targets", nargs="+", choices=OPEN, default=[*OPEN], metavar="NAME", help=", ".join(OPEN))
    parser.add_argument("--rows", nargs="+", choices=names, default=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--held", nargs="+", choices=OPEN, default=["muxd"], metavar="NAME", help="for the row `held`")
    parser.add_argument("--first", action="store_true", help="before what else the machine does; needs root")
    parser.add_argument("--json", type=Path, metavar="FILE", help="every round's figures, too")
    return parser.parse_args()


def compared(plan: Plan) -> tuple[Results, list[str]]:
    """The figures, and what each target logged and counted meanwhile."""
    results, proofs = Results(), []
    for turn in range(plan.rounds):
        first = turn % len(plan.targets)
        order = [*plan.targets[first:], *plan.targets[:first]]  # nobody is always measured after the same one
        with ExitStack() as stack:
            running = [one for name in order if (one := _opened(stack, plan, name, results))]
            for experiment in plan.experiments:
                for target in running:
                    if plan.takes(experiment, target.name):
                        _measure(plan, experiment, target, turn, results)
            proxies = [target for target in running if target.root is not None]
            proofs = [f"{target.name} {version(target.name)}: {target.proof}" for target in proxies]
    return results, proofs


def _opened(stack: ExitStack, plan: Plan, name: str, results: Results) -> Running | None:
    """Each round has fresh processes and a model server for each target; None: it does not start."""
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=f"dataplane-{name}-")))
    (port,) = free_ports(1)
    stack.enter_context(upstream(plan.load_core, port))
    try:
        target = stack.enter_context(OPEN[name](Place(plan.proxy_core, plan.load_core, port, folder)))
    except SystemExit as error:
        _tell(f"{name}: {error}")
        for experiment in plan.experiments:
            results.failures[experiment.name, name] = "does not start"
        return None
    if plan.first and target.root is not None:
        for pid in below(target.root):  # each, as muxd's children have sessions of their own
            stack.enter_context(hurried(pid))
    return target


def _measure(plan: Plan, experiment: Experiment, target: Running, turn: int, results: Results) -> None:
    try:
        figures = experiment.run(target, Load(plan.load_core, target.port))
    except Failed as error:
        results.failures[experiment.name, target.name] = str(error)
        _tell(f"round {turn + 1}, {experiment.name}, {target.name}: {error}")
    else:
        shown = ", ".join(f"{key.partition('.')[2] or key} {number(value)}" for key, value in figures.items())
        _tell(f"round {turn + 1}, {experiment.name}, {target.name}: {shown}")
        for key, value in figures.items():
            results.values[key, target.name][turn] = value
    _settle(target)


def _settle(target: Running) -> None:
    """Until it has done what a load has left behind, which would be in the way of the next target."""
    deadline = time.monotonic() + SETTLE
    while time.monotonic() < deadline:
        before = target.cpu()
        time.sleep(0.2)
        if used(before, target.cpu()) < IDLE * 0.2:
            return


def raise_open_files() -> None:
    """For all that are started here; as far as this user may."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 4 * HELD
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(wanted, hard), max(wanted, hard)))
    except (OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _about_open_files(plan: Plan) -> list[str]:
    count = streams_to_hold()
    if count == HELD or all(each.name != "held" for each in plan.experiments):
        return []
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return [
        f"held: the hard limit of open files, {limit}, which this user may not raise, leaves a proxy room for {count} "
        f"streams of two sockets each: so many were tried, not {HELD}"
    ]


def _title(plan: Plan) -> str:
    load = os.getloadavg()[0]
    cores = f"proxies on core {plan.proxy_core}, servers and load on core {plan.load_core}"
    return f"Data plane: medians of {plan.rounds} rounds; {cores} of {os.cpu_count()}; load {load:.1f}"


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
