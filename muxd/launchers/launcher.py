"""The interface of a launcher: how a server's process is started, whatever it speaks."""

from typing import Protocol

from muxd.config.model_schema import Model
from muxd.engines.engine import Engine, LaunchContext, LaunchSpec

from .argv import ArgvLauncher
from .script import ScriptLauncher


class Launcher(Protocol):
    """One way to start a server."""

    def launch(self, model: Model, engine: Engine, context: LaunchContext) -> LaunchSpec:
        """Return how to start a server of `engine` for `model`."""
        ...


def launcher_for(model: Model) -> Launcher:
    """Return the launcher of a model's servers: its launch script, where it has one."""
    return ScriptLauncher() if model.script is not None else ArgvLauncher()
