"""Files in the kernel's page cache: how much of one is in RAM, and reading one there before somebody needs it."""

import ctypes
import mmap
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

MiB = 1 << 20

#: Bytes that are read at once: a reader may be stopped, and told to leave RAM free, between two of them.
CHUNK = 8 * MiB

#: The number of cachestat, the same on all architectures (Linux 6.5; linux/include/uapi/asm-generic/unistd.h).
_CACHESTAT = 451

#: What mincore says of a page: its other bits mean nothing.
_LOW_BIT = bytes(byte & 1 for byte in range(256))

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


class _Range(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in ("offset", "length")]


class _Found(ctypes.Structure):
    _fields_ = [(n, ctypes.c_uint64) for n in ("cached", "dirty", "writeback", "evicted", "recently_evicted")]


def bytes_in_ram(path: Path) -> int | None:
    """Return how much of a file is in the page cache, in bytes; None where the kernel does not say.

    It says nothing of another user's file that this user may not write: an own cache would tell what others read.
    Raises OSError for a file that cannot be opened.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        size, asked, found = os.fstat(fd).st_size, _Range(0, 0), _Found()
        if _libc.syscall(_CACHESTAT, fd, ctypes.byref(asked), ctypes.byref(found), 0) == 0:
            return min(size, int(found.cached) * mmap.PAGESIZE)
        return _by_mincore(fd, size, is_told=os.fstat(fd).st_uid == os.geteuid() or os.access(path, os.W_OK))
    finally:
        os.close(fd)


def _by_mincore(fd: int, size: int, *, is_told: bool) -> int | None:
    """Return the bytes of a file that are in RAM, by mincore; of a file that is not `is_told` it would say "all"."""
    if not is_told or size == 0:
        return 0 if size == 0 else None
    with mmap.mmap(fd, size, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE) as mapped:
        pages = (ctypes.c_ubyte * -(-size // mmap.PAGESIZE))()
        start = (ctypes.c_char * 0).from_buffer(mapped)
        try:
            if _libc.mincore(ctypes.c_void_p(ctypes.addressof(start)), ctypes.c_size_t(size), pages) != 0:
                return None
        finally:
            del start
        return min(size, bytes(pages).translate(_LOW_BIT).count(1) * mmap.PAGESIZE)


def read_ahead(path: Path, goes_on: Callable[[int], bool]) -> None:
    """Read a file into the page cache, from its beginning on.

    `goes_on` is told how many bytes come next, before each chunk, and says whether they are to be read.  The kernel is
    told to read one chunk ahead (POSIX_FADV_WILLNEED reads no more at a time than the disk's read-ahead, some 100 KiB
    to some MiB, and does not wait), and the chunk is then waited for by reading it.  Raises OSError.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        size, buffer = os.fstat(fd).st_size, mmap.mmap(-1, CHUNK)
        with suppress(OSError):
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_SEQUENTIAL)
        position = 0
        while position < size and goes_on(min(CHUNK, size - position)):
            with suppress(OSError):
                os.posix_fadvise(fd, position + CHUNK, CHUNK, os.POSIX_FADV_WILLNEED)
            got = os.preadv(fd, [buffer], position)
            if got == 0:
                break  # it has become shorter
            position += got
    finally:
        os.close(fd)
