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


class ReadOnly:
    """A folder on a disk that is mounted read-only: not one byte can be written, whatever is open stays open."""

    def __init__(self, path: Path) -> None:
        self._path = str(path)

    def spoil(self) -> None:
        subprocess.run(["mount", "--bind", self._path, self._path], check=True)
        subprocess.run(["mount", "-o", "remount,bind,ro", self._path], check=True)

    def mend(self) -> None:
        subprocess.run(["umount", "--lazy", self._path], check=True)


class FailingDisk:
    """A file system whose writes fail with EIO: its device is memory of which no more may be taken.

    What was on it is not whole afterwards, as on a disk that breaks: nobody can mend it.
    """

    CONTROL = Path("/sys/class/zram-control")

    def __init__(self, path: Path) -> None:
        """Make the device, and mount it; raise OSError or CalledProcessError where that cannot be had."""
        self._path = path
        self._number = (self.CONTROL / "hot_add").read_text().strip()
        self._device = Path(f"/sys/block/zram{self._number}")
        (self._device / "disksize").write_text("16M")
        subprocess.run(["mkfs.ext2", "-q", "-F", f"/dev/zram{self._number}"], check=True)
        subprocess.run(["mount", "-o", "sync", f"/dev/zram{self._number}", str(path)], check=True)
        path.chmod(0o700)

    def spoil(self) -> None:
        (self._device / "mem_limit").write_text("1")

    def remove(self) -> None:
        (self._device / "mem_limit").write_text("0")
        subprocess.run(["umount", str(self._path)], check=True)
        (self._device / "reset").write_text("1")
        (self.CONTROL / "hot_remove").write_text(self._number)


def chattr(flag: str, *paths: Path) -> None:
    if paths:
        subprocess.run(["chattr", flag, *map(str, paths)], check=True)


#: A disk that can be spoilt.
Disk = SmallDisk | Immutable | ReadOnly


@pytest.fixture(params=["full", "read-only"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[str], Disk]]:
    """`disk("logs")` makes the folder of this name in the test's folder a disk that can be spoilt."""
    mounted: list[Path] = []
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
        mounted.append(folder)
        return SmallDisk(folder) if request.param == "full" else ReadOnly(folder)

    yield make
    for each in immutable:
        each.mend()
    for folder in mounted:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture
def failing_disk(tmp_path: Path) -> Iterator[Callable[[str], FailingDisk]]:
    """`failing_disk("logs")` makes the folder of this name in the test's folder a disk that can be made to fail."""
    made: list[FailingDisk] = []

    def make(name: str) -> FailingDisk:
        (tmp_path / name).mkdir()
        try:
            made.append(FailingDisk(tmp_path / name))
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"needs root and a zram device: {error}")
        return made[-1]

    yield make
    for each in made:
        each.remove()
