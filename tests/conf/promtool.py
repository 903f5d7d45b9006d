"""promtool, Prometheus' own check of rules: `python tests/conf/promtool.py` puts it into the project's .venv.

It is taken out of the Debian package `prometheus` (19 MB), which is not installed: no service is started, and root is
not needed.  Where promtool is in $PATH already, nothing is done.

Exit status: 0 it is there; 1 failed; 3 this machine lacks what is needed, listed on stderr.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

PLACE = Path(__file__).resolve().parents[2] / ".venv" / "bin" / "promtool"
NEEDED = ("apt-get", "dpkg-deb")
NEWER_LISTS = ("apt-get", "update", "-qq")
PACKAGE = ("apt-get", "download", "-qq", "prometheus")


def find() -> Path | None:
    """In $PATH, else where this program puts it; None where it is not."""
    found = shutil.which("promtool") or shutil.which(PLACE)
    return Path(found) if found else None


def lacking() -> str:
    """What keeps it from being unpacked here; "" for nothing."""
    missing = [program for program in NEEDED if shutil.which(program) is None]
    return f"promtool is not in $PATH, and there is no {' and no '.join(missing)} to get it with" if missing else ""


def download(folder: Path) -> str:
    """Put the package into a folder; why that did not work, or "".

    A machine that has just been made has no lists of packages yet; only root can get them.
    """
    done = _run(PACKAGE, folder)
    if done.returncode != 0 and os.geteuid() == 0:
        _run(NEWER_LISTS, folder)
        done = _run(PACKAGE, folder)
    return "" if done.returncode == 0 else f"the package prometheus cannot be had: {_last_line(done.stderr)}"


def unpack(folder: Path) -> None:
    (package,) = folder.glob("prometheus_*.deb")
    subprocess.run(["dpkg-deb", "--extract", package, folder / "root"], check=True)
    PLACE.parent.mkdir(parents=True, exist_ok=True)
    draft = PLACE.with_suffix(".new")
    shutil.copy2(folder / "root/usr/bin/promtool", draft)
    draft.replace(PLACE)


def _run(argv: tuple[str, ...], folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(argv, cwd=folder, capture_output=True, text=True, check=False)


def _last_line(text: str) -> str:
    return text.strip().rpartition("\n")[2] or "no output"


def main() -> int:
    if found := find():
        print(f"promtool: {found}")
        return 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if missing := lacking() or download(folder):
            print(f"{missing}; the tests that need it will be skipped", file=sys.stderr)
            return 3
        try:
            unpack(folder)
        except (OSError, ValueError, subprocess.CalledProcessError) as error:
            print(f"promtool cannot be unpacked: {error}", file=sys.stderr)
            return 1
    print(f"promtool: {PLACE}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
