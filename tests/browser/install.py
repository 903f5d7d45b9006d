"""Install what a page is tested with: Chromium without a window, and Playwright, which drives it.

    python tests/browser/install.py

Chromium comes from Debian (as root; about 300 MB), Playwright from the dependency group `browser` of the project's own
environment, which `make console` installs.  Exit status: 0 installed; 1 failed; 3 this machine lacks what is needed.
"""

import os
import shutil
import subprocess
import sys

PACKAGE = "chromium-headless-shell"


def main() -> int:
    if shutil.which(PACKAGE) is not None:
        return 0
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        print(f"needs {PACKAGE}: as root on Debian this installs it", file=sys.stderr)
        return 3
    environ = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    for argv in (["apt-get", "update", "-qq"], ["apt-get", "install", "-y", "-qq", "--no-install-recommends", PACKAGE]):
        done = subprocess.run(argv, env=environ, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            print(f"{' '.join(argv)}: {(done.stderr or done.stdout).strip()[-500:]}", file=sys.stderr)
            return 3
    return 0 if shutil.which(PACKAGE) is not None else 1


if __name__ == "__main__":
    sys.exit(main())
