"""Permissions as a user meets them who is not root, whoever runs the tests."""

import os
from contextlib import contextmanager
from pathlib import Path

# What commands import late has to be here before: that user may not be able to read this Python's library.
import muxd.check.verb
import muxd.daemon  # noqa: F401

NOBODY = 65534


@contextmanager
def unprivileged(tmp_path):
    """Be a user who is not root, but may enter `tmp_path`."""
    if os.geteuid() != 0:
        yield
        return
    for folder in (tmp_path, *tmp_path.parents[:-2]):
        folder.chmod(folder.stat().st_mode | 0o055)
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@contextmanager
def closed(path: Path, mode: int = 0):
    """Give a file or folder this mode, and be a user who is not root."""
    before = path.stat().st_mode
    path.chmod(mode)
    try:
        with unprivileged(path.parent):
            yield
    finally:
        path.chmod(before)
