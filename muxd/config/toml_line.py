"""A TOML value on one line, as people write it; tomli-w itself spreads tables and lists over several."""

import re
from typing import Any

import tomli_w

_BARE = re.compile(r"[A-Za-z0-9_-]+")


def toml_line(key: str, value: Any) -> str:
    """Return a key with its value, and the end of the line."""
    return f"{toml_key(key)} = {on_one_line(value)}\n"


def toml_key(*path: str) -> str:
    """Return the path of a key or a table, its parts quoted where they have to be."""
    return ".".join(part if _BARE.fullmatch(part) else on_one_line(part) for part in path)


def on_one_line(value: Any) -> str:
    """Return a TOML value on one line."""
    if isinstance(value, dict):
        inner = ", ".join(f"{toml_key(key)} = {on_one_line(item)}" for key, item in value.items())
        return f"{{ {inner} }}" if inner else "{}"
    if isinstance(value, list):
        return "[" + ", ".join(map(on_one_line, value)) + "]"
    return tomli_w.dumps({"x": value}).removeprefix("x = ").rstrip("\n")
