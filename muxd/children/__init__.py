"""muxd's side of its shims: spawn, watch, stop, sweep.

A child lives under a shim (see `muxd.shim`) that outlives muxd.  Nothing here reads a child's output or
waits for the child's pid: muxd watches the shim by pidfd, and the shim writes into a file how the child ended.

    spawn        Children: start a child, and the shim's command line
    child        Child: stop a child, and learn how it ended
    sweep        end the processes that an earlier muxd has left
    orphans      reap orphans, which muxd inherits as a subreaper
    spare_descriptors  descriptors kept for the end of a child
    records      files that muxd and the shims leave for each other
    proctree     which processes belong to a child whose shim is gone
    cgroups      where the children's cgroups may be made
"""

from muxd.shim.processes import ANY_PORT

from .child import Child
from .orphans import become_subreaper
from .proctree import is_in_container, mark_of, token_of
from .records import ChildRecord, Dropped, ExitRecord, read_shim_record
from .spawn import RUN_DIR, Children, ChildSpec, own_environment

__all__ = [
    "ANY_PORT",
    "RUN_DIR",
    "Child",
    "ChildRecord",
    "ChildSpec",
    "Children",
    "Dropped",
    "ExitRecord",
    "become_subreaper",
    "is_in_container",
    "mark_of",
    "own_environment",
    "read_shim_record",
    "token_of",
]
