"""What somebody types as `muxd`, run in this process: a process of its own takes a tenth of a second and more."""

import sys
from unittest.mock import patch

import pytest

from muxd import __main__


def run_muxd(*words: str) -> int:
    """Run `muxd WORDS` with this process's environment, folder and output; return its exit status."""
    with patch.object(sys, "argv", [__main__.__file__, *words]), pytest.raises(SystemExit) as end:
        __main__.main()
    assert isinstance(end.value.code, int)
    return end.value.code
