import os
import signal
import sys

# A shell that runs the tests in the background has SIGINT ignored, and every child would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Hundreds of processes import muxd: without byte code that is kept, each of them compiles all of it (a third of the CPU
# time of the whole suite), and each worker of pytest-xdist rewrites every test's assertions.  Images of containers and
# CI set this variable.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
