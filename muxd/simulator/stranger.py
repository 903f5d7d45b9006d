"""A process that is not muxd's and holds memory of a pretend GPU, until it is ended.

python -m muxd.simulator.stranger --ledger STATE_DIR/simulated-gpus.json --gpu 0 --memory 12884901888
"""

import argparse
import os
import signal
from pathlib import Path

from .gpu_ledger import GpuLedger, start_time


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--ledger", type=Path, required=True, help="the host's file of pretend GPU memory")
    parser.add_argument("--gpu", default="0")
    parser.add_argument("--memory", type=int, required=True, help="bytes to hold")
    parser.add_argument("--gpu-memory", type=int, default=80 << 30, help="bytes of each GPU")
    options = parser.parse_args()
    pid = os.getpid()
    GpuLedger(options.ledger, options.gpu_memory).hold(pid, start_time(pid) or 0, options.gpu, options.memory)
    print(f"holds {options.memory} bytes of GPU {options.gpu}", flush=True)
    signal.pause()


if __name__ == "__main__":
    main()
