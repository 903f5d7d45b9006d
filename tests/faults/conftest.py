import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.end_to_end.conftest import start

__all__ = ["start"]


class SmallDisk:
    """A file system of some MB of its own, which can be full."""

    def __init__(self, path: Path) -> None:
        self._ballast = path / "ballast"

    def spoil(self) -> None:
        with open(self._ballast, "wb", buffering=0) as ballast:
            for size in (1 << 20, 1 << 12, 1):
                try:
                    while ballast.write(bytes(size)) == size:
                        pass
                except OSError:
                    continue

    def mend(self) -> None:
        self._ballast.unlink()


class Immutable:
    """A folder, and those in it, in which root itself can neither make nor rename a file, as on a read-only disk."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._folders: list[Path] = []

    def spoil(self) -> None:
        self._folders = [self._path, *(each for each in self._path.iterdir() if each.is_dir())]
        chattr("+i", *self._folders)

    def mend(self) -> None:
        chattr("-i", *self._folders)
        self._folders = []


def chattr(flag: str, *paths: Path) -> None:
    if paths:
        subprocess.run(["chattr", flag, *map(str, paths)], check=True)


#: A disk that can be spoilt.
Disk = SmallDisk | Immutable


@pytest.fixture(params=["full", "read-only"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[str], Disk]]:
    """`disk("logs")` makes the folder of this name in the test's folder a disk that can be spoilt."""
    full: list[Path] = []
    immutable: list[Immutable] = []

    def make(name: str) -> Disk:
        folder = tmp_path / name
        folder.mkdir()
        if request.param == "read-only":
            tried = subprocess.run(["chattr", "+i", str(folder)], stderr=subprocess.DEVNULL, check=False)
            if tried.returncode != 0:
                pytest.skip("needs the right to make a folder immutable, and a disk that can")
            chattr("-i", folder)
            immutable.append(Immutable(folder))
            return immutable[-1]
        argv = ["mount", "-t", "tmpfs", "-o", "size=4m,mode=700", "tmpfs", str(folder)]
        if os.geteuid() != 0 or subprocess.run(argv, stderr=subprocess.DEVNULL, check=False).returncode != 0:
            pytest.skip("needs the right to mount a small tmpfs")
        full.append(folder)
        return SmallDisk(folder)

    yield make
    for each in immutable:
        each.mend()
    for folder in full:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
