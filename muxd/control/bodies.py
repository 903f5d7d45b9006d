"""Bodies and queries of control requests, validated; every BadRequest names the field that is wrong."""

from collections.abc import Sequence
from difflib import get_close_matches
from math import inf, isfinite
from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta, Struct

from muxd.errors import BadRequest
from muxd.history.journal import EntryFilter
from muxd.http.request import Request
from muxd.merged_logs import LogWindow

T = TypeVar("T", bound=Struct)

_MOST_LINES = 10_000
_TRUTHS = {"1": True, "true": True, "0": False, "false": False, "": True}


class SwitchBody(Struct, forbid_unknown_fields=True):
    wait: bool = True


class HoldBody(Struct, forbid_unknown_fields=True):
    wait: bool = True
    for_s: Annotated[float, Meta(gt=0, le=1e9)] | None = None  # None: until it is let go


GpuName = Annotated[str, Meta(max_length=64)] | Annotated[int, Meta(ge=0, lt=1024)]


class LoanBody(Struct, forbid_unknown_fields=True):
    gpus: Annotated[tuple[GpuName, ...], Meta(max_length=64)] = ()  # none: all, without a borrower
    for_s: Annotated[float, Meta(gt=0, le=1e9)] | None = None  # None: as long as its borrower lives, or until the end
    borrowed: bool = True
    preemptible: bool = False
    refuses: bool = False


class BorrowerBody(Struct, forbid_unknown_fields=True):
    pid: Annotated[int, Meta(ge=2, le=1 << 22)]


class OrderBody(Struct, forbid_unknown_fields=True):
    wait: bool = True
    now: bool = False


class SleepBody(OrderBody, forbid_unknown_fields=True):
    level: Annotated[int, Meta(ge=0, le=3)] | None = None  # None: the one that is configured


class ScaleBody(OrderBody, forbid_unknown_fields=True, kw_only=True):
    replicas: Annotated[int, Meta(ge=0, le=1000)]


class ValidateBody(Struct, forbid_unknown_fields=True):
    levels: Annotated[tuple[Annotated[int, Meta(ge=0, le=3)], ...], Meta(max_length=4)] = ()  # none: all that it has
    cycles: Annotated[int, Meta(ge=1, le=1000)] = 2


class CancelBody(Struct, forbid_unknown_fields=True):
    pass


class NothingBody(Struct, forbid_unknown_fields=True):
    pass


class ShutdownBody(Struct, forbid_unknown_fields=True):
    leave_workers: bool = False
    now: bool = False  # with leave_workers: what has begun is not waited for


class UpgradeBody(Struct, forbid_unknown_fields=True):
    now: bool = False


class ReloadBody(Struct, forbid_unknown_fields=True):
    dry_run: bool = False


class LinkBody(Struct, forbid_unknown_fields=True):
    token: str


def body_of(request: Request, kind: type[T]) -> T:
    """Return the JSON body as `kind`; raises BadRequest, also for a field that `kind` has not.

    With a misspelt field ignored, muxd would carry out another order than the operator meant.
    """
    if request.query:
        raise BadRequest(f"{request.path} takes a JSON body and no query; put {', '.join(request.query)} there")
    try:
        return msgspec.convert(request.json(), kind)
    except msgspec.ValidationError as error:
        raise BadRequest(f"the body does not fit: {error}") from None


def parse_count(query: dict[str, str], field: str, default: int | None, most: int | None = None) -> int | None:
    """Return a query field as an integer from 0 to `most`, or `default` where it is absent; raises BadRequest."""
    text = query.get(field)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 19) or (most is not None and int(text) > most):
        limit = "a whole number" if most is None else f"a whole number from 0 to {most}"
        raise BadRequest(f"{field} must be {limit}, not {text!r}", field=field)
    return int(text)


def parse_flag(query: dict[str, str], field: str, default: bool) -> bool:
    """Return a query field as a boolean, or `default` where it is absent; raises BadRequest.

    A field without a value (`?follow`) is true.
    """
    text = query.get(field)
    if text is None:
        return default
    if text not in _TRUTHS:
        raise BadRequest(f"{field} must be 1 or 0, not {text!r}", field=field)
    return _TRUTHS[text]


def check_fields(query: dict[str, str], known: Sequence[str]) -> None:
    """Raise BadRequest for a field of the query that is none of these: muxd would do another thing than was meant."""
    for field in query:
        if field not in known:
            near = get_close_matches(field, known, 1, 0.6)
            there = f"there are {', '.join(known)}" if known else "this route takes no query"
            hint = f"did you mean {near[0]}?" if near else there
            raise BadRequest(f"{field}: there is no such field of the query; {hint}", field=field, known=list(known))


def parse_time(query: dict[str, str], field: str, default: float) -> float:
    """Return a query field as seconds since the epoch, or `default` where it is absent; raises BadRequest."""
    text = query.get(field)
    if text is None:
        return default
    try:
        time = float(text)
    except ValueError:
        time = inf
    if not isfinite(time):
        raise BadRequest(f"{field} must be a time in seconds since 1970, not {text!r}", field=field)
    return time


def parse_choice(query: dict[str, str], field: str, known: tuple[int, ...]) -> int:
    """Return a query field that is one of these numbers, or the first where it is absent; raises BadRequest."""
    text = query.get(field, str(known[0]))
    if text not in map(str, known):
        raise BadRequest(f"{field} must be {' or '.join(map(str, known))}, not {text!r}", field=field)
    return int(text)


def parse_words(query: dict[str, str], field: str, known: tuple[str, ...]) -> frozenset[str]:
    """Return a query field as a set of words with commas between them, empty where it is absent; raises BadRequest."""
    words = frozenset(word for word in query.get(field, "").split(",") if word)
    if unknown := sorted(words - set(known)):
        raise BadRequest(f"{field} has no {unknown[0]!r}; there are {', '.join(known)}", field=field, known=list(known))
    return words


#: The fields of a query that an EntryFilter is made of, without its kinds.
FILTER_FIELDS = ("model", "since", "until", "lines")


def entry_filter(
    query: dict[str, str], model: str | None, kinds: frozenset[str] = frozenset(), lines: int | None = None
) -> EntryFilter:
    """Return the filter that a query asks for; `lines`: how many entries where it does not say.  Raises BadRequest."""
    return EntryFilter(
        model=model,
        kinds=kinds,
        key=query.get("key"),
        since=parse_time(query, "since", -inf),
        until=parse_time(query, "until", inf),
        last=parse_count(query, "lines", lines, _MOST_LINES),
    )


def log_window(query: dict[str, str]) -> LogWindow:
    """Return which lines of logs the query asks for: of a time all, else 100, where it does not say how many."""
    since = parse_time(query, "since", 0.0) if "since" in query else None
    until = parse_time(query, "until", 0.0) if "until" in query else None
    lines = parse_count(query, "lines", 100 if since is None and until is None else None, _MOST_LINES)
    return LogWindow(lines, since, until)


def log_streams(query: dict[str, str]) -> tuple[str, ...]:
    """Return the log streams that the query asks for, both where it names none; raises BadRequest."""
    stream = query.get("stream", "both")
    if stream == "both":
        return ("stdout", "stderr")
    if stream not in ("stdout", "stderr"):
        raise BadRequest(f"stream must be stdout, stderr or both, not {stream!r}", field="stream")
    return (stream,)
