"""Where the children's cgroups may be made: in cgroup v2, below the cgroup that was delegated to muxd.

A cgroup holds every descendant of a child, whatever that does, and is killed as one.  No
controller is enabled: processes that survive muxd would keep its unit from starting again.
The functions that shims need too (to kill, to count, to remove) are in `muxd.shim.cgroup`.
"""

import logging
import os
from pathlib import Path

from muxd.errors import in_words
from muxd.shim.cgroup import tell_cgroup

log = logging.getLogger(__name__)

#: The sub-cgroup that muxd moves itself to; no child's cgroup can have this name.
SUPERVISOR = "supervisor"


def enter(base: Path | None = None) -> Path | None:
    """Move this process to a sub-cgroup of `base`, so that `base` may have other sub-cgroups.

    Return `base`, by default the cgroup that was delegated to this process; None if this cannot be done.
    """
    base = base or delegated()
    if base is None:
        return None
    home = base / SUPERVISOR
    try:
        home.mkdir(exist_ok=True)
        tell_cgroup(str(home / "cgroup.procs"), b"0")
    except OSError as error:
        log.warning("no cgroups for the children, their processes are found without: %s", in_words(error))
        return None
    return base


def delegated() -> Path | None:
    """Return this process's cgroup if it may make others in it, which takes a writable one that is not the root."""
    here = own()
    if here is None:
        return None
    if here.name == SUPERVISOR:  # muxd was executed anew
        here = here.parent
    if not (here.parent / "cgroup.procs").exists():
        return None  # the root of the hierarchy, or of what this container sees of it
    ours = os.access(here, os.W_OK) and os.access(here / "cgroup.procs", os.W_OK)
    return here if ours else None


def own() -> Path | None:
    """Return the directory of this process's cgroup v2; None if no mount shows it."""
    with open("/proc/self/cgroup") as file:
        path = next((line[3:].rstrip("\n") for line in file if line.startswith("0::")), None)
    with open("/proc/self/mountinfo") as file:
        mounts = [line.split() for line in file if " - cgroup2 " in line]
    for _, _, _, root, mount_point, *_ in mounts:
        if path is not None and Path(path).is_relative_to(root):
            return Path(_unescaped(mount_point)) / Path(path).relative_to(root)
    return None


def make(base: Path, child: str) -> Path:
    """Return a cgroup for one child, new or left over; a left-over one may still have members."""
    cgroup = base / f"child-{child}"
    cgroup.mkdir(exist_ok=True)
    return cgroup


def _unescaped(path: str) -> str:
    """Decode a path of mountinfo, which writes blanks and the like as three octal digits."""
    return path.encode().decode("unicode_escape").encode("latin-1").decode()
