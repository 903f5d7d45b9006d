"""Changes of a text by position; all other bytes stay as they are."""

from collections.abc import Iterable

import msgspec


class Splice(msgspec.Struct, frozen=True, order=True, gc=False):
    """A change: `new` replaces the bytes from `start` to before `end`."""

    start: int
    end: int
    new: bytes


def spliced(text: bytes, splices: Iterable[Splice]) -> bytes:
    """Return the text with the changes applied.

    They may not overlap; of two that start at one position the shorter one comes first.
    """
    kept, at = memoryview(text), 0  # a memoryview, as slices of bytes would copy a long text
    pieces: list[bytes | memoryview] = []
    for splice in sorted(splices):
        pieces += [kept[at : splice.start], splice.new]
        at = splice.end
    return b"".join((*pieces, kept[at:]))
