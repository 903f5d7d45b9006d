import fcntl
import gc
import os
import signal
import ssl
import sys
from collections.abc import Generator
from functools import cache

import pytest

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


@pytest.hookimpl(wrapper=True)
def pytest_collection(session: pytest.Session) -> Generator[None, object, object]:
    """Leave the tests out of all collections of garbage, and let one worker of pytest-xdist collect before the others.

    Ten thousand tests are a million objects.  Each full collection of garbage would go through them all, 13 times in
    600 tests: 15.0 s of CPU, and 10.8 without.  What is garbage by then stays: some MB, and to find it takes 0.3 s in
    every process.

    In a fresh clone the first worker compiles the tests and muxd, and the others read what it has kept; eight at once
    would each compile all of it: 56 s of CPU until the first test, and 23 so.
    """
    gc.disable()
    try:
        with open(__file__) as first:
            if hasattr(session.config, "workerinput"):
                try:
                    fcntl.flock(first, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    fcntl.flock(first, fcntl.LOCK_SH)
            return (yield)
    finally:
        gc.freeze()
        gc.enable()
