"""Durations and sizes as people write them: "90s", "5min", "1h 30min", "38GiB".

A duration is returned in seconds, a size in bytes.  A number without a unit counts as seconds or bytes already.
"""

import re
from math import inf, isfinite, isnan

SECONDS = {"ms": 0.001, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
BYTES = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}

_NUMBER = r"(\d+(?:\.\d+)?)"
_DURATION_PART = re.compile(rf"{_NUMBER}\s*(ms|s|min|h|d)\s*")
DURATION = re.compile(rf"(?:{_NUMBER}\s*(?:ms|s|min|h|d)\s*)+")
SIZE = re.compile(rf"{_NUMBER}\s*(B|KiB|MiB|GiB|TiB)")


def parse_duration(value: object) -> float:
    """Return a duration in seconds; `inf` for "inf".  Raise ValueError, which says what to write instead."""
    if isinstance(value, str):
        text = value.strip()
        if text == "inf":
            return inf
        if DURATION.fullmatch(text):
            return sum(float(number) * SECONDS[unit] for number, unit in _DURATION_PART.findall(text))
    elif isinstance(value, int | float) and not isinstance(value, bool) and not isnan(value):
        return float(value)
    raise ValueError(f'{shown(value)} is not a duration; write seconds or "90s", "5min", "2h"')


def parse_size(value: object) -> int:
    """Return a size in bytes.  Raise ValueError, which says what to write instead."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and (match := SIZE.fullmatch(value.strip())):
        return round(float(match[1]) * BYTES[match[2]])
    raise ValueError(f'{shown(value)} is not a size; write bytes or "38GiB", "512MiB"')


def show_duration(seconds: float) -> str:
    """Return a duration as one would write it in the configuration, in the largest whole unit: 600.0 -> "10min"."""
    if not isfinite(seconds):
        return "inf"
    for unit in ("d", "h", "min", "s"):
        if seconds and seconds % SECONDS[unit] == 0:
            return f"{seconds / SECONDS[unit]:.0f}{unit}"
    return f"{seconds:g}s" if seconds == 0 or seconds >= 1 else f"{seconds * 1000:g}ms"


def show_size(size: int) -> str:
    """Return a size as one would write it in the configuration, in the largest whole unit: 1 << 30 -> "1GiB"."""
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        if size and size % BYTES[unit] == 0:
            return f"{size // BYTES[unit]}{unit}"
    return f"{size}B"


def shown(value: object) -> str:
    """Return a TOML value as a message shows it, which is as TOML writes it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return '"' + value.encode("unicode_escape").decode("ascii").replace('"', '\\"') + '"'
    if isinstance(value, list):
        return f"[{', '.join(map(shown, value))}]"
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{name} = {shown(inner)}" for name, inner in value.items()) + " }" if value else "{}"
    return str(value)
