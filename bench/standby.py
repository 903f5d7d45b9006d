"""What a start from standby takes beside one from nothing: from a request to the first token of its answer.

    python bench/standby.py [--quick] [--real] [runs]

One model of sleep level 3 is put to sleep and asked again and again, by turns with `standby = false`, when a request
launches its server from nothing, and with `standby = true`, when the server waits at its gate before the request comes.
Without --real it is a simulator that imports for 3 s and loads for 0.5 s; with --real a real SGLang on the CPU (see
tests/real).  The first start is thrown away: it reads modules from disk.
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

from figures import Figure, show
from muxd_process import MuxdProcess, running_muxd, until

SIMULATED = """\
[models.a]
engine = "simulator"
sleep_level = 3
simulation = { import_time = "3s", load_time = "500ms" }
standby = false
"""

REAL = """\
[models.a]
model_path = "{home}/models/tiny-a"
python = "{home}/venv/bin/python"
args = {args}
env = {env}
sleep_level = 3
standby = false
"""

#: What a start from standby may take of one from nothing.
GOAL = 0.35


def real_model() -> str:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from tests.real.install import DEFAULT
    from tests.real.sglang_cpu import CPU_ARGS, CPU_ENV

    home = Path(os.environ.get("MUXD_REAL_SGLANG", DEFAULT)).absolute()
    env = "{ " + ", ".join(f'{key} = "{value}"' for key, value in CPU_ENV.items()) + " }"
    return REAL.format(home=home, args=list(CPU_ARGS), env=env)


def muxctl(muxd: MuxdProcess, *words: str) -> None:
    subprocess.run([sys.executable, "-m", "muxctl", "--socket", str(muxd.socket), *words], check=True, stdout=2)


def first_token(muxd: MuxdProcess, *, standby: bool) -> float:
    """Return the seconds from a request to the first token of its answer, of a model that is not loaded.

    Comments in the stream, by which the proxy says how it goes, are no token.
    """
    config = muxd.folder / "muxd.toml"
    before, _, _ = config.read_text().rpartition("standby = ")
    config.write_text(f"{before}standby = {str(standby).lower()}\n")
    muxctl(muxd, "reload")
    muxctl(muxd, "sleep", "a")

    def rests() -> bool:
        (model,) = muxd.status()["models"]
        return model["state"] == ("standby" if standby else "unloaded") and "on its way" not in (model["next"] or "")

    until(rests, 300)
    began = time.monotonic()
    took = [
        time.monotonic() - began for line in muxd.stream("a", max_tokens=1, stream=True) if line.startswith(b"data:")
    ]
    return took[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="only to see that it works")
    parser.add_argument("--real", action="store_true", help="SGLang on the CPU, in $MUXD_REAL_SGLANG or .sglang-cpu")
    parser.add_argument("runs", nargs="?", type=int, default=3)
    options = parser.parse_args()
    cold: list[float] = []
    waited: list[float] = []
    with running_muxd(real_model() if options.real else SIMULATED) as muxd:
        muxd.ask("a", max_tokens=1)
        for _ in range(1 if options.quick else options.runs):
            for seconds, standby in ((cold, False), (waited, True)):
                seconds.append(first_token(muxd, standby=standby))
                print(f"{'from standby' if standby else 'from nothing'}: {seconds[-1]:.2f} s", file=sys.stderr)
    figures = [Figure("from nothing", cold, "s"), Figure("from standby", waited, "s")]
    show(f"{'real SGLang on a CPU' if options.real else 'simulated'}, request to first token", figures)
    ratio = figures[1].median / figures[0].median
    print(f"\nfrom standby / from nothing: {ratio:.2f} (goal: {GOAL}){'' if ratio <= GOAL else ' missed'}")


if __name__ == "__main__":
    main()
