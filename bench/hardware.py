"""What this machine's hardware shows of muxd: for whoever has a card for ten minutes.

    python bench/hardware.py --sglang PYTHON --vllm PYTHON --models MODEL MODEL [--gpus 0] [--minutes 10]
    python bench/hardware.py --cpu [--sglang HOME] [--vllm HOME]
    python bench/hardware.py --simulated

Either engine may be left out. One muxd runs both models on each engine, each alone on its GPUs; as far as the time
goes, the most valuable first: `muxctl validate` of the first model at every level; SIGKILL of each of its processes
in turn (all of them gone, the model back, its GPU memory what it was); the same for the second model; and in the end
every model stopped (GPU memory what it was before any was loaded). What was seen goes into docs/hardware.md, between
the marks of this kind of hardware; what could not be seen is named there.

`--cpu` takes the engines of `make real-sglang` and `make real-vllm` with their two tiny models, `--simulated` the
simulator.  Exit status 1: something failed, and the page says what.
"""

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from muxd_process import MuxdProcess, running_muxd
from processes import below, command_line

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "hardware.md"

#: MiB: readings of GPU memory that differ by less count as equal, as in muxd/gpus.py.
NOISE = 64

#: Seconds of the time that are kept for the end: every model is stopped, and the page is written.
KEPT = 30.0

#: Seconds that the processes of a model of which one was killed may take to be gone, and within which they are gone, or
#: the model serves on without that one.
GONE, SURE = 30.0, 5.0


#: A model that was killed is started again without a delay, however often.
AT_ONCE = {"restart_limit": 99, "stable_after": 0.1}


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of hardware: its mark in the page, and what cannot be seen there."""

    mark: str
    title: str
    not_seen: tuple[str, ...] = ()


GPU = Kind("gpu", "GPUs")
NOT_ON_A_CPU = (
    "GPU memory: there is no card",
    "levels 1 and 2 as an engine does them on a card: a stand-in drops the weights, and brings them back",
    "times: they are those of tiny models on busy cores",
)
SIMULATED = Kind(
    "simulated",
    "simulated servers",
    ("engines: the servers, their memory and their times are pretend; muxd, its processes and its sockets are real",),
)


@dataclass(frozen=True, slots=True)
class Tried:
    """One engine with its two models: their names in muxd's configuration, and the tables of these."""

    engine: str
    version: str
    names: tuple[str, str]
    tables: str


@dataclass(slots=True)
class Seen:
    """What was seen, as rows of the page's tables."""

    cycles: list[tuple[str, ...]] = field(default_factory=list)
    kills: list[tuple[str, ...]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


class OutOfTime(Exception):
    """The time that was given is over."""


class Clock:
    def __init__(self, minutes: float) -> None:
        self._began = time.monotonic()
        self._end = self._began + minutes * 60 - KEPT

    @property
    def left(self) -> float:
        return self._end - time.monotonic()

    @property
    def taken(self) -> float:
        return time.monotonic() - self._began


# What is tried


def simulated() -> list[Tried]:
    memory = 'memory = { weights = "24GiB", kv = "20GiB", overhead = "1GiB" }'
    speed = "simulation = { load_time = 0.3, sleep_time = 0.05, wake_time = 0.1, token_rate = 200, pace = 0.02 }"
    common = "\n".join(('engine = "simulator"', *(f"{key} = {_toml(value)}" for key, value in AT_ONCE.items())))
    tables = "".join(f"[models.{name}]\n{common}\n{memory}\n{speed}\n" for name in ("a", "b"))
    return [Tried("simulator", "muxd's simulator", ("a", "b"), tables)]


def of_engine(engine: str, python: Path, models: Sequence[Path], keys: dict[str, Any]) -> Tried:
    names = f"{engine}-a", f"{engine}-b"
    common = {"engine": engine, "python": str(python), **AT_ONCE, **keys}
    tables = ""
    for name, model in zip(names, models, strict=True):
        lines = (f"{key} = {_toml(value)}" for key, value in (common | {"model_path": str(model)}).items())
        tables += "\n".join((f"[models.{name}]", *lines, ""))
    return Tried(engine, _version(engine, python), names, tables)


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_toml(each)}" for key, each in value.items()) + " }"
    return json.dumps(value)


