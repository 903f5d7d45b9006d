"""What people read of an error that the system made."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from muxd.config.schema import Daemon
from muxd.daemon import CannotStart, _claim_folders
from muxd.errors import MuxdError, in_words


def an_error(number: int, *names: object) -> OSError:
    first, second = (*names, None, None)[:2]
    return OSError(number, os.strerror(number), first, None, second)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (an_error(errno.ENOSPC), "no space left on device"),
        (an_error(errno.EACCES, "/a/b"), "/a/b: permission denied"),
        (an_error(errno.EIO, b"/a/\xff"), "/a/\udcff: input/output error"),
        (an_error(errno.EXDEV, "/a", "/b"), "/a -> /b: invalid cross-device link"),
        (an_error(errno.EBADF, 3), "bad file descriptor"),
        (OSError("timed out"), "timed out"),
        (ValueError("Odd"), "Odd"),
        (MuxdError("No"), "No"),
    ],
)
def test_an_error_of_the_system_is_told_without_its_number(error, words):
    assert in_words(error) == words


@pytest.mark.parametrize("key", ["state_dir", "log_dir"])
@pytest.mark.parametrize(
    ("place", "said"),
    [
        (lambda tmp: tmp / "file", "{tmp}/file is not a folder; name another one"),
        (lambda tmp: tmp / "file/below", "{tmp}/file/below is not a folder; name another one"),
        (lambda tmp: tmp / ("x" * 300), "file name too long; correct the path, or give"),
    ],
)
def test_a_folder_that_cannot_be_is_told_with_its_key(
    tmp_path: Path, key: str, place: Callable[[Path], Path], said: str
):
    (tmp_path / "file").write_text("")
    folders = {"state_dir": tmp_path / "state", "log_dir": tmp_path / "logs", key: place(tmp_path)}
    with pytest.raises(CannotStart) as told:
        _claim_folders(Daemon(tmp_path / "socket", **folders))
    assert told.value.message.startswith(f"muxd cannot start: [muxd] {key}: ")
    assert said.format(tmp=tmp_path) in told.value.message
    assert "Errno" not in told.value.message
