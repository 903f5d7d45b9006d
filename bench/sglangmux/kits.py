"""What `python -m sglang.launch_server` is, in a launch script: SGLang simulated, or SGLang on the CPU."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]

#: Twins: the GPU holds one of them.  Times in seconds, rates per second, sizes in bytes.
SIMULATED = (
    "--load-time 0.3 --sleep-time 0.02 --wake-time 0.05 --token-rate 200 --pace 0.02 "
    "--gpu-memory 80000 --weights 40000 --kv 20000"
)

#: First on PATH.  Its arguments are `-m sglang.launch_server` and flags.
SIMULATED_PYTHON = """\
#!/bin/sh
shift 2
export PYTHONPATH='{root}' WIRE='{folder}/wire'
exec '{python}' -m bench.sglangmux.worker {simulated} --ledger '{folder}/gpus' "$@"
"""

REAL_PYTHON = """\
#!/bin/sh
unset PYTHONPATH
export {env}
exec '{home}/venv/bin/python' "$@" {args}
"""


@dataclass(frozen=True, slots=True)
class Kit:
    """`alpha` and `beta` are names for which SGLang finds weights; `start` is the seconds that one may take to load."""

    python: str
    alpha: str
    beta: str
    simulated: bool
    start: int

    def install(self, folder: Path) -> Path:
        """Where `python` is now; the folder is for what servers write, too."""
        path = folder / "bin/python"
        path.parent.mkdir()
        path.write_text(self.python.format(root=ROOT, folder=folder, python=sys.executable, simulated=SIMULATED))
        path.chmod(0o755)
        return path

    def flags(self, text: str) -> str:
        """Flags that only the simulator has."""
        return text if self.simulated else ""


SIMULATION = Kit(SIMULATED_PYTHON, "org/alpha", "org/beta", simulated=True, start=30)


def real() -> Kit:
    """As `make real-sglang` has installed it.  Its models' names are paths: sglangmux reloads from the name."""
    from tests.real.install import DEFAULT
    from tests.real.sglang_cpu import CPU_ARGS, CPU_ENV

    home = Path(os.environ.get("MUXD_REAL_SGLANG") or DEFAULT).absolute()
    env = " ".join(f"{name}={value}" for name, value in CPU_ENV.items())
    python = REAL_PYTHON.format(env=env, home=home, args=" ".join(CPU_ARGS))
    return Kit(python, f"{home}/models/tiny-a", f"{home}/models/tiny-b", simulated=False, start=300)
