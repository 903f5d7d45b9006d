import gc
import os
import signal
import ssl
import sys
from functools import cache

# A shell that runs the tests in the background has SIGINT ignored, and every child would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Hundreds of processes import muxd: without byte code that is kept, each of them compiles all of it (a third of the CPU
# time of the whole suite), and each worker of pytest-xdist rewrites every test's assertions.  Images of containers and
# CI set this variable.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# httpx makes a TLS context for each client, and loads the certificates of all authorities into it: 20 ms of CPU, more
# than the request of most tests, and none of them is sent by TLS.
ssl.create_default_context = cache(ssl.create_default_context)

# Eleven thousand tests are a million objects, which each full collection of garbage would go through, 13 times in 600
# tests: none while they are collected, and from then on they are left out (15.0 -> 10.8 s of CPU for those 600).
gc.disable()


def pytest_collection_finish() -> None:
    """Leave what was collected out of all collections of garbage."""
    gc.collect()
    gc.freeze()
    gc.enable()
