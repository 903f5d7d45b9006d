"""Who may write a folder, a file, the control socket: as far as that can be told without doing it.

Only what is surely wrong is said: whoever checks may be another user than the one who writes, and see less.
"""

import os
from contextlib import suppress
from pathlib import Path
from stat import S_ISDIR, S_ISSOCK, S_ISVTX, S_IWOTH, filemode

from .problems import shown_file
from .schema import Config

# What is in them is the kernel's; root, too, can make nothing there.
_KERNELS = ("/proc", "/sys")


def why_no_logs(folder: Path, state_dir: Path | None) -> str | None:
    """What is wrong with it, and what to do; None where nothing is known to be.

    `state_dir` is the writer's own: whoever it belongs to is taken for him.  Without it, he is somebody else.
    """
    found = _nearest(folder)
    if found is None:
        return None
    place, facts = found
    if not S_ISDIR(facts.st_mode):
        return f"{place} is not a directory; name one that is, or can be made"
    if any(Path(os.path.realpath(place)).is_relative_to(kernels) for kernels in _KERNELS):
        return f"{place} takes no files; name a directory on a disk"
    if state_dir is not None and _is_ours(state_dir) and not _writable(place, there=place == folder):
        return f"{place} cannot be written to; let this user do it, or name another directory"
    return None


def why_no_socket(path: Path, state_dir: Path) -> str | None:
    """What is wrong with the control socket's place, and what to do; None where nothing is known to be.

    Its folder, where it is missing, may be one that systemd makes.
    """
    with suppress(OSError):
        if not S_ISSOCK(path.lstat().st_mode):
            return f"{path} is there and is not a socket; name a path of its own, as muxd.sock in a folder"
    found = _nearest(path.parent)
    if found is None:
        return None
    place, facts = found
    if not S_ISDIR(facts.st_mode):
        return f"{place} is not a directory; name a socket in one"
    if place == path.parent and _is_ours(state_dir) and not _writable(place, there=True):
        return f"{place} cannot be written to; name a socket in a folder of this user, or run muxd as another one"
    return None


def _nearest(path: Path) -> tuple[Path, os.stat_result] | None:
    """It, or the last of those above it that exists; None where we cannot see that."""
    for place in (path, *path.parents):
        try:
            return place, place.stat()
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError:
            break
    return None


def _is_ours(path: Path) -> bool:
    found = _nearest(path)
    return found is not None and found[1].st_uid == os.geteuid()


def _writable(place: Path, *, there: bool) -> bool:
    """A disk that has become read-only since is no fault of the configuration: keys must be revocable all the same."""
    if os.access(place, os.W_OK | os.X_OK, effective_ids=True):
        return True
    return there and bool(os.statvfs(place).f_flag & os.ST_RDONLY)


def writable_by_anybody(config: Config) -> list[str]:
    """What is wrong with the modes of its files, of its scripts and of their folders, and what to do.

    Whoever may write one decides what muxd runs, and who may ask.
    """
    scripts = [Path(m.script.argv[1]) for m in config.models if m.script is not None and m.script.argv]
    files = [*config.files, *scripts]
    told = []
    for path in dict.fromkeys([*files, *(file.parent for file in files)]):
        with suppress(OSError):
            mode = path.stat().st_mode
            if mode & S_IWOTH and not mode & S_ISVTX:
                bad = "in which anybody may replace its files" if S_ISDIR(mode) else "which anybody may write"
                told.append(f"{shown_file(path)}: {filemode(mode)}, {bad}: run: chmod o-w {shown_file(path)}")
    return told
