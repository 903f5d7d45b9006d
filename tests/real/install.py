"""Install real SGLang on CPU torch, with two tiny models, for the tests beside this file.

    python tests/real/install.py [DIR]

DIR defaults to $MUXD_REAL_SGLANG, else to .sglang-cpu in the project.  Downloads about 380 MB, takes
1.8 GB of disk and a few minutes; what is done already is not done again.

torch must be a CPU build.  Where pip by itself would choose a CUDA build, set MUXD_TORCH_INDEX to the
package index of CPU wheels that the PyTorch project names in its installation guide.

Exit status: 0 installed; 1 failed; 2 wrong usage; 3 this machine lacks what is needed, listed on stderr.
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

HERE = Path(__file__).resolve().parent
DEFAULT = HERE.parents[1] / ".sglang-cpu"
STAND_INS = ("sgl_kernel", "torch_memory_saver", "triton")
MODELS = {"tiny-a": 0, "tiny-b": 1}  # name -> seed
GB = 10**9
DISK_NEEDED = 3 * GB
MEMORY_NEEDED = 6 * GB
TORCH = "torch==2.13.0"

Fail = subprocess.CalledProcessError


class Missing(Exception):
    """The machine lacks something that this program does not install."""

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

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.python = folder / "venv" / "bin" / "python"
        self.stamp = folder / "installed.json"

    def steps(self) -> tuple[Step, ...]:
        stand_ins = tuple(HERE / "stand_ins" / name / "__init__.py" for name in STAND_INS)
        requirements = tuple(HERE / f"{name}.txt" for name in ("requirements", "requirements-nodeps", "constraints"))
        return (
            Step("environment", (), make_environment, also=str(self.folder)),
            Step("packages", requirements, install_packages),
            Step("stand-ins", stand_ins, install_stand_ins),
            Step("models", (HERE / "tiny_model.py",), make_models, also=json.dumps(MODELS)),
        )

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


def install_packages(target: Installation) -> None:
    refuse_cuda_torch(target)
    quiet = ("install", "-qq", "--progress-bar", "off")
    target.pip(*quiet, "--requirement", str(HERE / "requirements.txt"), "--constraint", str(HERE / "constraints.txt"))
    target.pip(*quiet, "--no-deps", "--requirement", str(HERE / "requirements-nodeps.txt"))


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


def install_stand_ins(target: Installation) -> None:
    site = target.site_packages()
    for name in STAND_INS:
        shutil.rmtree(site / name, ignore_errors=True)
        shutil.copytree(HERE / "stand_ins" / name, site / name, ignore=shutil.ignore_patterns("__pycache__"))
    patch_torchvision(target)


def patch_torchvision(target: Installation) -> None:
    """A CUDA torchvision cannot load its compiled operators here; SGLang needs its Python transforms only."""
    if subprocess.run([target.python, "-c", "import torchvision"], capture_output=True).returncode != 0:
        (target.site_packages() / "torchvision" / "_meta_registrations.py").write_text("")
        subprocess.run([target.python, "-c", "import torchvision"], check=True)


def make_models(target: Installation) -> None:
    offline = {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    for name, seed in MODELS.items():
        command = [target.python, "-W", "ignore", HERE / "tiny_model.py", target.folder / "models" / name, str(seed)]
        subprocess.run(command, check=True, env=offline, capture_output=True, text=True)


def lacking(folder: Path) -> list[str]:
    """What this machine lacks, one line each."""
    libc, version = platform.libc_ver()
    checks = (
        (sys.platform == "linux" and platform.machine() == "x86_64", "Linux on x86_64"),
        (sys.implementation.name == "cpython" and sys.version_info >= (3, 11), "CPython 3.11 or newer"),
        (
            bool(importlib.util.find_spec("venv") and importlib.util.find_spec("ensurepip")),
            "Python's venv and ensurepip",
        ),
        (libc == "glibc" and numbers(version) >= (2, 34), "glibc 2.34 or newer"),
        (free_disk(folder) >= DISK_NEEDED, f"{DISK_NEEDED // GB} GB of free disk at {folder}"),
        (memory() >= MEMORY_NEEDED, f"{MEMORY_NEEDED // GB} GB of memory"),
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


def install(folder: Path) -> None:
    target = Installation(folder)
    if not target.missing_steps():
        print(f"{folder}: installed already")
        return
    if missing := lacking(folder):
        raise Missing(*missing)
    with target.locked():
        steps = target.missing_steps()  # another installer may have done some meanwhile
        for number, step in enumerate(steps, 1):
            print(f"{folder}: {step.name} ({number} of {len(steps)})", flush=True)
            step.run(target)
            target.mark_done(step)
    print(f"{folder}: installed")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", metavar="DIR", nargs="?", default=os.environ.get("MUXD_REAL_SGLANG") or DEFAULT)
    folder = Path(parser.parse_args().folder).absolute()
    try:
        install(folder)
    except Missing as missing:
        print(f"SGLang for CPU cannot be installed here; what is missing:\n{missing}", file=sys.stderr)
        return 3
    except Fail as failed:
        tail = f"\n{failed.stderr.strip()}" if failed.stderr else ""
        command = " ".join(map(str, failed.cmd))
        print(f"installing SGLang failed: `{command}` exited with {failed.returncode}{tail}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
