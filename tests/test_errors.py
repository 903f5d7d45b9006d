"""What people read of an error that the system made."""

import ast
import builtins
import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from muxd.config.folders import why_not_had
from muxd.config.load import load_config
from muxd.config.schema import Daemon
from muxd.daemon import CannotStart, _claim_folders
from muxd.errors import MuxdError, in_words
from tests.unprivileged import closed


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


@pytest.mark.parametrize("thing", [Path.touch, os.mkfifo, lambda path: path.symlink_to("nowhere")])
def test_what_is_in_the_place_of_the_logs_in_muxds_own_folder_makes_way(tmp_path: Path, thing: Callable[[Path], None]):
    file, logs = tmp_path / "muxd.toml", tmp_path / "state/logs"
    logs.parent.mkdir(mode=0o750)
    thing(logs)
    file.write_text(f"[muxd]\nsocket = '{tmp_path}/s'\nstate_dir = './state'\n[models.a]\nengine = 'simulator'\n")
    daemon = load_config(file, {"HOME": str(tmp_path)}).daemon
    os.close(_claim_folders(daemon))
    assert daemon.log_dir == logs
    assert logs.is_dir()
    assert os.path.lexists(tmp_path / "state/logs.unreadable")


def test_an_operators_link_in_the_place_of_the_logs_is_kept(tmp_path: Path):
    (tmp_path / "state").mkdir(mode=0o750)
    (tmp_path / "disk").mkdir()
    (tmp_path / "state/logs").symlink_to(tmp_path / "disk")
    os.close(_claim_folders(Daemon(tmp_path / "socket", tmp_path / "state", tmp_path / "state/logs")))
    assert (tmp_path / "state/logs").is_symlink()


ROOT = Path(__file__).parent.parent
FILES = [path for package in ("muxd", "muxctl") for path in sorted((ROOT / package).rglob("*.py"))]
SYSTEMS = {name for name, what in vars(builtins).items() if isinstance(what, type) and issubclass(what, OSError)}


def shown_raw(text: str) -> Iterator[str]:
    """Where an error that may be the system's is put into a text as Python spells it."""
    for handler in ast.walk(ast.parse(text)):
        if not isinstance(handler, ast.ExceptHandler) or handler.type is None:
            continue
        caught = {node.id for node in ast.walk(handler.type) if isinstance(node, ast.Name)}
        if not caught & {*SYSTEMS, "UNREADABLE"}:
            continue
        for node in ast.walk(handler):
            inside = [node.value] if isinstance(node, ast.FormattedValue) else []
            if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("log."):
                inside = node.args
            if any(isinstance(each, ast.Name) and each.id == handler.name for each in inside):
                yield f"line {node.lineno}: {ast.unparse(node)}"


def test_no_error_of_the_system_is_shown_as_python_spells_it():
    assert [f"{path.relative_to(ROOT)}: {shown}" for path in FILES for shown in shown_raw(path.read_text())] == []


@pytest.mark.parametrize("use", ['f"no: {e}"', 'log.info("no: %s", e)'])
def test_one_that_is_would_be_found(use: str):
    assert list(shown_raw(f"try: f()\nexcept (ValueError, PermissionError) as e: {use}"))


def test_start_and_check_say_the_same_of_a_folder_that_this_user_cannot_have(tmp_path: Path):
    (tmp_path / "logs").mkdir()
    (tmp_path / "state").mkdir()
    with closed(tmp_path / "state", 0o555):
        with pytest.raises(CannotStart) as told:
            _claim_folders(Daemon(tmp_path / "socket", tmp_path / "state", tmp_path / "logs"))
        assert told.value.message == f"muxd cannot start: [muxd] state_dir: {why_not_had(tmp_path / 'state')}"
