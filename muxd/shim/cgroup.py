"""One child's cgroup, v2: what is in it, and killing and removing it.

Where such cgroups may be made is not here but in `muxd.children.cgroups`.
"""

from __future__ import annotations

import errno
import os
import signal

from .processes import look_up, send


def cgroup_members(cgroup: str) -> set[int]:
    """The pids in it and below; empty where it does not exist."""
    pids: set[int] = set()
    for directory, _, _ in os.walk(cgroup):
        try:
            with open(f"{directory}/cgroup.procs", "rb") as file:
                pids.update(map(int, file.read().split()))
        except OSError:
            continue  # it went away
    return pids


def cgroup_populated(cgroup: str) -> bool:
    try:
        with open(f"{cgroup}/cgroup.events", "rb") as file:
            return b"populated 1" in file.read()
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENODEV):
            return False
        raise


def cgroup_kill(cgroup: str) -> None:
    """SIGKILL all in it and below, atomically.  Linux 5.14; without it, each by its pid."""
    try:
        tell_cgroup(f"{cgroup}/cgroup.kill", b"1")
    except OSError:
        for member in map(look_up, cgroup_members(cgroup)):
            if member:
                send(member, signal.SIGKILL)


def tell_cgroup(path: str, value: bytes) -> None:
    """Write to one of a cgroup's files; where it is none, nothing is created."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, value)
    finally:
        os.close(fd)


def cgroup_remove(cgroup: str) -> None:
    """Remove it and what is below; what is not empty stays."""
    for directory, _, _ in os.walk(cgroup, topdown=False):
        try:
            os.rmdir(directory)
        except OSError:
            continue
