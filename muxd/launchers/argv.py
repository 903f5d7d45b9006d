"""muxd itself starts the server, by the command line that its engine makes of the model's keys."""

from muxd.config.model_schema import Model
from muxd.engines.engine import Engine, LaunchContext, LaunchSpec


class ArgvLauncher:
    """Starts the engine's own command, which gets muxd's admin key unless it says other keys."""

    def launch(self, model: Model, engine: Engine, context: LaunchContext) -> LaunchSpec:
        command = engine.command(model, context)
        return LaunchSpec(
            argv=command.argv,
            env={**engine.environment, **visible_gpus(model), **command.env, "TMPDIR": str(context.tmpdir)},
            files=command.files,
            modules=command.modules,
            stop_signal=command.own_stop_signal or engine.stop_signal,
            stop_command=command.stop_command,
            keys=command.keys,
            chosen=command.chosen,
        )


def visible_gpus(model: Model) -> dict[str, str]:
    """Return the environment by which a server sees only the model's GPUs, numbered as NVML numbers them."""
    return {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": ",".join(model.gpus)}
