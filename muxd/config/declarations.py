"""Declarations of configuration keys: everything about a key but its meaning in the code.

A key is one field of a dataclass in `schema`, `model_schema` or `engine_options`, made by `key`.  From the declarations
follow what the files may hold (`load`), the table that a misplaced key belongs to, the plan of a reload (`plan`), the
settings that the proxy is told (`proxy_settings`) and the reference, conf/muxd.toml (`reference`).
"""

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from .readers import Base, Reader

T = TypeVar("T")
U = TypeVar("U")

_DECLARATION = "muxd.key"
_MISSING: Any = object()
_ANYWHERE = Base(Path("/"), Path("/"))


@dataclass(frozen=True, slots=True)
class KeyDeclaration:
    """What `key` was told of one key."""

    read: Reader[Any] | type  # a type: the key is a table, whose own keys are the type's
    doc: str
    shown: Any  # the default, or an example for the reference, as a user writes it
    live: bool | Callable[[Any, Any], bool]
    told: bool | Callable[[Any], Any]
    unset: Any  # value that stands for a key that nobody wrote, and cannot be written

    def is_live(self, old: Any, new: Any) -> bool:
        """Say whether a reload takes over the change from `old` to `new` without a restart."""
        return self.live if isinstance(self.live, bool) else self.live(old, new)


def key(
    read: Reader[T] | type[T],
    default: Any = _MISSING,
    *,
    doc: str,
    unset: U = _MISSING,
    example: Any = None,
    live: bool | Callable[[Any, Any], bool] = False,
    told: bool | Callable[[Any], Any] = False,
    **options: Any,
) -> T | U:
    """Return a dataclass field that is a key of the configuration.

    `read`: reader of its value; a dataclass for a key that is a table.
    `default`: as a user would write it, "10min".  Without one, `unset` is the value where nobody wrote the key; without
    either, the key has no default, or one that `load` takes from the environment.
    `doc`: what the key does, for the reference; `example`: a value for the reference where `default` is none.
    `live`: whether a reload takes a change over; else it takes a restart of muxd, or of the worker for a model's key.
    `told`: whether the proxy is told the value, or a function that returns the value to tell.
    `options`: those of `dataclasses.field`.
    """
    has_default = default is not _MISSING
    declaration = KeyDeclaration(read, doc, default if has_default else example, live, told, unset)
    if has_default:
        value = read() if isinstance(read, type) else read(default, _ANYWHERE)
        options |= {"default_factory": value.copy} if isinstance(value, dict) else {"default": value}
    elif unset is not _MISSING:
        options["default"] = unset
    made: Any = field(metadata={_DECLARATION: declaration}, **options)
    return made  # type: ignore[no-any-return]  # as with dataclasses.field, the type is that of the field's values


def keys_of(table: object) -> dict[str, KeyDeclaration]:
    """Return the keys of a table, or of its dataclass, in their order; fields that no user can write are left out."""
    return _keys_of(table if isinstance(table, type) else type(table))


@cache
def _keys_of(table: type) -> dict[str, KeyDeclaration]:
    return {each.name: each.metadata[_DECLARATION] for each in fields(table) if _DECLARATION in each.metadata}
