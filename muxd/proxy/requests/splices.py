"""Changes of a text by position: what is not named stays as it is, byte for byte."""

from collections.abc import Iterable

import msgspec


class Splice(msgspec.Struct, frozen=True, order=True, gc=False):
    """From `start` to before `end` the text is to be `new` instead."""

    start: int
    end: int
    new: bytes


def spliced(text: bytes, splices: Iterable[Splice]) -> bytes:
    """The text with these changes; none may reach into another, and of two at one place the shorter comes first."""
    kept, at = memoryview(text), 0  # no second copy of what is long
    pieces: list[bytes | memoryview] = []
    for splice in sorted(splices):
        pieces += [kept[at : splice.start], splice.new]
        at = splice.end
    return b"".join((*pieces, kept[at:]))
