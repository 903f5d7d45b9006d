"""Install llama.cpp's own server for a CPU, with two tiny models, for the tests beside this file.

    python tests/real/openai/install.py [DIR]

DIR defaults to $MUXD_REAL_OPENAI, else to .llama-cpu in the project.  Downloads about 55 MB, takes 250 MB of disk and
some seconds; what is done already is not done again.  llama.cpp stands for any server of OpenAI's API that is neither
SGLang nor vLLM; it comes as the package xllamacpp, which has llama.cpp's server built in.

Exit status: 0 installed; 1 failed; 2 wrong usage; 3 this machine lacks what is needed, listed on stderr.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[2]))  # run as a program, by a Python that has nothing of the project

from tests.real.installation import (  # noqa: E402
    GB,
    TINY,
    Fail,
    Installation,
    Missing,
    Step,
    last_line,
    main,
    make_environment,
)

DEFAULT = HERE.parents[2] / ".llama-cpu"


class LlamaInstallation(Installation):
    what = "llama.cpp's server"
    disk_needed = 1 * GB
    memory_needed = 1 * GB

    def steps(self) -> tuple[Step, ...]:
        return (
            Step("environment", (), make_environment, also=str(self.folder)),
            Step("packages", (HERE / "requirements.txt",), install_packages),
            Step("models", (HERE / "tiny_gguf.py",), make_models, also=json.dumps(TINY)),
        )


def install_packages(target: Installation) -> None:
    quiet = ("install", "-qq", "--progress-bar", "off", "--no-deps", "--only-binary", ":all:")
    try:
        target.pip(*quiet, "--requirement", str(HERE / "requirements.txt"), capture_output=True)
    except Fail as failed:
        raise Missing(f"the packages of requirements.txt: {last_line(failed.stderr)}") from failed


def make_models(target: Installation) -> None:
    folder = target.folder / "models"
    folder.mkdir(exist_ok=True)
    for name, seed in TINY.items():
        command = [target.python, HERE / "tiny_gguf.py", folder / f"{name}.gguf", str(seed)]
        subprocess.run(command, check=True, capture_output=True, text=True)


if __name__ == "__main__":
    sys.exit(main(LlamaInstallation, __doc__, os.environ.get("MUXD_REAL_OPENAI") or DEFAULT))
