"""The simulator: SGLang's calls and probes, with pretend memory and a server of our own."""

import signal
import sys

from muxd.config import Model
from muxd.engines.engine import LaunchContext, LaunchSpec
from muxd.engines.sglang.engine import ENVIRONMENT, SGLang, server_flags


class Simulator(SGLang):
    """An engine whose server has SGLang's routes, sleep, wake and ways to end; the server is muxd/simulator."""

    def launch(self, model: Model, plan: LaunchContext) -> LaunchSpec:
        simulation, memory = model.simulation, model.memory
        config = plan.workdir / "server.yaml"
        flags: dict[str, object] = {
            "--load-time": simulation.load_time,
            "--sleep-time": simulation.sleep_time,
            "--wake-time": simulation.wake_time,
            "--release-lag": simulation.release_lag,
            "--token-rate": simulation.token_rate,
            "--pace": simulation.pace,
            "--batch-slots": simulation.batch_slots,
            "--ledger": plan.simulated_gpu_ledger,
            "--gpus": ",".join(map(str, model.gpus)),
            "--gpu-memory": plan.simulated_gpu_memory,
            "--weights": memory.weights if memory is not None else 0,
            "--kv": memory.kv if memory is not None else 0,
            "--overhead": memory.overhead if memory is not None else 0,
        }
        argv = [sys.executable, "-m", "muxd.simulator", "--config", str(config), *server_flags(model, plan.port)]
        for flag, value in flags.items():
            argv += [flag, str(value)]
        for fault in simulation.faults:
            argv += ["--fault", fault]
        return LaunchSpec(
            argv=(*argv, *model.args),
            env={**ENVIRONMENT, "TMPDIR": str(plan.tmpdir)},
            files={config: f"admin-api-key: {plan.admin_key}\n"},
            stop_signal=signal.SIGINT,
        )
