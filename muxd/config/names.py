"""Names: which ones a model may have, and which known name a misspelt one probably means."""

import difflib
import re
from collections.abc import Iterable, Sequence

#: Folders and log files are called so, with some letters behind it; such a name may have 255 bytes.
MODEL_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,127}")
MODEL_NAME_RULE = "use at most 128 of a-z, 0-9, '.', '_' and '-', and begin with a letter or digit"

#: Characters of a model's name that is made from another text: log files are called so.
LONGEST_MADE = 100

#: Characters of a client's unknown name that are compared with known names: a longer name takes milliseconds.
LONGEST = 256


def as_model_name(text: str) -> str:
    """Return `text` as a name that `MODEL_NAME` allows, short enough for the names of log files."""
    name = re.sub(r"[^a-z0-9._-]+", "-", text.lower())[:LONGEST_MADE]
    return re.sub(r"^[._-]+|[._-]+$", "", name) or "model"


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name most like `name`; None where no name is similar enough to be worth proposing."""
    by_lower = {candidate.lower(): candidate for candidate in known}
    found = difflib.get_close_matches(name[:LONGEST].lower(), by_lower, n=1, cutoff=0.6)
    return by_lower[found[0]] if found else None


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return the end of a message about an unknown name: the nearest known name, else a list of the known ones."""
    candidates = list(known)
    close = nearest(name, candidates)
    return f"did you mean {close}?" if close else f"known: {few(candidates) or 'none'}"


def few(names: Sequence[str], most: int = 50) -> str:
    """Return the first `most` names and the count of the others: a host may have thousands of models."""
    left_off = len(names) - most
    return ", ".join(names[:most]) + (f" and {left_off} more" if left_off > 0 else "")
