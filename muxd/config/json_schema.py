"""The JSON schema of muxd.toml, for editors: conf/muxd.schema.json, from the declarations of the keys.

An editor (taplo, Even Better TOML, tombi) takes it from the line `#:schema PATH` at the head of a file.  It knows
names, kinds and ranges; `muxd check` knows the rest.  Run `make reference` after a change of a
key; a test holds conf/muxd.schema.json equal.
"""

import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_origin, get_type_hints

from . import key_readers, readers, server_commands
from .declarations import KeyDeclaration, keys_of
from .half_options import HalfOptions
from .model_schema import MODEL_KEYS
from .schema import SECTIONS, Key
from .units import DURATION, SIZE

Schema = dict[str, Any]

_TEXT: Schema = {"type": "string"}
_TEXTS: Schema = {"type": "array", "items": _TEXT}

#: Kinds of values that follow from what a reader returns.
_BY_RESULT: dict[Any, Schema] = {
    bool: {"type": "boolean"},
    str: _TEXT,
    Path: _TEXT,
    tuple: _TEXTS,
    dict: {"type": "object"},
    readers.Address: {"type": "string", "pattern": ":[0-9]{1,5}$"},
}

_GPU: Schema = {"anyOf": [{"type": "integer", "minimum": 0}, _TEXT]}
_SIZE: Schema = {"anyOf": [{"type": "string", "pattern": f"^{SIZE.pattern}$"}, {"type": "integer", "minimum": 0}]}

#: Kinds of values of the other readers.
_BY_READER: dict[Any, Schema] = {
    readers.gpu_names: {
        "anyOf": [
            {"type": "array", "items": _GPU, "minItems": 1},
            {"type": "string", "pattern": "^auto(:[1-9][0-9]?)?$"},
        ]
    },
    readers.gpu_sizes: {"type": "object", "additionalProperties": _SIZE},
    readers.environment: {"type": "object", "additionalProperties": _TEXT},
    readers.labels: {"type": "object", "additionalProperties": _TEXT},
    readers.launch_script: {
        "anyOf": [
            _TEXT,
            {
                "type": "object",
                "properties": {"file": _TEXT, "args": _TEXTS},
                "required": ["file"],
                "additionalProperties": False,
            },
        ]
    },
    readers.ladder: {
        "type": "array",
        "items": {"type": "string", "pattern": f"^{DURATION.pattern} *-> *[0-3]$"},
    },
    readers.eviction_rule: {
        "anyOf": [{"const": "always"}, {"type": "string", "pattern": f"^never within {DURATION.pattern} of use$"}]
    },
    key_readers.moment: {},  # text, or a date of TOML, for which JSON has no kind
    server_commands.hook_steps: {"type": "array", "items": {"type": "object"}},
}


def json_schema() -> Schema:
    """Return the schema of a configuration file."""
    model = _table(MODEL_KEYS)
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "muxd.toml",
        "description": "Configuration of muxd. Durations are \"90s\", \"5min\", \"2h\" or seconds.",
        **_table({}),
        "properties": {
            **{name: _table(keys_of(table)) for name, table in SECTIONS.items()},
            "defaults": {"$ref": "#/definitions/model"},
            "models": {"type": "object", "additionalProperties": {"$ref": "#/definitions/model"}},
            "keys": {"type": "array", "items": _table(keys_of(Key))},
        },
        "definitions": {"model": model},
    }  # fmt: skip


def _table(keys: Mapping[str, KeyDeclaration]) -> Schema:
    properties = {name: _kind(declared) | {"description": declared.doc} for name, declared in keys.items()}
    return {"type": "object", "properties": properties, "additionalProperties": False}


def _kind(declared: KeyDeclaration) -> Schema:
    """Return which values a key takes, as far as JSON schema can say it."""
    read = declared.read
    if isinstance(read, type):
        return _table(keys_of(read))
    if read in _BY_READER:
        return _BY_READER[read]
    limits = inspect.getclosurevars(read).nonlocals
    match read.__qualname__.partition(".")[0]:
        case "choice":
            return {"enum": list(limits["allowed"])}
        case "integer":
            return {"type": "integer", "minimum": limits["low"], "maximum": limits["high"]}
        case "count_or_auto":
            return {
                "anyOf": [{"type": "integer", "minimum": limits["low"], "maximum": limits["high"]}, {"const": "auto"}]
            }
        case "number":
            return {"type": "number", "exclusiveMinimum": limits["above"], "maximum": limits["high"]}
        case "duration":
            text = f"^({DURATION.pattern}{'|inf' if limits['endless'] else ''})$"
            return {"anyOf": [{"type": "string", "pattern": text}, {"type": "number", "minimum": limits["low"]}]}
        case "size":
            return _SIZE
        case "half_or":
            return {"anyOf": [_table(keys_of(HalfOptions)), _TEXTS]}
    result = get_type_hints(read)["return"]
    return _BY_RESULT[get_origin(result) or result]


def schema_text() -> str:
    """Return the schema as a file has it."""
    return json.dumps(json_schema(), indent=1) + "\n"


if __name__ == "__main__":
    print(schema_text(), end="")
