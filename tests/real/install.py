"""Install real SGLang on CPU torch, with two tiny models, for the tests beside this file.

    python tests/real/install.py [DIR]

DIR defaults to $MUXD_REAL_SGLANG, else to .sglang-cpu in the project.  Downloads about 380 MB, takes
1.8 GB of disk and a few minutes; what is done already is not done again.

torch must be a CPU build.  Where pip by itself would choose a CUDA build, set MUXD_TORCH_INDEX to the
package index of CPU wheels that the PyTorch project names in its installation guide.

Exit status: 0 installed; 1 failed; 2 wrong usage; 3 this machine lacks what is needed, listed on stderr.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))  # run as a program, by a Python that has nothing of the project

from tests.real import mooncake  # noqa: E402
from tests.real.installation import GB, MODELS, Installation, Step, main, make_environment, refuse_cuda_torch  # noqa: E402

DEFAULT = HERE.parents[1] / ".sglang-cpu"
STAND_INS = ("sgl_kernel", "torch_memory_saver", "triton")


class SGLangInstallation(Installation):
    what = "SGLang"
    disk_needed = 3 * GB
    memory_needed = 6 * GB

    def steps(self) -> tuple[Step, ...]:
        stand_ins = tuple(HERE / "stand_ins" / name / "__init__.py" for name in STAND_INS)
        requirements = tuple(HERE / f"{name}.txt" for name in ("requirements", "requirements-nodeps", "constraints"))
        return (
            Step("environment", (), make_environment, also=str(self.folder)),
            Step("packages", requirements, install_packages),
            Step("stand-ins", stand_ins, install_stand_ins),
            MODELS,
        )

    def add_extras(self) -> None:
        mooncake.install(self.python, self.folder / "mooncake")


def install_packages(target: Installation) -> None:
    refuse_cuda_torch(target)
    quiet = ("install", "-qq", "--progress-bar", "off")
    target.pip(*quiet, "--requirement", str(HERE / "requirements.txt"), "--constraint", str(HERE / "constraints.txt"))
    target.pip(*quiet, "--no-deps", "--requirement", str(HERE / "requirements-nodeps.txt"))


def install_stand_ins(target: Installation) -> None:
    site = target.site_packages()
    for name in STAND_INS:
        shutil.rmtree(site / name, ignore_errors=True)
        shutil.copytree(HERE / "stand_ins" / name, site / name, ignore=shutil.ignore_patterns("__pycache__"))
    patch_torchvision(target)


def patch_torchvision(target: Installation) -> None:
    """A CUDA torchvision cannot load its compiled operators here; SGLang needs its Python transforms only."""
    if subprocess.run([target.python, "-c", "import torchvision"], capture_output=True).returncode != 0:
        (target.site_packages() / "torchvision" / "_meta_registrations.py").write_text("")
        subprocess.run([target.python, "-c", "import torchvision"], check=True)


if __name__ == "__main__":
    sys.exit(main(SGLangInstallation, __doc__, os.environ.get("MUXD_REAL_SGLANG") or DEFAULT))
