"""Mooncake, by which SGLang's halves pass a KV cache on: installed beside SGLang where that can be done.

Its build without CUDA is linked against the libraries of InfiniBand, though it speaks TCP here.  Where the system lacks
them they are taken out of Debian's packages, into the folder and not into the system.
"""

import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

WHEEL = "mooncake-transfer-engine-non-cuda==0.3.13.post1"
LIBRARIES = ("libibverbs1", "libnl-3-200", "libnl-route-3-200")


def environment(folder: Path) -> dict[str, str]:
    """Return the variables by which a Python finds what `install` has put into a folder."""
    return {"PYTHONPATH": str(folder), "LD_LIBRARY_PATH": str(folder / "lib")}


def install(python: Path, folder: Path) -> None:
    """Install it for an interpreter; say why where that cannot be done."""
    if folder.exists():
        return
    draft = folder.with_suffix(".new")
    shutil.rmtree(draft, ignore_errors=True)
    try:
        pip = (python, "-m", "pip", "--disable-pip-version-check", "install", "-qq", "--no-deps")
        run(*pip, "--target", draft, WHEEL)
        (draft / "lib").mkdir()
        with TemporaryDirectory() as packages:
            run("apt-get", "download", *LIBRARIES, cwd=packages)
            for package in Path(packages).glob("*.deb"):
                run("dpkg", "-x", package, packages)
            for library in Path(packages).rglob("lib/x86_64-linux-gnu/*.so.*"):
                shutil.copy(library, draft / "lib")
        draft.rename(folder)
    except (OSError, subprocess.CalledProcessError) as error:
        said = getattr(error, "stderr", None) or error
        print(f"mooncake cannot be installed; tests of prefill and decode are skipped: {said}", file=sys.stderr)


def run(*argv: str | Path, cwd: str | None = None) -> None:
    subprocess.run(argv, check=True, capture_output=True, text=True, cwd=cwd)
