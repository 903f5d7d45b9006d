"""llama-swap's configuration as muxd's: each command a model, by the engine that it plainly starts or as it is.

`swap_keys` declares every key; `swap_models` puts what a model's keys say together, `swap_peers` what peers serve.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from itertools import count
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from muxd.config.lines import KeyPath
from muxd.config.problems import Problems
from muxd.config.readers import integer, names
from muxd.config.server_commands import filled, placeholders_in
from muxd.config.sources import Source
from muxd.config.units import shown

from .documents import read_document
from .engine_commands import words_of
from .macros import PUBLIC, VARIABLE_MACRO, Macros, why_no_macro
from .swap_keys import KEYS
from .swap_models import port_of, put_models
from .swap_peers import peers_of, put_peer
from .translations import Conversion

DEFAULT_PORT = 8080
DEFAULT_START_PORT = 5800

#: Keys of a model in which ${PORT} becomes a placeholder of muxd's, and those in which a number must be written.
_WITH_PLACEHOLDER = ("cmd", "cmdStop", "proxy")
_WITH_NUMBER = ("env", "aliases", "useModelName", "checkEndpoint", "filters")


#: A variable of a server's that llama-swap hands on from its own environment.
_INHERITED = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)=\$\{env\.\1\}")


def convert(file: Path, problems: Problems) -> Conversion:
    """Return llama-swap's configuration as muxd's; what is wrong with it is noted in `problems`.

    Raise ConfigError where the file cannot be read.
    """
    source = read_document(file, is_yaml=True)
    models = source.table.get("models")
    if isinstance(models, dict):  # a name with nothing below it
        models = {name: {} if table is None else table for name, table in models.items()}
        source = replace(source, table={**source.table, "models": models})
    problems.also(source)
    conversion = Conversion(source, problems)
    if not isinstance(models, dict) or not models:
        conversion.wrong(("models",), "no model; write models: and NAME: with its cmd below it")
        return conversion
    macros = _macros(conversion, ("macros",), Macros({}, os.environ))
    variables: dict[str, KeyPath] = {}  # of llama-swap's environment, each with the first key that has it
    conversion.source, written_ports = _expanded(conversion, macros, variables)
    models = {name: table for name, table in conversion.source.table["models"].items() if isinstance(table, dict)}
    for name, table in models.items():
        _put_aliases(conversion, name, table)
    peers = peers_of(conversion)
    conversion.name_models([*conversion.source.table["models"], *peers], conversion.aliases)
    conversion.put(("proxy", "listen"), f"127.0.0.1:{DEFAULT_PORT}", ("models",))
    conversion.put(("defaults", "cwd"), ".", ("models",))
    conversion.remark((), "llama-swap listens on every address; `listen` under [proxy] says which ones muxd does")
    conversion.follow(KEYS)
    put_models(conversion, models, written_ports)
    for name, (peer, model) in peers.items():
        put_peer(conversion, name, peer, model, is_only=[each for _, each in peers.values()].count(model) == 1)
    if not conversion.tables.get("models") and not any(problems.told()):
        text = "none of them is on this host, and muxd starts none elsewhere"
        conversion.wrong(("models",), f'{text}; write muxd.toml, with engine = "remote" for those that run already')
    _tell_variables(conversion, variables)
    return conversion


def _tell_variables(conversion: Conversion, variables: Mapping[str, KeyPath]) -> None:
    """Say which variables of llama-swap's environment are written as their values; such a file is for its owner."""
    written = [*_texts(conversion.tables)]
    for variable, at in variables.items():
        value = os.environ.get(variable[len("${env.") : -1], "")
        if variable not in PUBLIC and value and any(value in text for text in written):
            conversion.is_private = True
            text = f"{variable} is written as its value, in plain text; a file that --output names is its owner's alone"
            conversion.remark(at, f"{text} (mode 0600)")


def _texts(value: Any) -> Iterator[str]:
    match value:
        case str():
            yield value
        case list() | tuple():
            yield from (text for item in value for text in _texts(item))
        case dict():
            yield from (text for pair in value.items() for item in pair for text in _texts(item))


def _macros(conversion: Conversion, at: KeyPath, around: Macros) -> Macros:
    """Return the macros that a mapping of the file defines, over those around it."""
    given: Any = conversion.source.table
    for part in at:
        given = given.get(part) if isinstance(given, dict) else None
    if given is None:
        return around
    if not isinstance(given, dict):
        conversion.wrong(at, "not a mapping; write NAME: VALUE below it")
        return around
    for name, value in given.items():
        if why := why_no_macro(name, value):
            conversion.wrong((*at, name), why)
    return around.within(given)


