"""Checks of folders, files and the control socket's place: whether muxd will be able to write there, without writing.

Only what is surely wrong is reported: `muxd check` may run as another user than muxd, and see less.
"""

import os
from collections.abc import Sequence
from contextlib import suppress
from grp import getgrgid
from pathlib import Path
from pwd import getpwuid
from stat import S_ISDIR, S_ISSOCK, S_ISVTX, S_IWGRP, S_IWOTH, filemode

from .problems import shown_file
from .schema import Config
from .sources import why_unreadable

# File systems of the kernel, in which not even root can make a file.
_KERNELS = ("/proc", "/sys")


def why_no_logs(folder: Path, state_dir: Path | None) -> str | None:
    """Return what is wrong with a folder for logs or state, with advice; None where nothing is known to be wrong.

    The owner of `state_dir` is taken for the user who will write: permissions are only judged where that is the user of
    this process.  Without `state_dir` another user writes, and permissions are not judged.
    """
    found = _nearest_existing(folder)
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
    """Return what is wrong with the control socket's place, with advice; None where nothing is known to be wrong.

    A missing folder is not reported: systemd may make it.
    """
    with suppress(OSError):
        if not S_ISSOCK(path.lstat().st_mode):
            return f"{path} is there and is not a socket; name a path of its own, as muxd.sock in a folder"
    found = _nearest_existing(path.parent)
    if found is None:
        return None
    place, facts = found
    if not S_ISDIR(facts.st_mode):
        return f"{place} is not a directory; name a socket in one"
    if place == path.parent and _is_ours(state_dir) and not _writable(place, there=True):
        return f"{place} cannot be written to; name a socket in a folder of this user, or run muxd as another one"
    return None


def why_not_had(folder: Path) -> str | None:
    """Return why the user of this process cannot have a folder to write in, with advice; None where it is so.

    A missing folder may be made; muxd itself makes those that are missing above, too.
    """
    shown, user = shown_file(folder), f"user {_user_name(os.geteuid())}"
    for place in (folder, *folder.parents):
        try:
            facts = place.stat()
        except FileNotFoundError:
            if os.path.islink(place):
                return f"{place} is a link to {os.readlink(place)}, which is not there: make that, or name another one"
        except NotADirectoryError:
            continue
        except OSError as error:
            return f"{shown} {why_unreadable(place, error)}"
        else:
            if not S_ISDIR(facts.st_mode) or _writable(place, there=place == folder):
                return None
            if place != folder:
                advice = "make it for muxd's user, or name another one"
                return f"{shown} is not there, and {user} cannot make it in {place}: {advice}"
            owner = _user_name(facts.st_uid)
            advice = f"run this as {owner}, give it to muxd's user (chown), or name another one"
            return f"{shown}: {filemode(facts.st_mode)} {owner}, in which {user} cannot write: {advice}"
    return None


def _nearest_existing(path: Path) -> tuple[Path, os.stat_result] | None:
    """Return `path`, or the nearest folder above it that exists, with its stat; None where this user cannot look."""
    for place in (path, *path.parents):
        try:
            return place, place.stat()
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError:
            break
    return None


def _is_ours(path: Path) -> bool:
    found = _nearest_existing(path)
    return found is not None and found[1].st_uid == os.geteuid()


def _writable(place: Path, *, there: bool) -> bool:
    """Say whether this user may write in the folder `place`.

    With `there`, `place` is the wanted folder itself, and a read-only disk counts as writable: a disk that has become
    read-only is no fault of the configuration, which muxd must still be able to read when a key is revoked.
    """
    if os.access(place, os.W_OK | os.X_OK, effective_ids=True):
        return True
    return there and bool(os.statvfs(place).f_flag & os.ST_RDONLY)


def writable_by_others(config: Config) -> list[str]:
    """Return a remark, with advice, for each file or folder of the configuration that another user may write.

    Whoever can write the configuration's files, its launch scripts or their folders decides what muxd runs, and which
    API keys are good.  A folder with the sticky bit, such as /tmp, is left out: files of others are safe in it.

    Owners and groups are judged by root alone, for any other user may be looking at the files of muxd's user; those of
    launch scripts are not judged, as a script may well be kept by the one whose model it serves.
    """
    scripts = [Path(m.script.argv[1]) for m in config.models if m.script is not None and m.script.argv]
    own = _with_folders(config.files)
    users, groups = _trusted(config.daemon.state_dir)
    told = []
    for path in dict.fromkeys([*config.files, *scripts, *own, *_with_folders(scripts)]):
        with suppress(OSError):
            facts = path.stat()
            judged = os.geteuid() == 0 and path in own
            is_folder, shown, mode = S_ISDIR(facts.st_mode), shown_file(path), filemode(facts.st_mode)
            may = "in which {} may replace its files" if is_folder else "which {} may write"
            if judged and facts.st_uid not in users:
                owner = f"its owner, user {_user_name(facts.st_uid)},"
                told.append(f"{shown}: {mode}, {may.format(owner)}: run: chown root {shown}")
            if facts.st_mode & S_ISVTX:
                continue
            if judged and facts.st_mode & S_IWGRP and facts.st_gid not in groups:
                group = f"group {_group_name(facts.st_gid)}"
                told.append(f"{shown}: {mode}, {may.format(group)}: run: chmod g-w {shown}")
            if facts.st_mode & S_IWOTH:
                told.append(f"{shown}: {mode}, {may.format('anybody')}: run: chmod o-w {shown}")
    return told


def _with_folders(files: Sequence[Path]) -> dict[Path, None]:
    return dict.fromkeys([*files, *(file.parent for file in files)])


def _trusted(state_dir: Path) -> tuple[set[int], set[int]]:
    """Return the users who may write the configuration, root and muxd's own, and their groups.

    The owner of `state_dir` counts as muxd's user too, for root may check the files of a muxd that has its own user.
    """
    users = {0, os.geteuid()}
    with suppress(OSError):
        users.add(state_dir.stat().st_uid)
    groups = {0, os.getegid()}
    for user in users:
        with suppress(KeyError):
            groups.add(getpwuid(user).pw_gid)
    return users, groups


def _user_name(number: int) -> str:
    with suppress(KeyError):  # a container's user may have no name
        return getpwuid(number).pw_name
    return str(number)


def _group_name(number: int) -> str:
    with suppress(KeyError):
        return getgrgid(number).gr_name
    return str(number)
