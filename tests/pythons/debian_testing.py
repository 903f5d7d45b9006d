"""Make a Debian testing in a folder, whose Python is newer than most machines' own, and run programs in it.

    python -m tests.pythons.debian_testing

As root on Debian; downloads about 100 MB, takes 400 MB of /var/tmp and two minutes, once.  Nothing of it is installed
on the machine.  Exit status: 0 it is there; 3 this machine lacks what is needed, or the mirror does not give it.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path("/var/tmp/muxd-debian-testing")
PACKAGES = "python3,python3-venv,ca-certificates"

#: In a mount namespace of its own: the network's settings and /tmp are the machine's, so that a path means the same.
_ENTER = """
for folder in dev sys etc/ssl tmp; do mount --rbind "/$folder" "$0/$folder"; done
mount -t proc proc "$0/proc"
cp /etc/resolv.conf "$0/etc/resolv.conf"
exec chroot "$0" "$@"
"""


def entering() -> tuple[str, ...]:
    """The words before a command that run it in there."""
    return "unshare", "--mount", "--propagation", "private", "sh", "-ec", _ENTER, str(ROOT)


def is_made() -> bool:
    return (ROOT / ".made").exists() and os.geteuid() == 0


def main() -> int:
    if is_made():
        return 0
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        print("Debian testing's Python is not tried: it takes root, and Debian", file=sys.stderr)
        return 3
    unfinished = ROOT.with_name(f"{ROOT.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    apt = ["apt-get", "-o", "DPkg::Lock::Timeout=120", "-qq", "-y"]
    steps = [] if shutil.which("debootstrap") else [[*apt, "update"], [*apt, "install", "debootstrap"]]
    steps.append(["debootstrap", "--variant=minbase", f"--include={PACKAGES}", "testing", str(unfinished)])
    for argv in steps:
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            print(f"{' '.join(argv)}: {(done.stderr or done.stdout).strip()[-500:]}", file=sys.stderr)
            return 3
    (unfinished / ".made").touch()
    unfinished.rename(ROOT)
    return 0


if __name__ == "__main__":
    sys.exit(main())
