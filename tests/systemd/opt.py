"""What a host has in /opt/muxd: an environment with muxd, put together from the one that the tests run in.

The guest has no network, so nothing is installed there: the packages that muxd needs are copied, and muxd itself as it
is in this checkout.  Needs a guest with the same Python, since some of the packages are compiled.
"""

import re
import shutil
import sys
import tomllib
from importlib import metadata
from pathlib import Path

PROJECT = Path(__file__).parents[2]
LAUNCHER = """\
#!/opt/muxd/bin/python
import sys
from {module} import {function}
sys.exit({function}())
"""


#: Lets a test block a muxd's loop: the handler runs in the thread of the loop.
BLOCK = "import signal, time\nsignal.signal(signal.SIGUSR1, lambda *_: time.sleep(3600))\n"


def lay_out(opt: Path) -> None:
    """Make `opt` what /opt/muxd is to be."""
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    site = opt / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    site.mkdir(parents=True)
    for name in needed(project["dependencies"]):
        copy_distribution(name, site)
    for package in ("muxd", "muxctl"):
        shutil.copytree(PROJECT / package, site / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(PROJECT / "conf", site / "muxd" / "conf")
    (site / "blocked_loop.py").write_text(BLOCK)
    (site / "blocked_loop.pth").write_text("import blocked_loop\n")
    (opt / "pyvenv.cfg").write_text("home = /usr/bin\ninclude-system-site-packages = false\n")
    (opt / "bin").mkdir()
    (opt / "bin" / "python").symlink_to("/usr/bin/python3")
    for command, target in project["scripts"].items():
        module, function = target.split(":")
        script = opt / "bin" / command
        script.write_text(LAUNCHER.format(module=module, function=function))
        script.chmod(0o755)


def needed(requirements: list[str]) -> set[str]:
    """The distributions that are named, and all that they need, as far as they are installed."""
    found: set[str] = set()
    ahead = list(requirements)
    while ahead:
        requirement = ahead.pop()
        name = re.split(r"[^A-Za-z0-9._-]", requirement, maxsplit=1)[0].lower()
        if name in found or "extra ==" in requirement:
            continue
        try:
            ahead += metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue  # for another Python or system
        found.add(name)
    return found


def copy_distribution(name: str, site: Path) -> None:
    for file in metadata.files(name) or []:
        if ".." not in file.parts and file.suffix != ".pyc":
            target = site / file
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(file.locate(), target)
