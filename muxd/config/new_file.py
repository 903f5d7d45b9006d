"""Writing of a new configuration file: whole or not at all, and never over another file without `--force`."""

import os
from contextlib import suppress
from pathlib import Path
from tempfile import mkstemp

from muxd.config.problems import shown_file
from muxd.errors import ConfigError, MuxdError

MODE = 0o644

#: How `muxd init` is told to write nothing.
PRINT = "--print only shows"


class CannotWrite(MuxdError):
    """The file cannot be written."""

    code = "cannot_write"


def refuse_if_taken(path: Path, *, force: bool, shows: str = PRINT) -> None:
    """Raise ConfigError where `place` would not write, before the work is done; `shows` says how to see it alone."""
    if os.path.isdir(path):  # False where this user may not look
        raise ConfigError([f"{shown_file(path)}: is a directory; name the file: --output {shown_file(path)}/muxd.toml"])
    if os.path.exists(path) and not os.path.isfile(path):  # a device, such as /dev/null, would be replaced
        raise ConfigError([f"{shown_file(path)}: is not a file; --output FILE names another place, {shows}"])
    if not force and os.path.lexists(path):
        raise ConfigError(
            [f"{shown_file(path)}: is there already; --force replaces it, --output FILE names another, {shows}"]
        )


def place(
    path: Path, text: str, *, force: bool, shows: str = PRINT, mode: int = MODE, option: str = "--output FILE"
) -> None:
    """Write the file, with `mode` and the folders above it; with `force`, replace the target of a symbolic link.

    `option` is what names another place on the command line.

    Raise ConfigError where something is there already, CannotWrite for any other error.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _write_atomically(Path(os.path.realpath(path)) if force else path, text.encode(), force=force, mode=mode)
    except OSError as error:
        refuse_if_taken(path, force=force, shows=shows)  # a file may have appeared since the first check
        where = shown_file(path)
        raise CannotWrite(f"{where} cannot be written: {error.strerror}; {option} names another place") from None


def _write_atomically(path: Path, content: bytes, *, force: bool, mode: int) -> None:
    descriptor, name = mkstemp(prefix=".muxd-new-", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            os.fchmod(descriptor, mode)
            file.flush()
            os.fsync(descriptor)
        if force:
            os.replace(name, path)
        else:
            _rename_without_replacing(name, path, mode)
    finally:
        with suppress(FileNotFoundError):
            os.unlink(name)


def _rename_without_replacing(name: str, path: Path, mode: int) -> None:
    """Rename a file to a path at which nothing may be.  Raise FileExistsError where something is."""
    try:
        os.link(name, path)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode))
        os.replace(name, path)
