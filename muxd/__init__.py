"""muxd: many models on one GPU host behind one OpenAI-compatible endpoint."""

import sys

__version__ = "0.1.0"

# Where click is installed, as it is beside sglang-router, httpx imports its own command line, and with it click, rich
# and pygments: 60 ms that muxd has no use for.  None makes that import fail, which httpx takes as "not installed".
sys.modules.setdefault("httpx._main", None)  # type: ignore[arg-type]
