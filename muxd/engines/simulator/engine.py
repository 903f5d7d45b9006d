"""The simulator: SGLang's calls and probes, with pretend memory and a server of our own."""

from muxd.config.engine_options import SimulatorOptions
from muxd.config.model_schema import Model
from muxd.engines.engine import CommandSpec, LaunchContext
from muxd.engines.sglang.engine import SGLang, gate_flags, server_flags

from .gpus import ledger_path


class Simulator(SGLang):
    """An engine whose server has SGLang's routes, sleep, wake and ways to end; the server is muxd/simulator."""

    title = "the simulator"

    def command(self, model: Model, context: LaunchContext) -> CommandSpec:
        options, memory = model.engine_options, model.memory
        assert isinstance(options, SimulatorOptions)
        simulation = options.simulation
        config = context.workdir / "server.yaml"
        flags: dict[str, object] = {
            "--import-time": simulation.import_time,
            "--load-time": simulation.load_time,
            "--sleep-time": simulation.sleep_time,
            "--wake-time": simulation.wake_time,
            "--release-lag": simulation.release_lag,
            "--token-rate": simulation.token_rate,
            "--pace": simulation.pace,
            "--batch-slots": simulation.batch_slots,
            "--ledger": ledger_path(context.daemon),
            "--gpus": ",".join(model.gpus),
            "--gpu-memory": context.daemon.simulated_gpu_memory,
            "--weights": memory.weights if memory is not None else 0,
            "--kv": memory.kv if memory is not None else 0,
            "--overhead": memory.overhead if memory is not None else 0,
        }
        argv = [options.python, "-m", "muxd.simulator", "--config", str(config), *server_flags(model, context.port)]
        argv += [*self._half_flags(model, context), *gate_flags(context)]
        for flag, value in flags.items():
            argv += [flag, str(value)]
        for fault in simulation.faults:
            argv += ["--fault", fault]
        files = {config: f"admin-api-key: {context.admin_key}\n"}
        return CommandSpec((*argv, *model.args), files=files, chosen=self._chosen)
