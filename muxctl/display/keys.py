"""API keys as people and programs are told of them: neither a secret nor its hash."""

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from muxctl.display.tables import plain
from muxd.config.key_tables import KeyTable, moment
from muxd.config.readers import Base


def as_json(entry: KeyTable) -> dict[str, Any]:
    """What is written, also where it cannot be used, which `muxd check` tells; null is what is not."""
    shown = {key: entry.table.get(key) for key in ("name", "models", "requests_per_minute")}
    return {
        **shown,
        "priority": entry.table.get("priority", 0),
        "comments": entry.table.get("comments", True),
        "expires": _expiry(entry.table),
        "state": state_of(entry.table),
        "file": str(entry.source.file),
        "line": entry.line,
    }


def rows(entries: Sequence[KeyTable]) -> list[tuple[str, ...]]:
    """NAME, MODELS, RPM, PRIORITY, COMMENTS, EXPIRES, STATE, FILE."""
    return [_row(as_json(entry)) for entry in entries]


def _row(shown: dict[str, Any]) -> tuple[str, ...]:
    models = shown["models"]
    cells = (
        _or(shown["name"], "-"),
        ",".join(map(str, models)) if isinstance(models, list) else _or(models, "all"),
        _or(shown["requests_per_minute"], "-"),
        shown["priority"],
        _yes_no(shown["comments"]),
        _or(shown["expires"], "never"),
        shown["state"],
        shown["file"],
    )
    return tuple(map(plain, cells))


def _or(value: Any, nothing: str) -> Any:
    return nothing if value is None else value


def _yes_no(value: Any) -> Any:
    return value if not isinstance(value, bool) else "yes" if value else "no"


def state_of(table: dict[str, Any]) -> str:
    """active, expired or revoked."""
    if table.get("revoked"):
        return "revoked"
    expires = _moment(table)
    return "expired" if expires is not None and expires <= time.time() else "active"


def _expiry(table: dict[str, Any]) -> str | None:
    """In UTC; as it is written where it is no date."""
    if (expires := _moment(table)) is not None:
        return datetime.fromtimestamp(expires, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return str(table["expires"]) if "expires" in table else None


def _moment(table: dict[str, Any]) -> float | None:
    try:
        return float(moment(table["expires"], Base(Path(), Path()))) if "expires" in table else None
    except ValueError:
        return None
