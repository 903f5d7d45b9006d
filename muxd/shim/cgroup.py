"""One child's cgroup, v2: list its members, kill them, remove it.

`muxd.children.cgroups` finds where such cgroups may be made.
"""

from __future__ import annotations

import errno
import os
import signal

from .processes import look_up, send


def cgroup_members(cgroup: str) -> set[int]:
    """Return the pids in the cgroup and in those below it; empty if it does not exist."""
    pids: set[int] = set()
    for directory, _, _ in os.walk(cgroup):
        try:
            with open(f"{directory}/cgroup.procs", "rb") as file:
                pids.update(map(int, file.read().split()))
        except OSError:
            continue  # the cgroup was removed meanwhile
    return pids


def cgroup_populated(cgroup: str) -> bool:
    """Say whether a live process is in the cgroup or below it; False if it does not exist.  Raises OSError."""
    try:
        with open(f"{cgroup}/cgroup.events", "rb") as file:
            return b"populated 1" in file.read()
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENODEV):
            return False
        raise


def cgroup_kill(cgroup: str) -> None:
    """Send SIGKILL to every process in the cgroup and below it.

    Linux 5.14 and later do this atomically, by cgroup.kill; on an older kernel each member is killed by its pid.
    """
    try:
        tell_cgroup(f"{cgroup}/cgroup.kill", b"1")
    except OSError:
        for member in map(look_up, cgroup_members(cgroup)):
            if member:
                send(member, signal.SIGKILL)


def tell_cgroup(path: str, value: bytes) -> None:
    """Write to one of a cgroup's files; never create a file.  Raises OSError."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, value)
    finally:
        os.close(fd)


def cgroup_remove(cgroup: str) -> None:
    """Remove the cgroup and those below it; a cgroup that still has members stays."""
    for directory, _, _ in os.walk(cgroup, topdown=False):
        try:
            os.rmdir(directory)
        except OSError:
            continue
