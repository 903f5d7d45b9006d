"""muxd's side of its shims: spawn, watch, stop, sweep.

A child lives under a shim (see `muxd.shim`) that outlives muxd.  Nothing here reads a child's output or
waits for it by its pid: the shim is watched by pidfd, and says in a file how the child ended.

    spawn        Children: starting one, and the shim's command line
    child        Child: stopping one, and learning how it ended
    sweep        ending what an earlier muxd has left
    orphans      burying what comes to muxd as a subreaper
    spare_descriptors  descriptors kept for the end of a child
    records      what muxd and the shims leave for each other on disk
    proctree     which processes belong to a child whose shim is gone
    cgroups      where the children's cgroups may be made
"""

from .child import Child
from .orphans import become_subreaper
from .records import ChildRecord, Dropped, ExitRecord, read_card
from .spawn import Children, ChildSpec, own_environment

__all__ = [
    "Child",
    "ChildRecord",
    "ChildSpec",
    "Children",
    "Dropped",
    "ExitRecord",
    "become_subreaper",
    "own_environment",
    "read_card",
]
