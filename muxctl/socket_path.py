"""Find the socket that muxd listens on, and say why it cannot be reached."""

import os
import stat
from collections.abc import Mapping

from muxctl.exit_codes import CommandFailed, ExitCode

SYSTEM_SOCKET = "/run/muxd/muxd.sock"

_DEMO = "muxd-demo-"  # prefix of a demo's folder, see muxd/demo.py


def candidates(environ: Mapping[str, str]) -> list[str]:
    """Return the sockets on which a muxd of this user or of the system would listen, the likeliest first."""
    found = [SYSTEM_SOCKET, os.path.expanduser("~/.local/state/muxd/muxd.sock")]
    if runtime := environ.get("XDG_RUNTIME_DIR"):
        found.insert(0, f"{runtime}/muxd/muxd.sock")
    return found


def find_socket(explicit: str | None, environ: Mapping[str, str] = os.environ) -> str:
    """Return --socket, else MUXD_SOCKET, else the first candidate that exists, else a demo's.  Raises CommandFailed."""
    if named := explicit or environ.get("MUXD_SOCKET"):
        return named
    tried = candidates(environ)
    for path in tried:
        if _exists(path):
            return path
    if demos := _demos(environ.get("TMPDIR") or "/tmp"):
        if len(demos) > 1:
            raise CommandFailed(
                f"several demos of muxd run: choose one with --socket: {', '.join(demos)}", ExitCode.UNREACHABLE
            )
        return demos[0]
    raise not_running(tried)


def _demos(folder: str) -> list[str]:
    """Return the answering sockets of this user's `muxd start --demo`; folders of other users are ignored."""
    found = []
    try:
        for entry in os.scandir(folder):
            if entry.name.startswith(_DEMO) and entry.stat(follow_symlinks=False).st_uid == os.geteuid():
                found.append(f"{entry.path}/muxd.sock")
    except OSError:
        return []
    return sorted(filter(_answers, found))


def _answers(path: str) -> bool:
    import socket

    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except BlockingIOError:  # its queue of connections is full
            return True
        except OSError:
            return False
    return True


def _exists(path: str) -> bool:
    """Say whether the path exists or may exist; a directory without permission is reported later, on connecting."""
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return True


def not_running(tried: list[str]) -> CommandFailed:
    """Return the failure for sockets that do not exist."""
    return CommandFailed(
        f"muxd is not running: no socket at {', '.join(tried)}; "
        "start it with muxd start, or name its socket with --socket or MUXD_SOCKET",
        ExitCode.UNREACHABLE,
    )


def unreachable(path: str, error: OSError) -> CommandFailed:
    """Return the failure, with its remedy, for a connect(2) that failed."""
    match error:
        case FileNotFoundError() | NotADirectoryError():
            return not_running([path])
        case ConnectionRefusedError() if not _is_socket(path):
            return CommandFailed(
                f"{path} is not a socket: name muxd's with --socket or MUXD_SOCKET", ExitCode.UNREACHABLE
            )
        case ConnectionRefusedError():
            return CommandFailed(
                f"stale socket {path}: muxd died; start it again and it replaces the socket", ExitCode.UNREACHABLE
            )
        case PermissionError():
            return CommandFailed(f"no permission for {path}: {_access_advice(path)}", ExitCode.PERMISSION)
        case BlockingIOError():
            why = "more connect to it than it has accepted in all this time"
            return CommandFailed(f"cannot reach muxd at {path}: {why}; try again", ExitCode.UNREACHABLE)
        case OSError(errno=None) if len(os.fsencode(path)) > 107:
            return CommandFailed(
                f"no socket can be at {path}: a socket's path has at most 107 bytes; name muxd's with --socket or "
                "MUXD_SOCKET",
                ExitCode.UNREACHABLE,
            )
        case _:
            return CommandFailed(f"cannot reach muxd at {path}: {error.strerror or error}", ExitCode.UNREACHABLE)


def _is_socket(path: str) -> bool:
    try:
        return stat.S_ISSOCK(os.stat(path).st_mode)
    except OSError:
        return False


def _access_advice(path: str) -> str:
    """Return advice for a socket that this user may not use.

    It names the group that has access to the first of folder and socket that refuses this user.
    """
    import grp

    for step in (os.path.dirname(path) or ".", path):
        try:
            found = os.stat(step)
        except OSError:
            continue
        wanted = os.X_OK if stat.S_ISDIR(found.st_mode) else os.W_OK
        if os.access(step, wanted, effective_ids=True):
            continue
        needed = stat.S_IXGRP if stat.S_ISDIR(found.st_mode) else stat.S_IWGRP
        if found.st_mode & needed and found.st_gid != 0:
            try:
                name = grp.getgrgid(found.st_gid).gr_name
            except KeyError:
                name = str(found.st_gid)
            return f"add yourself to group {name} (usermod -aG {name} USER, then log in again), or use sudo"
    return "use sudo, or set admin_group in muxd.toml to a group of yours"
