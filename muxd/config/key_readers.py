"""Readers of the values in `[[keys]]`; see `readers`.  No message repeats a value that may be a secret."""

import re
from datetime import UTC, date, datetime, time
from typing import Any

from .names import MODEL_NAME, MODEL_NAME_RULE
from .readers import ENV_NAME, Base, names
from .units import shown

_SHA256 = re.compile(r"[0-9a-fA-F]{64}")


def key_name(value: Any, base: Base) -> str:
    """Read the name by which muxctl and the access log call the key."""
    if isinstance(value, str) and MODEL_NAME.fullmatch(value):
        return value
    raise ValueError(f"{shown(value)} is not a key's name; {MODEL_NAME_RULE}")


def digest(value: Any, base: Base) -> str:
    """Read a SHA-256: 64 hex digits, returned in lower case."""
    if isinstance(value, str) and _SHA256.fullmatch(value):
        return value.lower()
    raise ValueError("not a SHA-256; write its 64 hex digits, as `printf %s SECRET | sha256sum` prints them")


def variable(value: Any, base: Base) -> str:
    """Read the name of an environment variable."""
    if isinstance(value, str) and ENV_NAME.fullmatch(value):
        return value
    raise ValueError("not the name of an environment variable; use letters, digits and _: the secret is its value")


def some_names(value: Any, base: Base) -> tuple[str, ...]:
    """Read a list of one or more names.

    An empty list is refused: it looks like "no model", but a key without `models` is good for all of them.
    """
    if found := names(value, base):
        return found
    raise ValueError("an empty list allows no model; name some, or leave it out: the key is for all then")


def moment(value: Any, base: Base) -> float:
    """Read a date, with or without a time, and return seconds since the epoch.

    A date without a time stands for its first moment, a time without an offset for UTC.
    """
    try:
        if isinstance(value, str):
            value = datetime.fromisoformat(value.strip())
        if isinstance(value, date) and not isinstance(value, datetime):
            value = datetime.combine(value, time())
        if isinstance(value, datetime):
            return (value if value.tzinfo else value.replace(tzinfo=UTC)).astimezone(UTC).timestamp()
    except (ValueError, OverflowError):
        pass
    raise ValueError(f"{shown(value)} is not a date; write 2027-01-31, or 2027-01-31T18:00:00Z")


def as_moment(seconds: float) -> str:
    """Return seconds since the epoch as `moment` reads them."""
    return datetime.fromtimestamp(seconds, UTC).isoformat()
