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
