"""The round-robin router of muxd/simulator, for groups of simulated workers."""

import sys

from muxd.config.model_schema import Model
from muxd.engines.engine import LaunchContext

from .worker_api import WorkerApiRouter


class StandInRouter(WorkerApiRouter):
    """A router that needs nothing but muxd."""

    def _argv(self, model: Model, context: LaunchContext) -> tuple[str, ...]:
        return (sys.executable, "-m", "muxd.simulator.router", "--port", str(context.port))
