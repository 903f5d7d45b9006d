"""Whether logs can be written to a folder, as far as that can be told without doing it.

Only what is surely wrong is said: whoever checks may be another user than the one who writes, and see less.
"""

import os
from pathlib import Path
from stat import S_ISDIR

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
