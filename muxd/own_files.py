"""The files in muxd's own folders: muxd does not trust them, and no bad file keeps muxd from starting.

A file that cannot be used is renamed, and the log says so.  Symbolic links are not followed.  A
folder that another user may write is refused, because that user could have muxd write or delete
any file by planting one there.
"""

import logging
import os
import stat
from contextlib import suppress
from itertools import count
from pathlib import Path

import msgspec

from .errors import MuxdError, in_words

log = logging.getLogger(__name__)

#: Bytes of the longest file that is read; the state of a thousand models has 1 MB.
LONGEST = 64 << 20

#: Errors of reading and decoding a file of unknown content: not UTF-8, not JSON, too deep, of another shape.
UNREADABLE = (OSError, ValueError, RecursionError, msgspec.MsgspecError)


class CannotStart(MuxdError):
    code = "cannot_start"


def read(path: Path | str) -> bytes:
    """Return a regular file's content; raises one of UNREADABLE.  Never waits, as opening a FIFO would."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(fd, "rb") as file:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            raise ValueError("it is not a file")
        if found.st_size > LONGEST:
            raise ValueError(f"it has {found.st_size} bytes")
        return file.read(found.st_size)  # not more: Python takes as much memory as is asked for


def write(path: Path, data: bytes) -> None:
    """Replace a file whole and atomically, with mode 0600; raises OSError.

    It takes four system calls: a thread may have to wait before and after each until the loop lets it go on.
    """
    fresh = path.with_suffix(".new")
    flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        fd = os.open(fresh, flags | os.O_EXCL, 0o600)
    except FileExistsError:  # of a muxd that was killed, or not muxd's at all
        make_way(fresh)
        fd = os.open(fresh, flags | os.O_TRUNC, 0o600)
    try:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(fd, rest) :]
    finally:
        os.close(fd)
    os.replace(fresh, path)


def put_aside(path: Path, why: str | Exception) -> None:
    """Rename a file to NAME.unreadable, replacing an older one, and log that; a file that cannot be renamed stays."""
    why = " ".join((why if isinstance(why, str) else in_words(why)).split())  # sqlite's have several lines
    aside = path.with_suffix(".unreadable")
    for number in count(1):
        try:
            os.replace(path, aside)
        except OSError as error:  # such as a folder of that name
            if number > 100:
                log.error("%s cannot be used (%s) nor put aside: %s", path, why, in_words(error))
                return
            aside = path.with_suffix(f".unreadable-{number}")
        else:
            log.error("%s cannot be used (%s): put aside as %s, which muxd does not need", path, why, aside.name)
            return


def make_way(path: Path) -> None:
    """Prepare a path for opening a file: put aside what is no regular file, and make a file of this user's writable."""
    with suppress(FileNotFoundError):
        found = path.lstat()
        if not stat.S_ISREG(found.st_mode):
            put_aside(path, "it is not a file")
        elif found.st_uid == os.geteuid() and found.st_mode & 0o600 != 0o600:
            path.chmod(0o600)


def clear_folders_place(path: Path) -> None:
    """Put aside what is at the path of a folder of muxd's and is none; a link to a folder is the operator's."""
    if os.path.lexists(path) and not os.path.isdir(path):
        put_aside(path, "it is not a folder")


def make_folder(path: Path) -> None:
    """Make a folder with mode 0700 in one of muxd's, and put aside anything else at this path.  Raises OSError."""
    with suppress(FileNotFoundError):
        if not stat.S_ISDIR(path.lstat().st_mode):
            put_aside(path, "it is not a folder")
    path.mkdir(mode=0o700, exist_ok=True)
    if stat.S_IMODE(path.stat().st_mode) != 0o700:  # a read-only disk allows no chmod, and needs none
        path.chmod(0o700)


def claim_folder(path: Path, setting: str, others_may: int) -> None:
    """Make a folder where it is missing, and check that no other user can write in it.

    `setting` names the key of [muxd] for errors.  `others_may` has the bits of 0o022 that the folder's mode may have.
    Raises CannotStart for a folder that cannot be made, that another user owns, or that another user may write.
    """
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o750)
    except (FileExistsError, NotADirectoryError) as error:
        hint = "name another one, or move what is there"
        raise CannotStart(f"muxd cannot start: [muxd] {setting}: {error.filename} is not a folder; {hint}") from None
    except OSError as error:
        hint = "correct the path, or give muxd's user the right to it"
        raise CannotStart(f"muxd cannot start: [muxd] {setting}: {in_words(error)}; {hint}") from None
    found = path.stat()
    if found.st_uid not in (0, os.geteuid()):
        raise CannotStart(
            f"muxd cannot start: {path} belongs to user {found.st_uid}, who could have muxd write and delete what he "
            f"wants: chown it to the user that muxd runs as, or choose another [muxd] {setting}"
        )
    if why := why_too_open(path, found.st_mode, setting, others_may):
        raise CannotStart(f"muxd cannot start: {why}")


def why_too_open(path: Path, mode: int, setting: str, others_may: int) -> str:
    """Return who else may write in a folder of muxd's and what to do about it, or "" where nobody may."""
    if not stat.S_IMODE(mode) & 0o022 & ~others_may:
        return ""
    who = "other users" if mode & 0o002 else "its group"
    return (
        f"{who} may write in {path}, and so have muxd write and delete what they want: "
        f"`chmod go-w {path}`, after a look at what is in it, or choose another [muxd] {setting}"
    )
