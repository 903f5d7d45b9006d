"""API keys as `muxctl keys list` shows them, without their hashes."""

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from muxctl.display.tables import plain
from muxctl.times import stamp
from muxd.config.key_readers import moment
from muxd.config.key_tables import KeyTable
from muxd.config.readers import Base


def as_json(entry: KeyTable) -> dict[str, Any]:
    """Return a key's table for JSON, as it is written; None for what is not written.

    A value that cannot be used is kept: `muxd check` reports it.
    """
    value = {key: entry.table.get(key) for key in ("name", "models", "requests_per_minute")}
    return {
        **value,
        "priority": entry.table.get("priority", 0),
        "comments": entry.table.get("comments", True),
        "expires": _expiry(entry.table),
        "state": state_of(entry.table),
        "file": str(entry.source.file),
        "line": entry.line,
    }


def rows(entries: Sequence[KeyTable]) -> list[tuple[str, ...]]:
    """Return a row for each key: NAME, MODELS, RPM, PRIORITY, COMMENTS, EXPIRES, STATE, FILE."""
    return [_row(as_json(entry), _moment(entry.table)) for entry in entries]


def _row(value: dict[str, Any], expires: float | None) -> tuple[str, ...]:
    models = value["models"]
    cells = (
        _or(value["name"], "-"),
        ",".join(map(str, models)) if isinstance(models, list) else _or(models, "all"),
        _or(value["requests_per_minute"], "-"),
        value["priority"],
        _yes_no(value["comments"]),
        _or(value["expires"], "never") if expires is None else stamp(expires),
        value["state"],
        value["file"],
    )
    return tuple(map(plain, cells))


def _or(value: Any, nothing: str) -> Any:
    return nothing if value is None else value


def _yes_no(value: Any) -> Any:
    return value if not isinstance(value, bool) else "yes" if value else "no"


def state_of(table: dict[str, Any]) -> str:
    """Return "active", "expired" or "revoked"."""
    if table.get("revoked"):
        return "revoked"
    expires = _moment(table)
    return "expired" if expires is not None and expires <= time.time() else "active"


def _expiry(table: dict[str, Any]) -> str | None:
    """Return the expiry in UTC, or as it is written if it is no date; None without one."""
    if (expires := _moment(table)) is not None:
        return datetime.fromtimestamp(expires, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return str(table["expires"]) if "expires" in table else None


def _moment(table: dict[str, Any]) -> float | None:
    try:
        return float(moment(table["expires"], Base(Path(), Path()))) if "expires" in table else None
    except ValueError:
        return None
