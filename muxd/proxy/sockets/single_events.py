"""Chunks that are exactly one event of a stream: what a worker sends for each token, and most of what it sends at all.

`data` is one where `data.endswith(EVENT_END) and data.startswith(SIZE_LINES[len(data)])`: its size line says the very
size that it has.  Written in another way, which HTTP allows, it is none, and goes to llhttp.
"""

from muxd.http.response import LAST_CHUNK

EVENT_END = b"\n\n\r\n"
READ_EVENT = 4103  # bytes to read: one more than the longest chunk whose size has three hexadecimal digits


def _size_lines() -> list[bytes]:
    """Return a list that has, at the length of a whole chunk in bytes, the size line that the chunk must begin with."""
    none = b"\0" * (READ_EVENT + 1)  # nothing so short begins with it: no chunk has this length
    lines = [none] * (READ_EVENT + 1)  # a read of READ_EVENT bytes is none, as more may be behind it
    for digits in (1, 2, 3):
        for size in range(16 ** (digits - 1), 16**digits):
            lines[digits + size + 4] = b"%x\r\n" % size
    return lines


SIZE_LINES = _size_lines()


def is_event(data: bytes, begin: int = 0) -> bool:
    """Return whether the bytes from `begin` on are one such chunk."""
    size = len(data) - begin
    return size < READ_EVENT and data.endswith(EVENT_END) and data.startswith(SIZE_LINES[size], begin)


def is_last(data: bytes) -> bool:
    """Return whether `data`, which begins between two chunks, is the end of all, behind one whole chunk or none."""
    if data == LAST_CHUNK:
        return True
    size = len(data) - len(LAST_CHUNK)
    return 0 < size < READ_EVENT and data.endswith(b"\r\n" + LAST_CHUNK) and data.startswith(SIZE_LINES[size])
