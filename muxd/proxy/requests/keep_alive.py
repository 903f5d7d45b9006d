"""How long a client wants a model kept awake: Ollama's "keep_alive", LM Studio's "ttl".

Both are seconds, or a duration as Go writes it ("10m", "1h30m"); a negative one is for ever, and zero lets the model
go.
"""

import re
from math import inf, isfinite

import msgspec

from muxd.proxy.answers import Refusal

_SECONDS = {"ns": 1e-9, "us": 1e-6, "\u00b5s": 1e-6, "\u03bcs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART = re.compile(r"([0-9]+\.?[0-9]*|\.[0-9]+)(ns|us|\u00b5s|\u03bcs|ms|s|m|h)")
_DURATION = re.compile(rf"(?P<sign>[-+]?)(?:(?P<number>[0-9]+\.?[0-9]*)|(?P<parts>(?:{_PART.pattern})+))")

_LONGEST = 64  # bytes, as written in the body


def seconds_of(field: str, text: bytes) -> float | None:
    """Return the seconds that a field of a body, as it is written, stands for; None for none; raise Refusal."""
    if text in (b"", b"null", b'""'):
        return None
    try:
        value = msgspec.json.decode(text) if len(text) <= _LONGEST else None
    except (msgspec.DecodeError, UnicodeDecodeError):
        value = None
    seconds = _seconds(value)
    if seconds is None:
        message = f'"{field}" is not a duration: write seconds, or a text such as "10m"; -1 is for ever'
        raise Refusal(400, f"invalid_{field}", message, param=field)
    return inf if seconds < 0 else seconds


def _seconds(value: object) -> float | None:
    if isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value):
        return float(value)
    match = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        return None
    sign = -1.0 if match["sign"] == "-" else 1.0
    if match["number"] is not None:
        return sign * float(match["number"])
    return sign * sum(float(number) * _SECONDS[unit] for number, unit in _PART.findall(match["parts"]))