def _version(engine: str, python: Path) -> str:
    code = "from importlib.metadata import packages_distributions as p, version as v; "
    code += f"print(*(f'{{name}} {{v(name)}}' for each in ({engine!r}, 'torch') for name in p()[each][:1]), sep=', ')"
    try:
        asked = subprocess.run([python, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SystemExit(f"{python} is no interpreter that can be run: {error}; name one that has {engine}") from None
    if asked.returncode != 0:
        raise SystemExit(f"{python} has no {engine}: {asked.stderr.strip().splitlines()[-1:]}")
    return asked.stdout.strip()


def on_cpu(home: Path, engine: str) -> Tried:
    """Return the CPU engine that `make real-sglang` or `make real-vllm` installed in this folder."""
    sys.path.insert(0, str(ROOT))
    from tests.real import sglang_cpu
    from tests.real.vllm import vllm_cpu

    facts: Any = {"sglang": sglang_cpu, "vllm": vllm_cpu}[engine]
    models = [home.absolute() / "models" / name for name in ("tiny-a", "tiny-b")]
    keys = {"args": list(facts.CPU_ARGS), "env": facts.CPU_ENV, "probe_interval": "2s"}
    return of_engine(engine, home.absolute() / "venv/bin/python", models, keys)


# What is done


def validate(muxd: MuxdProcess, tried: Tried, name: str, clock: Clock, seen: Seen) -> None:
    """Have one model validated at every level, once; at the end of the time it is ended, with what it has found."""
    argv = [sys.executable, "-m", "muxctl", "--socket", str(muxd.socket), "validate", name, "--cycles", "1", "--json"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT) as child:
        with suppress(subprocess.TimeoutExpired):
            child.wait(max(0.0, clock.left))
        if child.poll() is None:
            seen.left_out.append(f"the rest of the levels of {name}")
            child.send_signal(signal.SIGINT)
        said, error = child.communicate()
    for line in map(json.loads, said.splitlines()):
        if line["type"] == "cycle":
            seen.cycles.append(_cycle_row(tried, name, line))
        elif "phase" in line:
            continue
    if child.returncode not in (0, 130):
        seen.failures.append(error.strip().removeprefix("muxctl: "))


def _cycle_row(tried: Tried, name: str, line: dict[str, Any]) -> tuple[str, ...]:
    times = (_shown(line[key], ".3f") for key in ("sleep_s", "wake_s", "first_token_s"))
    sizes = (
        _shown(line[what][when], "d") for what in ("gpu_mib", "host_mib") for when in ("before", "asleep", "awake")
    )
    same = {True: "yes", False: "no", None: "-"}[line["identical"]]
    return tried.engine, name, str(line["level"]), *times, *sizes, same, line["error"] or "ok"


def _shown(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def sweep(muxd: MuxdProcess, tried: Tried, name: str, clock: Clock, seen: Seen) -> None:
    """Kill each process of a model in turn; after each, all are gone, and the model is back with the memory it had."""
    until_ready(muxd, name, clock)
    roles = [role for role, _ in tree_of(muxd, name)]
    for role in roles:
        if clock.left <= 0:
            raise OutOfTime
        until_ready(muxd, name, clock)
        tree, had, model = dict(tree_of(muxd, name)), gpu_mib(muxd), model_of(muxd, name)
        if role not in tree:
            continue  # a process that only sometimes is there
        began = time.monotonic()
        os.kill(tree[role], signal.SIGKILL)
        gone = _seconds_until(lambda tree=tree: not any(map(is_alive, tree.values())), SURE)
        now = model_of(muxd, name)
        serves_on = gone is None and (now["state"], now["pid"]) == ("ready", model["pid"])
        if gone is None and not serves_on:
            gone = _seconds_until(lambda tree=tree: not any(map(is_alive, tree.values())), GONE, began)
        back = until_ready(muxd, name, clock, since=None if serves_on else began)
        leaked = gpu_mib(muxd) - had if had is not None else None
        is_well = (serves_on or gone is not None) and (leaked is None or leaked <= NOISE)
        memory = "-" if leaked is None else "the same" if leaked <= NOISE else f"{leaked} MiB more"
        shown = "serves on" if serves_on else _shown(gone, ".2f")
        seen.kills.append((tried.engine, name, role, shown, f"{back:.1f}", memory))
        if not is_well:
            seen.failures.append(f"{name} after SIGKILL of {role}: gone {shown} s, GPU memory {memory}")


def until_ready(muxd: MuxdProcess, name: str, clock: Clock, since: float | None = None) -> float:
    """Have the model answer a client, and return the seconds that this took; raises OutOfTime."""
    began = time.monotonic() if since is None else since
    while clock.left > 0:
        with suppress(SystemExit, OSError):  # an answer that the death of its worker cut off
            muxd.ask(name, max_tokens=2)
            return time.monotonic() - began
        time.sleep(0.1)
    raise OutOfTime


def model_of(muxd: MuxdProcess, name: str) -> dict[str, Any]:
    return next(model for model in muxd.status()["models"] if model["name"] == name)


def tree_of(muxd: MuxdProcess, name: str) -> list[tuple[str, int]]:
    """Return the processes of a model by what they are, each with its pid: its shim, and all below that."""
    pid = model_of(muxd, name)["pid"]
    shim = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    found: list[tuple[str, int]] = []
    for each in below(shim):
        with suppress(OSError):
            role = "shim" if each == shim else _role(each)
            count = sum(known.partition(" ")[0] == role for known, _ in found)
            found.append((f"{role} {count + 1}" if count else role, each))
    return found


def _role(pid: int) -> str:
    """Return what a process is: its title where it gave itself one, else the module or the program that it runs."""
    words = command_line(pid).split()
    if words and "::" in words[0]:
        return words[0]
    if "-m" in words:
        return words[words.index("-m") + 1]
    traced = next((word for word in words if "tracker" in word), "")
    return "resource_tracker" if traced else Path(f"/proc/{pid}/comm").read_text().strip()


def is_alive(pid: int) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return False


def gpu_mib(muxd: MuxdProcess) -> int | None:
    """Return the MiB that are taken on all GPUs together; None where nobody can measure them."""
    known = [gpu["used"] for gpu in muxd.status()["gpus"] if gpu.get("used") is not None]
    return sum(known) >> 20 if known else None


def _seconds_until(condition: Callable[[], bool], most: float, since: float | None = None) -> float | None:
    began = time.monotonic() if since is None else since
    while time.monotonic() < began + most:
        if condition():
            return time.monotonic() - began
        time.sleep(0.01)
    return None


def leave_alone(muxd: MuxdProcess, tried: Iterable[Tried], name: str) -> None:
    """Stop every other model, and let this one be loaded: what is seen is not to depend on those before it."""
    for other in (other for each in tried for other in each.names if other != name):
        muxctl(muxd, "stop", other, "--now")
    muxctl(muxd, "start", name, "--no-wait")


def muxctl(muxd: MuxdProcess, *words: str) -> None:
    argv = [sys.executable, "-m", "muxctl", "--socket", str(muxd.socket), *words]
    subprocess.run(argv, cwd=ROOT, capture_output=True, timeout=120, check=False)


def stop_all(muxd: MuxdProcess, tried: Iterable[Tried], before: int | None, seen: Seen) -> str:
    """Stop every model, and return what became of the GPU memory."""
    for name in (name for each in tried for name in each.names):
        muxctl(muxd, "stop", name, "--now")
    if before is None:
        return "GPU memory could not be measured"
    kept = _seconds_until(lambda: (gpu_mib(muxd) or 0) <= before + NOISE, 15.0)
    if kept is not None:
        return f"with every model stopped the GPUs have what they had before any was loaded: {before} MiB"
    seen.failures.append(f"with every model stopped GPU memory is {gpu_mib(muxd)} MiB, and was {before} MiB")
    return seen.failures[-1]


def run(tried: Sequence[Tried], clock: Clock, on_gpus: bool) -> tuple[Seen, str, list[str]]:
    """Do everything, as far as the time goes; return what was seen, the end of it, and the GPUs' names.

    Raise SystemExit before anything is loaded where it is to be `on_gpus` and muxd sees none.
    """
    seen = Seen()
    steps = [(step, each, each.names[place]) for place in (0, 1) for step in (validate, sweep) for each in tried]
    with running_muxd("".join(each.tables for each in tried)) as muxd:
        before = gpu_mib(muxd)
        gpus = [f"{gpu['name']}, {gpu['total'] >> 30} GiB" for gpu in muxd.status()["gpus"] if gpu.get("total")]
        if on_gpus and not gpus:
            raise SystemExit("muxd sees no GPU here, see muxd check; take --cpu or --simulated where there is none")
        for step, each, name in steps:
            what = f"{step.__name__} of {name}"
            print(f"{clock.taken:6.1f} s  {what}", flush=True)
            try:
                if clock.left <= 0:
                    raise OutOfTime
                leave_alone(muxd, tried, name)
                step(muxd, each, name, clock, seen)
            except OutOfTime:
                is_begun = step is sweep and any(row[1] == name for row in seen.kills)
                seen.left_out.append(f"the rest of the {what}" if is_begun else what)
        print(f"{clock.taken:6.1f} s  every model is stopped", flush=True)
        end = stop_all(muxd, tried, before, seen)
    return seen, end, gpus


# What is written

CYCLE_HEAD = ("engine", "model", "level", "sleep s", "wake s", "first token s", "GPU MiB before", "asleep", "awake")
CYCLE_HEAD += ("host MiB before", "asleep", "awake", "same answer", "result")
KILL_HEAD = ("engine", "model", "SIGKILL of", "all gone after s", "answers again after s", "GPU memory")


def section(kind: Kind, tried: Sequence[Tried], seen: Seen, end: str, gpus: Sequence[str], seconds: float) -> str:
    """Return the text between the marks of one kind of hardware."""
    engines = ", ".join(each.version for each in tried)
    facts = [
        f"Measured on {datetime.now(UTC):%Y-%m-%d} in {seconds / 60:.1f} minutes, at commit {_commit()}.",
        f"Engines: {engines}. Python {platform.python_version()}, Linux {platform.release()}, {os.cpu_count()} cores,",
        f"load {os.getloadavg()[0]:.1f} at the end. GPUs: {'; '.join(gpus) or 'none'}{_driver()}.",
    ]
    parts = [f"## {kind.title}", " ".join(facts)]
    parts += [_table(CYCLE_HEAD, seen.cycles)] if seen.cycles else []
    parts += [_table(KILL_HEAD, seen.kills)] if seen.kills else []
    parts += [f"In the end, {end}."]
    parts += ["Failed: " + "; ".join(seen.failures) + "."] if seen.failures else []
    parts += ["Not seen, for want of time: " + "; ".join(seen.left_out) + "."] if seen.left_out else []
    parts += ["Not seen here:\n\n" + "\n".join(f"- {text}" for text in kind.not_seen)] if kind.not_seen else []
    return "\n\n".join(parts)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    clean = ([cell.replace("|", "\\|") for cell in row] for row in rows)
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *clean))


def _commit() -> str:
    asked = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return asked.stdout.strip() or "unknown"


def _driver() -> str:
    try:
        import pynvml

        pynvml.nvmlInit()
        return f", driver {pynvml.nvmlSystemGetDriverVersion()}"
    except Exception:  # without a driver pynvml raises errors of several kinds, and none matters here
        return ""


def written(page: str, kind: Kind, text: str) -> str:
    """Return the page with this text between the marks of its kind of hardware, which come last where they are new."""
    begin, end = f"<!-- {kind.mark}: written by bench/hardware.py -->", f"<!-- end of {kind.mark} -->"
    if begin not in page:
        return f"{page.rstrip()}\n\n{begin}\n\n{text}\n\n{end}\n"
    before, _, rest = page.partition(begin)
    return f"{before}{begin}\n\n{text}\n\n{end}{rest.partition(end)[2]}"


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--simulated", action="store_true", help="the simulator's servers")
    where.add_argument("--cpu", action="store_true", help="the CPU engines of the tests, with their tiny models")
    for engine in ("sglang", "vllm"):
        what = f"an interpreter that has {engine}; with --cpu, the folder where the tests installed it"
        parser.add_argument(f"--{engine}", type=Path, metavar="PATH", help=what)
    parser.add_argument("--models", nargs=2, type=Path, metavar="MODEL", help="folders of two models")
    parser.add_argument("--gpus", default="0", help='on which both run, such as "0" or "0,1"')
    parser.add_argument(
        "--args", nargs=argparse.REMAINDER, default=[], help="flags of the engine, to the end of the line"
    )
    parser.add_argument("--minutes", type=float, default=10.0, help="after which it has ended")
    parser.add_argument("--page", type=Path, default=PAGE, help="the page to be written")
    chosen = parser.parse_args()
    engines = [engine for engine in ("sglang", "vllm") if getattr(chosen, engine) is not None]
    if not chosen.simulated and not engines:
        parser.error("name an engine: --sglang PATH, --vllm PATH, or both; or take --simulated")
    if not (chosen.simulated or chosen.cpu) and chosen.models is None:
        parser.error("name two models: --models MODEL MODEL")
    return chosen


def chosen_engines(chosen: argparse.Namespace) -> Iterator[Tried]:
    if chosen.simulated:
        yield from simulated()
        return
    for engine in ("sglang", "vllm"):
        path: Path | None = getattr(chosen, engine)
        if path is not None and chosen.cpu:
            yield on_cpu(path, engine)
        elif path is not None:
            keys = {"gpus": [int(gpu) if gpu.isdigit() else gpu for gpu in chosen.gpus.split(",")], "args": chosen.args}
            yield of_engine(engine, path.absolute(), [model.absolute() for model in chosen.models], keys)


def main() -> None:
    chosen = options()
    clock = Clock(chosen.minutes)
    tried = list(chosen_engines(chosen))
    engines = " and ".join(each.engine for each in tried)
    on_a_cpu = Kind(f"{engines} on a CPU", f"{engines} on a CPU", NOT_ON_A_CPU)
    kind = SIMULATED if chosen.simulated else on_a_cpu if chosen.cpu else GPU
    seen, end, gpus = run(tried, clock, on_gpus=kind is GPU)
    text = section(kind, tried, seen, end, gpus, clock.taken)
    page = chosen.page.read_text() if chosen.page.exists() else "# What was seen on which hardware\n"
    chosen.page.write_text(written(page, kind, text))
    print(f"\n{text}\n\nwritten to {chosen.page}")
    if seen.failures:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
