"""Draws a JSON value that fits a JSON schema, as far as schemas of tools go, and splits its JSON text into tokens.

Understood are type, enum, const, properties, items, the first of anyOf, oneOf and allOf, $ref into $defs, and the
bounds of numbers, strings and arrays.  Other demands of a schema are ignored.
"""

import json
import random
import re
from typing import Any

_DEPTH = 8  # levels of nesting, at most: a schema may refer to itself
_PIECE = re.compile(r"\s*\w+|\s*\W")


def fitting(schema: Any, draw: random.Random, words: list[str]) -> Any:
    """Return a value that fits the schema, drawn from `draw`; strings are made of `words`."""
    return _Drawing(schema if isinstance(schema, dict) else {}, draw, words).value(schema)


def spelled(value: Any) -> list[str]:
    """Return the tokens of the value's JSON text."""
    return _PIECE.findall(json.dumps(value))


class _Drawing:
    """Draws values for one schema and the schemas in it."""

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
        """Return the schema itself, or the one that its $ref names; {} where that is none."""
        resolved: Any = schema
        if isinstance(schema, dict) and isinstance(schema.get("$ref"), str):
            resolved = self._root
            for name in schema["$ref"].removeprefix("#/").split("/"):
                resolved = resolved.get(name, {}) if isinstance(resolved, dict) else {}
        return resolved if isinstance(resolved, dict) else {}

    def _of_type(self, kind: Any, schema: dict[str, Any], depth: int) -> Any:
        deep = depth > _DEPTH
        match kind:
            case "object":
                properties = schema.get("properties")
                items = properties.items() if isinstance(properties, dict) and not deep else ()
                return {name: self.value(subschema, depth + 1) for name, subschema in items}
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
