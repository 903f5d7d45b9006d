"""A child's parent: starts it, keeps its logs, and sees to it that nothing of it is left.

muxd runs one shim per child.  It outlives muxd, so a child and its streams do not notice that muxd is gone.

    shim_spec    what muxd asks of a shim, at the start and by signal
    shim         the shim's own life: start, watch, sweep, report
    fork         the child's way from fork to exec
    log          log files that rotate and never block
    time_index   when their lines came
    processes    the process table, and signals to exactly one process
    listening    the TCP sockets that listen on this host
    cgroup       the members of a child's cgroup, and killing them
    __main__     the entry point of the shim's process

One shim process runs beside every child, so this package stays small: it imports the standard library
only, and of that neither `typing` nor `dataclasses` nor `subprocess` (0.6, 1.6 and 1.0 MB).  For the same
reason it imports nothing else of muxd; muxd imports this package for the functions that both need.
"""
