"""What a model may be called, and which known name somebody probably meant."""

import difflib
import re
from collections.abc import Iterable, Sequence

MODEL_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")

#: What is compared of a name that somebody asks for: a long one takes milliseconds.
LONGEST = 256


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name most like `name`, when one is alike enough to be worth proposing."""
    by_lower = {candidate.lower(): candidate for candidate in known}
    found = difflib.get_close_matches(name[:LONGEST].lower(), by_lower, n=1, cutoff=0.6)
    return by_lower[found[0]] if found else None


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: the nearest known one, else all of them."""
    candidates = list(known)
    close = nearest(name, candidates)
    return f"did you mean {close}?" if close else f"known: {few(candidates) or 'none'}"


def few(names: Sequence[str], most: int = 50) -> str:
    """The first ones, and how many more there are: a host may have thousands."""
    left_off = len(names) - most
    return ", ".join(names[:most]) + (f" and {left_off} more" if left_off > 0 else "")
