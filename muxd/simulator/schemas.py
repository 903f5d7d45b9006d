"""A JSON value that fits a JSON schema, as far as schemas of tools go, and the tokens that spell it.

Understood: type, enum, const, properties, items, anyOf, oneOf, allOf's first, $ref into $defs,
and the bounds of numbers, strings and arrays.  What else a schema demands is not looked at.
"""

import json
import random
import re
from typing import Any

_DEPTH = 8  # a schema that refers to itself ends here
_PIECE = re.compile(r"\s*\w+|\s*\W")


def fitting(schema: Any, draw: random.Random, words: list[str]) -> Any:
    """A value that `draw` decides on; strings are made of `words`."""
    return _Drawing(schema if isinstance(schema, dict) else {}, draw, words).value(schema)


def spelled(value: Any) -> list[str]:
    """The tokens of the value's JSON text."""
    return _PIECE.findall(json.dumps(value))


class _Drawing:
    def __init__(self, root: dict[str, Any], draw: random.Random, words: list[str]) -> None:
        self._root = root
        self._draw = draw
        self._words = words

    def value(self, schema: Any, depth: int = 0) -> Any:
        schema = self._resolved(schema)
        if "const" in schema:
            return schema["const"]
        if isinstance(schema.get("enum"), list) and schema["enum"]:
            return self._draw.choice(schema["enum"])
        for several in ("anyOf", "oneOf", "allOf"):
            if isinstance(schema.get(several), list) and schema[several]:
                return self.value(schema[several][0], depth + 1)
        return self._of_type(_type(schema), schema, depth)

    def _resolved(self, schema: Any) -> dict[str, Any]:
        """The schema itself, or what its $ref names."""
        found: Any = schema
        if isinstance(schema, dict) and isinstance(schema.get("$ref"), str):
            found = self._root
            for name in schema["$ref"].removeprefix("#/").split("/"):
                found = found.get(name, {}) if isinstance(found, dict) else {}
        return found if isinstance(found, dict) else {}

    def _of_type(self, kind: Any, schema: dict[str, Any], depth: int) -> Any:
        deep = depth > _DEPTH
        match kind:
            case "object":
                named = schema.get("properties")
                several = named.items() if isinstance(named, dict) and not deep else ()
                return {name: self.value(one, depth + 1) for name, one in several}
            case "array":
                fewest = 0 if deep else int(_bound(schema, "minItems", 1))
                return [self.value(schema.get("items"), depth + 1) for _ in range(fewest)]
            case "integer":
                low = int(_bound(schema, "minimum", 0))
                return self._draw.randint(low, max(low, int(_bound(schema, "maximum", low + 99))))
            case "number":
                least = _bound(schema, "minimum", 0)
                return self._draw.uniform(least, max(least, _bound(schema, "maximum", least + 99)))
            case "boolean":
                return self._draw.random() < 0.5
            case "null":
                return None
        return self._string(schema)

    def _string(self, schema: dict[str, Any]) -> str:
        text = self._draw.choice(self._words)
        while len(text) < _bound(schema, "minLength", 0):
            text += " " + self._draw.choice(self._words)
        return text[: int(_bound(schema, "maxLength", len(text)))]


def _bound(schema: dict[str, Any], name: str, otherwise: float) -> float:
    value = schema.get(name)
    return value if isinstance(value, int | float) else otherwise


def _type(schema: dict[str, Any]) -> Any:
    kind = schema.get("type", "object" if "properties" in schema else "string")
    return next((one for one in kind if one != "null"), "null") if isinstance(kind, list) else kind
