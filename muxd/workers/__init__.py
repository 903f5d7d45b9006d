"""Carries out what the core commands for a worker: a Runner for each, and one WorkerProcess per start.

runner             takes the core's commands
router_runner      likewise for a group's router, which it tells of the group's workers
launch             starts a server
process            follows a server from its start to its end
gate_wait          waits at an engine's gate, for a server that was started ahead
proof_keeper       asks a server for its wake proof, and holds later answers against it
figures            measures what a worker has, and asks what it says, for a validation
gpu_memory         waits until the worker's GPU memory is free, and measures it
port_ownership     checks that the worker itself listens on its port
script_inspection  looks at what a launch script has started
inheritance        whether a worker that an earlier muxd has left is as that one left it
crash_evidence     keeps what explains a server's end
"""

from .figures import WorkerFigures
from .inheritance import LeftWorkers
from .launch import WorkerContext, has_own_traces, remove_left_outside
from .router_runner import RouterRunner
from .runner import Runner

__all__ = [
    "LeftWorkers",
    "RouterRunner",
    "Runner",
    "WorkerContext",
    "WorkerFigures",
    "has_own_traces",
    "remove_left_outside",
]
