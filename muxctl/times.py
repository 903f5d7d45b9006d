"""Points in time: read as operators write them, and written in the one form that muxctl has for people.

What is read is a time of day, a date, or how long ago.  What is written is this host's time with its offset, as RFC
3339 has it.
"""

import re
import time
from contextlib import suppress
from datetime import datetime, timedelta
from math import isfinite

from muxctl.exit_codes import CommandFailed, ExitCode

_CLOCKS = ("%H:%M:%S", "%H:%M")


def when(text: str, option: str) -> float:
    """Return the seconds since the epoch that `text` means, the value of `option`; raise CommandFailed.

    "10min" is so long ago, "18:04" the last time that it was that late here, "2026-11-29 18:04" that moment here; a
    moment with its offset, as muxctl prints it, is that moment wherever it was printed.
    """
    if "-" in text:
        with suppress(ValueError):
            return datetime.fromisoformat(text).timestamp()
    for form in _CLOCKS:
        if (moment := _read(text, form)) is not None:
            now = datetime.now()
            today = now.replace(hour=moment.hour, minute=moment.minute, second=moment.second, microsecond=0)
            return (today if today <= now else today - timedelta(days=1)).timestamp()
    return time.time() - _seconds(text, option)


def time_window(since: str | None, until: str | None) -> dict[str, float]:
    """Return what --since and --until mean, of those that are given; raise CommandFailed where nothing is between them.

    A time of day after --since that is yet to come is today's: "--since 18:00 --until 18:05" may be asked at 18:03.
    """
    given = {name: when(text, f"--{name}") for name, text in (("since", since), ("until", until)) if text is not None}
    if since is not None and until is not None and given["until"] <= given["since"]:
        end = datetime.fromtimestamp(given["until"])
        if not _is_time_of_day(until) or end.date() == datetime.now().date():
            raise CommandFailed("--until is no later than --since: nothing is between them", ExitCode.USAGE)
        given["until"] = (end + timedelta(days=1)).timestamp()
    return given


def _is_time_of_day(text: str) -> bool:
    return any(_read(text, form) is not None for form in _CLOCKS)


def stamp(seconds: float, precision: str = "seconds") -> str:
    """Return a time, in seconds since 1970, as this host's time with its offset; to "seconds" or "milliseconds"."""
    return datetime.fromtimestamp(seconds).astimezone().isoformat(timespec=precision)


def seconds_of(text: str) -> float:
    """Return a duration in seconds, as the configuration has it, and in commands "5m" too.  Raise ValueError."""
    from muxd.config.units import parse_duration

    if text.replace(".", "", 1).isdecimal():
        return parse_duration(float(text))
    return parse_duration(re.sub(r"(?<=\d)m(?![a-z])", "min", text))


def _read(text: str, form: str) -> datetime | None:
    try:
        return datetime.strptime(text, form)
    except ValueError:
        return None


def _seconds(text: str, option: str) -> float:
    try:
        if isfinite(seconds := seconds_of(text)):
            return seconds
        raise ValueError
    except ValueError:
        forms = '"10min" ago, "18:04" or "2026-11-29 18:04:05"'
        raise CommandFailed(f"{option}: {text!r} is no time; write {forms}", ExitCode.USAGE) from None
