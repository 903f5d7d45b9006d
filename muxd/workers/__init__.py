"""What the core commands for a worker, carried out: one runner a model, one life a start.

`runner` takes commands, `launch` starts a server, `life` follows it from its start to its
end, `footprint` waits for its GPU memory, `listener` sees whose its port is,
`evidence` keeps what explains its end.
"""

from .launch import WorkerContext, remove_left_outside
from .runner import Runner

__all__ = ["Runner", "WorkerContext", "remove_left_outside"]
