"""Where servers keep what they compile: one folder for all of them, kept over their restarts and muxd's.

A kernel is compiled once on a host, and not with every start.  Without this, Inductor's would be lost with each server,
as they are kept in TMPDIR, which is the server's own.  Every library names what it keeps by its own version, by the
GPU and by what was compiled, so that models and versions of engines may share a folder.
"""

import logging
from collections.abc import Mapping
from pathlib import Path

from muxd.errors import in_words
from muxd.own_files import make_folder

log = logging.getLogger(__name__)

#: The folder within `cache_dir`.
KERNELS = "kernels"

#: What libraries read, whatever engine uses them, and the folder of each.  The names are those of triton/knobs.py,
#: torch/_inductor/runtime/cache_dir_utils.py, flashinfer/jit/env.py (which adds .cache/flashinfer), DeepGEMM, the CUDA
#: driver and TileLang.
LIBRARIES = {
    "TRITON_CACHE_DIR": "triton",
    "TORCHINDUCTOR_CACHE_DIR": "inductor",
    "FLASHINFER_WORKSPACE_BASE": "flashinfer",
    "DG_JIT_CACHE_DIR": "deep_gemm",
    "CUDA_CACHE_PATH": "cuda",
    "TILELANG_CACHE_DIR": "tilelang",
}

#: A model's `env` may move all caches with it.
_ROOT_OF_ALL = "XDG_CACHE_HOME"


def with_kernel_caches(
    env: Mapping[str, str], cache_dir: Path | None, own: Mapping[str, str], said: Mapping[str, str]
) -> dict[str, str]:
    """Return `env` with the places of the caches, as far as nothing in it says where they are.

    `own`: the variables of the server's engine, with the folder of each.  Where the user has set one of these, or
    XDG_CACHE_HOME in `said`, the model's own environment, that is a root for everything, and nothing is added.  Nor is
    anything where the folder cannot be had, which is logged: the servers keep their caches where they would by
    themselves.
    """
    if cache_dir is None or _ROOT_OF_ALL in said or not env.keys().isdisjoint(own):
        return dict(env)
    root = cache_dir / KERNELS
    try:
        cache_dir.mkdir(mode=0o750, parents=True, exist_ok=True)
        make_folder(root)
    except OSError as error:
        hint = "give muxd's user the right to it, or name another one as [muxd] cache_dir"
        log.warning("what servers compile is not kept in %s: %s; %s", root, in_words(error), hint)
        return dict(env)
    return {**{name: str(root / folder) for name, folder in {**LIBRARIES, **own}.items()}, **env}
