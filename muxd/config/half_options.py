"""The tables `prefill` and `decode` of a model whose prompts some workers read, and whose answers others write."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .declarations import key, keys_of
from .readers import Base, Reader, choice, integer, texts
from .units import shown

#: The keys of both halves.
HALVES = ("prefill", "decode")


@dataclass(frozen=True, slots=True)
class HalfOptions:
    """One half of a model: the workers that prefill, or those that decode."""

    replicas: int = key(integer(1, 64), 1, doc="So many workers.")
    policy: str = key(
        choice("cache_aware", "power_of_two", "random", "round_robin", "manual"),
        unset="",
        example="cache_aware",
        doc="By which the router chooses among them.  Default: the router's policy.",
    )
    args: tuple[str, ...] = key(texts, [], doc="Further flags of these workers, after the model's.")


def half_or(servers: Reader[tuple[str, ...]]) -> Callable[[Any, Base], HalfOptions | tuple[str, ...]]:
    """Return a reader of a table of HalfOptions, or else of a list of servers."""

    def read(value: Any, base: Base) -> HalfOptions | tuple[str, ...]:
        if not isinstance(value, dict):
            return servers(value, base)
        declared = keys_of(HalfOptions)
        if unknown := [name for name in value if name not in declared]:
            raise ValueError(f"{shown(unknown[0])} is no key of it; known: {', '.join(declared)}")
        given = {}
        for name, each in value.items():
            reader = declared[name].read
            assert not isinstance(reader, type)
            try:
                given[name] = reader(each, base)
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from None
        return HalfOptions(**given)

    return read