def _expanded(conversion: Conversion, around: Macros, variables: dict[str, KeyPath]) -> tuple[Source, dict[str, int]]:
    """Return the file with its macros replaced; a value whose macros are wrong is noted, and left as it is.

    Also return the numbers that were written for ${PORT}, by model, where muxd has no placeholder for it.  The
    variables that were put in are noted in `variables`.
    """

    def put_in(at: KeyPath, value: Any, macros: Macros) -> Any:
        macros.used.clear()
        found = _replaced(conversion, at, value, macros)
        for variable in sorted(used for used in macros.used if used.startswith("${")):
            variables.setdefault(variable, at)
        return found

    table = dict(conversion.source.table)
    for key, value in table.items():
        if key == "apiKeys" and isinstance(value, list):  # a key in a variable stays there
            is_kept = [isinstance(item, str) and VARIABLE_MACRO.fullmatch(item) is not None for item in value]
            replaced = [put_in((key, str(place)), item, around) for place, item in enumerate(value)]
            table[key] = [old if kept else new for old, new, kept in zip(value, replaced, is_kept, strict=True)]
        elif key not in ("models", "macros"):
            table[key] = put_in((key,), value, around)
    table["models"] = dict(conversion.source.table["models"])
    models = {name: dict(model) for name, model in table["models"].items() if isinstance(model, dict)}
    table["models"] |= models
    macros = {
        name: _macros(conversion, ("models", name, "macros"), around).within({"MODEL_ID": name}) for name in models
    }
    for name, model in models.items():
        placeholders = macros[name].within({"PORT": "{port}", "PID": "{pid}"})
        for key in [key for key in model if key in _WITH_PLACEHOLDER]:
            if key != "proxy" and isinstance(model[key], str):
                _refuse_literal(conversion, ("models", name, key), model[key], placeholders)
            model[key] = put_in(("models", name, key), model[key], placeholders)
    ports = _ports(conversion, table.get("startPort"), models)
    written = {}
    for name, model in models.items():
        for key in [key for key in model if key not in (*_WITH_PLACEHOLDER, "macros")]:
            at = ("models", name, key)
            port: Any = ports[name] if key == "filters" else str(ports[name])  # a field may be a number
            numbered = macros[name].within({"PORT": port})
            given = _without_inherited(conversion, at, model[key]) if key == "env" else model[key]
            model[key] = put_in(at, given, numbered)
            if "PORT" in numbered.used and key in _WITH_NUMBER:
                written[name] = ports[name]
                text = f"${{PORT}} is written as {port}, and so is port: a placeholder is for commands alone"
                conversion.remark(at, f"{text}; another port is to be written in all these places")
    return replace(conversion.source, table=table), written


def _without_inherited(conversion: Conversion, at: KeyPath, env: Any) -> Any:
    """Return the list of a server's variables without those that it has from muxd's own environment in any case."""
    if not isinstance(env, list):
        return env
    for item in env:
        if isinstance(item, str) and (own := _INHERITED.fullmatch(item)):
            conversion.remark(at, f"{own[1]} is left out: a server has muxd's own environment, which must have it")
    return [item for item in env if not (isinstance(item, str) and _INHERITED.fullmatch(item))]


def _ports(conversion: Conversion, start: Any, models: Mapping[str, Mapping[str, Any]]) -> dict[str, int]:
    """Return the port of each model as llama-swap chooses it: its own number, or the next one by the names' order."""
    given = [port_of(model.get("proxy")) for model in models.values()]
    first = conversion.read(("startPort",), start, integer(1, 65535)) if start is not None else None
    free = (number for number in count(first or DEFAULT_START_PORT) if number not in given)
    chosen: dict[str, int] = {}
    for name in sorted(models):
        own = port_of(models[name].get("proxy"))
        if own is not None and given.count(own) == 1:
            chosen[name] = own
        else:
            chosen[name] = next(free)
    return chosen


def _replaced(conversion: Conversion, at: KeyPath, value: Any, macros: Macros) -> Any:
    try:
        if at[-1] in ("cmd", "cmdStop") and isinstance(value, str):
            value = _without_comments(value)
        return macros.expanded(value)
    except ValueError as error:
        conversion.wrong(at, str(error))
        return value


def _without_comments(command: str) -> str:
    """Return a command without its lines of comment: a macro there is none."""
    return "\n".join(line for line in command.split("\n") if not line.lstrip().startswith("#"))


def _refuse_literal(conversion: Conversion, at: KeyPath, command: str, macros: Macros) -> None:
    """Note the first word of a command that would not reach its program as it does with llama-swap.

    That is one with braces of its own that muxd reads as a placeholder, as of "{model}", or that hide one from it.
    """
    numbered = macros.within({"PORT": "1", "PID": "2"})
    try:
        words, expected = (words_of(str(each.expanded(_without_comments(command)))) for each in (macros, numbered))
    except ValueError:  # which is told elsewhere
        return
    for word, meant in zip(words, expected, strict=True):
        values = {name: [""] for name in placeholders_in([word])} | {"port": ["1"], "pid": ["2"]}
        if " ".join(filled([word], values)) != meant:
            text = f"{shown(word)} has braces that muxd would replace"
            conversion.wrong(at, f"{text}; put the command into a script, and start that")
            return


def _put_aliases(conversion: Conversion, name: str, table: Mapping[str, Any]) -> None:
    """Note what clients may call a model beside its name; each name means one model."""
    at = ("models", name, "aliases")
    found = conversion.read(at, table.get("aliases") or [], names) or ()
    filters = table.get("filters")
    by_id = filters.get("setParamsByID") if isinstance(filters, dict) else None
    for alias in dict.fromkeys([*found, *(by_id if isinstance(by_id, dict) else ())]):
        if alias != name and alias in conversion.source.table["models"]:
            conversion.wrong(at, f"{shown(alias)} is a model's name; take it out here")
        elif (other := conversion.aliases.setdefault(alias, name)) != name:
            conversion.wrong(at, f"{shown(alias)} is an alias of {other} already; give each name to one model")
