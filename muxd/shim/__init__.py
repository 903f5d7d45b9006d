"""A child's parent: starts it, keeps its logs, and sees to it that nothing of it is left.

muxd runs one shim per child.  It outlives muxd, so a child and its streams do not notice that muxd is gone.

    shim_spec    what muxd asks for, at the start and by signal
    shim         the shim's own life: start, watch, sweep, report
    fork         the child's way from fork to exec
    log          log files that rotate and never block
    processes    the process table, and signals that reach no other
    cgroup       what is in a child's cgroup, and killing it
    __main__     how all of it is run

One process of this runs beside every child, so it stays small: the standard library only, and of
that neither `typing` nor `dataclasses` nor `subprocess` (0.6, 1.6 and 1.0 MB).  For the same
reason it imports nothing else of muxd; muxd imports it, for what both need.
"""
