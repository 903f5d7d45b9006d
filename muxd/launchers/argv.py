"""muxd itself starts the server, by the command line that its engine makes of the model's keys."""

from muxd.config import Model
from muxd.engines.engine import Engine, LaunchContext, LaunchSpec


class ArgvLauncher:
    """Starts the engine's own command, which gets muxd's admin key."""

    def launch(self, model: Model, engine: Engine, context: LaunchContext) -> LaunchSpec:
        command = engine.command(model, context)
        return LaunchSpec(
            argv=command.argv,
            env={**engine.environment, **command.env, "TMPDIR": str(context.tmpdir)},
            files=command.files,
            stop_signal=engine.stop_signal,
        )
