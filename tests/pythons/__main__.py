"""The wheel on every Python that there is: `python -m tests.pythons` (`make pythons`).

Each CPython from 3.11 on that is found in PATH or among pyenv's gets an environment with the wheel alone, and runs the
demo in it: two simulated models, a switch, a stop.  So does what pipx and uv make of it, where they are there, and the
Python of Debian testing, where `debian_testing` has been made.  Exit 1 if any fails.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from . import debian_testing

PROJECT = Path(__file__).parents[2]
OLDEST = (3, 11)
ASK = "import json, sys; print(json.dumps([sys.implementation.name, *sys.version_info[:2]]))"


def interpreters() -> Iterator[tuple[str, Path]]:
    """One interpreter of each version, with what it is called."""
    folders = [Path(folder) for folder in os.environ.get("PATH", "").split(os.pathsep) if folder]
    folders += sorted((Path.home() / ".pyenv/versions").glob("3.*/bin"))
    seen = set()
    for folder in folders:
        for path in sorted(folder.glob("python3.[0-9]*")):
            if not re.fullmatch(r"python3\.\d+", path.name) or not os.access(path, os.X_OK):
                continue
            told = subprocess.run([path, "-c", ASK], capture_output=True, text=True, check=False)
            try:
                kind, *version = json.loads(told.stdout)
            except ValueError:
                continue
            if kind == "cpython" and tuple(version) >= OLDEST and tuple(version) not in seen:
                seen.add(tuple(version))
                yield f"{version[0]}.{version[1]}", path


def run(*argv: "str | Path", **more: object) -> None:
    subprocess.run([*map(str, argv)], stdin=subprocess.DEVNULL, check=True, timeout=300, **more)  # type: ignore[call-overload]


def quiet(*argv: "str | Path") -> None:
    run(*argv, capture_output=True)


def try_with_pip(python: Path, wheel: Path, folder: Path, *before: str) -> None:
    """`before`: the words that run a command elsewhere."""
    quiet(*before, python, "-m", "venv", folder)
    quiet(*before, folder / "bin/pip", "install", "--quiet", "--disable-pip-version-check", wheel)
    demonstrate(folder / "bin", *before)


def try_in_debian_testing(python: Path, wheel: Path, folder: Path) -> None:
    try_with_pip(python, wheel, folder, *debian_testing.entering())


def try_with_uv(python: Path, wheel: Path, folder: Path) -> None:
    environ = os.environ | {"UV_TOOL_DIR": f"{folder}/tools", "UV_TOOL_BIN_DIR": f"{folder}/bin"}
    run("uv", "tool", "install", "--quiet", "--python", python, wheel, env=environ, capture_output=True)
    demonstrate(folder / "bin")


def try_with_pipx(python: Path, wheel: Path, folder: Path) -> None:
    environ = os.environ | {"PIPX_HOME": f"{folder}/home", "PIPX_BIN_DIR": f"{folder}/bin"}
    run("pipx", "install", "--quiet", "--python", python, wheel, env=environ, capture_output=True)
    demonstrate(folder / "bin")


def demonstrate(programs: Path, *before: str) -> None:
    """Run the demo as a user would who has the programs alone, and look at what else they bring."""
    quiet(*before, programs / "muxctl", "--version")
    quiet(*before, programs / "muxd", "setup", "--systemd", "--print")
    python = (programs / "muxd").resolve().parent / "python"
    run(*before, python, "-P", "-m", "muxd.demo", cwd="/", capture_output=True)


def main() -> int:
    passed = failed = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        quiet(sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", folder)
        (wheel,) = folder.glob("*.whl")
        found = list(interpreters())
        tries = [(f"Python {version}, pip", try_with_pip, python) for version, python in found]
        for tool, attempt in (("uv", try_with_uv), ("pipx", try_with_pipx)):
            if shutil.which(tool) and found:
                tries.append((f"Python {found[-1][0]}, {tool}", attempt, found[-1][1]))
        if debian_testing.is_made():
            python = Path("/usr/bin/python3")
            told = subprocess.check_output([*debian_testing.entering(), str(python), "-c", ASK], text=True)
            version = ".".join(map(str, json.loads(told)[1:]))
            tries.append((f"Python {version} of Debian testing, pip", try_in_debian_testing, python))
        for number, (title, attempt, python) in enumerate(tries):
            try:
                attempt(python, wheel, folder / str(number))
            except (subprocess.SubprocessError, OSError) as error:
                failed += 1
                said = getattr(error, "stderr", b"") or getattr(error, "stdout", b"") or b""
                print(f"{title}: {error}\n{said.decode(errors='replace')[-2000:]}")
            else:
                passed += 1
                print(f"{title}: installed, and switched between two models", flush=True)
    print(f"{passed} passed, {failed} failed")
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    os.chdir(PROJECT)
    sys.exit(main())
