"""Which Python runs muxd here, and how it was built: the same code costs more in one without PGO."""

import os
import platform
import sys
import sysconfig


def built() -> str:
    """A line on the interpreter: its version, where it is, and with which of the optimisations that matter."""
    said = str(sysconfig.get_config_var("CONFIG_ARGS") or "")
    flags = " ".join(str(sysconfig.get_config_var(name) or "") for name in ("PY_CFLAGS", "PY_CORE_CFLAGS", "OPT"))
    by_profile = "--enable-optimizations" in said or "-fprofile-use" in flags
    at_link = "--with-lto" in said or "-flto" in flags
    optimised = f"{'with' if by_profile else 'WITHOUT'} PGO, {'with' if at_link else 'without'} LTO"
    if not by_profile and sysconfig.get_config_var("PGO_PROF_USE_FLAG") == "":  # configure always sets it for gcc
        optimised = "by a distribution that does not tell its flags (Debian and Ubuntu: with PGO and LTO)"
    debug = ", a debug build" if hasattr(sys, "gettotalrefcount") else ""
    name = f"{platform.python_implementation()} {platform.python_version()}"
    return f"muxd runs in {name}, {os.path.realpath(sys.executable)}, built {optimised}{debug}"
