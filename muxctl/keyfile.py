"""The API keys in a configuration's files, and muxd.d/keys.toml, the one of them that `muxctl keys` writes.

This module is imported only where it is needed: it reads a configuration, which muxctl otherwise leaves to muxd.
"""

import errno
import fcntl
import os
import re
import stat
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import tomli_w

from muxctl.exit_codes import CommandFailed, ExitCode
from muxd.config.key_tables import KeyTable, entries_of
from muxd.config.load import load_config
from muxd.config.sources import FOLDER, read_sources
from muxd.errors import ConfigError

NAME = "keys.toml"

HEAD = """\
# Written by `muxctl keys`: API keys of muxd's proxy, each with the SHA-256 of its secret.  Keys may be changed here by
# hand, then `muxctl reload`; comments are lost when muxctl writes the file again.
# A key that is taken out leaves no trace: `muxctl keys revoke NAME` keeps the door shut after the last one, too.

"""

_LINE = re.compile(r":\d+: ")

Table = dict[str, Any]


def entries(config: Path) -> tuple[list[KeyTable], list[str]]:
    """Return the keys of all files, in their order and as written, and the problems of files that cannot be read."""
    main, parts, broken = read_sources(config)
    found = []
    for source in (*([main] if main is not None else []), *parts):
        try:
            found += entries_of(source)
        except ValueError as error:
            broken.append(f"{source.file}: keys: {error}")
    return found, broken


class KeyFile:
    """muxd.d/keys.toml beside a configuration."""

    def __init__(self, config: Path) -> None:
        self._config = config
        self.path = config.parent / FOLDER / NAME

    def has(self, entry: KeyTable) -> bool:
        """Say whether the key is written in this file."""
        return entry.source.file == self.path

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Make the folder and lock it, for one muxctl at a time.

        Raises CommandFailed for any OSError, also for one in the block.
        """
        try:
            self._make_folder()
            # The lock is on the folder itself: a lock file would be one more file left lying in it.
            lock = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX)
                yield
            finally:
                os.close(lock)
        except OSError as error:
            code = ExitCode.PERMISSION if error.errno in (errno.EACCES, errno.EPERM) else ExitCode.FAILED
            hint = "; use sudo, or be the user whom it belongs to" if code == ExitCode.PERMISSION else ""
            raise CommandFailed(
                f"cannot write {self.path}: {(error.strerror or str(error)).lower()}{hint}", code
            ) from None

    def put(self, name: str, table: Table) -> None:
        """Add a key, or replace the one of that name.  Raises CommandFailed, with the file as it was."""
        document = self._read()
        tables = document.setdefault("keys", [])
        places = [place for place, other in enumerate(tables) if other.get("name") == name]
        if places:
            tables[places[0]] = table
        else:
            tables.append(table)
        self._replace(document)

    def _read(self) -> Table:
        try:
            return tomllib.loads(self.path.read_bytes().decode("utf-8-sig"))
        except FileNotFoundError:
            return {}

    def _replace(self, document: Table) -> None:
        """Replace the file; restore it and raise CommandFailed if the configuration then has a new problem."""
        if self.path.is_symlink():
            raise CommandFailed(f"{self.path} is a link; put a file in its place, or remove it")
        before = self.path.read_bytes() if self.path.exists() else None
        known = {_LINE.sub(": ", problem, 1) for problem in self._problems()}
        self._write((HEAD + tomli_w.dumps(document)).encode())
        if new := [problem for problem in self._problems() if _LINE.sub(": ", problem, 1) not in known]:
            self._write(before) if before is not None else self.path.unlink()
            raise CommandFailed("\n  ".join(["it would make a problem; nothing was changed:", *new]), ExitCode.USAGE)

    def _problems(self) -> list[str]:
        try:
            load_config(self._config, os.environ)
        except ConfigError as error:
            return error.problems
        return []

    def _write(self, content: bytes) -> None:
        """Replace the file atomically, also in a power failure; owner and permissions are like the configuration's."""
        with NamedTemporaryFile(prefix=".keys-", dir=self.path.parent, delete=False) as file:
            try:
                _copy_permissions(file.fileno(), self._config.stat(), 0o664)
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
                os.rename(file.name, self.path)
            except BaseException:
                os.unlink(file.name)
                raise
        _sync(self.path.parent)

    def _make_folder(self) -> None:
        folder = self.path.parent
        with suppress(FileExistsError):
            folder.mkdir()
            fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                _copy_permissions(fd, folder.parent.stat(), 0o2775)
            finally:
                os.close(fd)


def _copy_permissions(fd: int, model: os.stat_result, most: int) -> None:
    """Give an open file the owner of `model`, and its permissions as far as `most` allows them.

    muxd may run as another user, and must be able to read this file as it reads the configuration.  `most` leaves out
    the permission for everybody to write.  Raises PermissionError if the owner cannot be set, and not all may read.
    """
    found = os.fstat(fd)
    if (found.st_uid, found.st_gid) != (model.st_uid, model.st_gid):
        try:
            os.fchown(fd, model.st_uid, model.st_gid)
        except PermissionError:
            if not model.st_mode & stat.S_IROTH:
                raise
    os.fchmod(fd, stat.S_IMODE(model.st_mode) & most)


def _sync(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
