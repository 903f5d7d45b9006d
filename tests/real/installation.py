"""Installations of real engines on a CPU: folders made in steps, of which one that is done is not done again.

torch must be a CPU build.  Where pip by itself would choose a CUDA build, set MUXD_TORCH_INDEX to the
package index of CPU wheels that the PyTorch project names in its installation guide.
"""

import argparse
import fcntl
import hashlib
import importlib.util
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

GB = 10**9
TORCH = "torch==2.13.0"
HERE = Path(__file__).resolve().parent
TINY = {"tiny-a": 0, "tiny-b": 1}  # models: name -> seed

Fail = subprocess.CalledProcessError


class Missing(Exception):
    """The machine lacks something that these programs do not install."""

    def __init__(self, *what: str) -> None:
        super().__init__("\n".join(f"  - {line}" for line in what))


@dataclass(frozen=True, slots=True)
class Step:
    """One part of the installation; done again when its inputs change."""

    name: str
    inputs: tuple[Path, ...]
    run: Callable[["Installation"], None]
    also: str = ""  # what else it depends on

    @property
    def fingerprint(self) -> str:
        digest = hashlib.sha256(self.also.encode())
        for path in self.inputs:
            digest.update(path.name.encode() + b"\0" + path.read_bytes())
        return digest.hexdigest()


class Installation:
    """A folder: `venv/`, `models/`, and `installed.json`, which says which steps are done."""

    what: ClassVar[str]  # is installed, for messages
    disk_needed: ClassVar[int]  # bytes
    memory_needed: ClassVar[int]  # bytes

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.python = folder / "venv" / "bin" / "python"
        self.stamp = folder / "installed.json"

    def steps(self) -> tuple[Step, ...]:
        raise NotImplementedError

    def add_extras(self) -> None:
        """Install what some tests need, and do without."""

    def missing_steps(self) -> list[Step]:
        """The steps from the first one that is not done, or not done from today's inputs."""
        try:
            done = json.loads(self.stamp.read_text()) if self.python.exists() else {}
        except (FileNotFoundError, ValueError):
            done = {}
        steps = self.steps()
        for number, step in enumerate(steps):
            if done.get(step.name) != step.fingerprint:
                return list(steps[number:])
        return []

    def mark_done(self, upto: Step) -> None:
        done = {}
        for step in self.steps():
            done[step.name] = step.fingerprint
            if step.name == upto.name:
                break
        draft = self.stamp.with_suffix(".new")
        draft.write_text(json.dumps(done, indent=2) + "\n")
        draft.replace(self.stamp)

    def pip(self, *arguments: str, **options) -> subprocess.CompletedProcess[str]:
        index = os.environ.get("MUXD_TORCH_INDEX")
        extra = ["--extra-index-url", index] if index else []
        command = [self.python, "-m", "pip", "--disable-pip-version-check", *arguments, *extra]
        return subprocess.run(command, check=True, text=True, **options)

    def site_packages(self) -> Path:
        (found,) = (self.folder / "venv" / "lib").glob("python*/site-packages")
        return found

    @contextmanager
    def locked(self) -> Iterator[None]:
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def make_environment(target: Installation) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--clear", target.folder / "venv"], check=True)


def refuse_cuda_torch(target: Installation) -> None:
    """Ask pip which torch it would take, before gigabytes of CUDA are downloaded."""
    question = ("install", "--dry-run", "--ignore-installed", "--no-deps", "--quiet", "--report", "-", TORCH)
    try:
        answer = json.loads(target.pip(*question, capture_output=True).stdout)
    except Fail as failed:
        raise Missing(f"{TORCH}: pip finds none for this Python: {last_line(failed.stderr)}") from failed
    needs = " ".join(answer["install"][0]["metadata"].get("requires_dist", ()))
    if re.search(r"\b(nvidia|cuda|triton)\b", needs):
        raise Missing(f"a CPU build of {TORCH}: pip would take a CUDA build; set MUXD_TORCH_INDEX, see --help")


def make_models(target: Installation) -> None:
    offline = {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    for name, seed in TINY.items():
        command = [target.python, "-W", "ignore", HERE / "tiny_model.py", target.folder / "models" / name, str(seed)]
        subprocess.run(command, check=True, env=offline, capture_output=True, text=True)


MODELS = Step("models", (HERE / "tiny_model.py",), make_models, also=json.dumps(TINY))


def lacking(target: Installation) -> list[str]:
    """What this machine lacks for the installation, one line each."""
    libc, version = platform.libc_ver()
    checks = (
        (sys.platform == "linux" and platform.machine() == "x86_64", "Linux on x86_64"),
        (sys.implementation.name == "cpython" and sys.version_info >= (3, 11), "CPython 3.11 or newer"),
        (
            bool(importlib.util.find_spec("venv") and importlib.util.find_spec("ensurepip")),
            "Python's venv and ensurepip",
        ),
        (libc == "glibc" and numbers(version) >= (2, 34), "glibc 2.34 or newer"),
        (
            free_disk(target.folder) >= target.disk_needed,
            f"{target.disk_needed // GB} GB of free disk at {target.folder}",
        ),
        (memory() >= target.memory_needed, f"{target.memory_needed // GB} GB of memory"),
    )
    return [what for holds, what in checks if not holds]


def numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version))


def free_disk(folder: Path) -> int:
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    return shutil.disk_usage(existing).free


def memory() -> int:
    """Bytes that processes here may use: the machine's, or less where a container is limited."""
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        return min(machine, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    except (OSError, ValueError):  # no limit here, or the word "max"
        return machine


def last_line(text: str | None) -> str:
    return (text or "").strip().rpartition("\n")[2] or "no output"


def install(target: Installation) -> None:
    folder = target.folder
    if not target.missing_steps():
        target.add_extras()
        print(f"{folder}: installed already")
        return
    if missing := lacking(target):
        raise Missing(*missing)
    with target.locked():
        steps = target.missing_steps()  # another installer may have done some meanwhile
        for number, step in enumerate(steps, 1):
            print(f"{folder}: {step.name} ({number} of {len(steps)})", flush=True)
            step.run(target)
            target.mark_done(step)
        target.add_extras()
    print(f"{folder}: installed")


def main(kind: type[Installation], doc: str | None, default: str | Path) -> int:
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", metavar="DIR", nargs="?", default=default)
    target = kind(Path(parser.parse_args().folder).absolute())
    try:
        install(target)
    except Missing as missing:
        print(f"{target.what} for CPU cannot be installed here; what is missing:\n{missing}", file=sys.stderr)
        return 3
    except Fail as failed:
        tail = f"\n{failed.stderr.strip()}" if failed.stderr else ""
        command = " ".join(map(str, failed.cmd))
        print(f"installing {target.what} failed: `{command}` exited with {failed.returncode}{tail}", file=sys.stderr)
        return 1
    return 0
