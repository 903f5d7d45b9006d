"""Make the Debian root that the tests beside this file boot.

    python tests/systemd/root.py [DIR]

DIR defaults to $MUXD_SYSTEMD_ROOT, else to /var/tmp/muxd-systemd-root.  Downloads about 100 MB from Debian's mirror,
takes 300 MB of disk; what is done already is not done again.

Exit status: 0 it is there; 1 failed; 3 this machine lacks what is needed, listed on stderr.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

DEFAULT = Path("/var/tmp/muxd-systemd-root")
SUITE = "bookworm"
PACKAGES = ("systemd", "systemd-sysv", "dbus", "python3", "procps", "util-linux")
#: Tools of the host, and the Debian packages that have them.
TOOLS = {"systemd-nspawn": "systemd-container", "nsenter": "util-linux"}
MAKER = {"debootstrap": "debootstrap"}


def place() -> Path:
    return Path(os.environ.get("MUXD_SYSTEMD_ROOT") or DEFAULT).absolute()


def missing(root: Path) -> list[str]:
    """What keeps this machine from booting `root`, one line each."""
    lines = [] if os.geteuid() == 0 else ["not root: a machine cannot be booted"]
    lines += lacking(TOOLS)
    if not is_made(root):
        lines.append(f"no root to boot in {root}: run `python tests/systemd/root.py` as root")
    return lines


def is_made(root: Path) -> bool:
    return (root / ".made").exists()


def lacking(tools: dict[str, str]) -> list[str]:
    return [f"no {tool}: apt-get install {package}" for tool, package in tools.items() if shutil.which(tool) is None]


def make(root: Path) -> None:
    """As a whole or not at all: what an earlier attempt left is removed."""
    unfinished = root.with_name(f"{root.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    include = f"--include={','.join(PACKAGES)}"
    subprocess.run(["debootstrap", "--variant=minbase", include, SUITE, str(unfinished)], check=True)
    (unfinished / ".made").touch()
    unfinished.rename(root)


def main() -> int:
    root = Path(sys.argv[1]).absolute() if len(sys.argv) > 1 else place()
    if is_made(root):
        print(f"{root} is there")
        return 0
    lines = [line for line in [*missing(root), *lacking(MAKER)] if not line.startswith("no root to boot")]
    if lines:
        print("real systemd cannot be booted here:", *lines, sep="\n  - ", file=sys.stderr)
        return 3
    make(root)
    print(f"{root} is made")
    return 0


if __name__ == "__main__":
    sys.exit(main())
