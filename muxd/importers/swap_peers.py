"""Models that llama-swap finds at its peers: servers that run already, on other hosts."""

from __future__ import annotations

import re
from pathlib import Path

from muxd.config.lines import KeyPath
from muxd.config.readers import Base, names, server_urls
from muxd.config.units import shown

from .macros import VARIABLE_MACRO
from .swap_filters import fields_put_in, fields_taken_out
from .translations import Conversion

_ANYWHERE = Base(Path("/"), Path("/"), host=False)


def peers_of(conversion: Conversion) -> dict[str, tuple[str, str]]:
    """Return the models of other hosts by their full names, each with its peer and its own name."""
    found = {}
    given = conversion.source.table.get("peers") or {}
    for peer, table in given.items() if isinstance(given, dict) else ():
        models = table.get("models") if isinstance(table, dict) else None
        if isinstance(table, dict) and not table.get("proxy"):
            conversion.wrong(("peers", peer), "proxy is missing; write the URL of that host")
            continue
        for model in conversion.read(("peers", peer, "models"), models or [], names) or ():
            name = f"{peer}/{model}"
            if name in conversion.source.table["models"] or name in conversion.aliases:
                conversion.wrong(
                    ("peers", peer, "models"), f"{shown(name)} is a model of this file already; rename one"
                )
            found[name] = (peer, model)
    return found


def put_peer(conversion: Conversion, name: str, peer: str, model: str, *, is_only: bool) -> None:
    """Put the table of a model that another host serves."""
    at: KeyPath = ("peers", peer)
    table = conversion.source.table["peers"][peer]
    path = ("models", conversion.table_names[name])
    try:
        server_urls([table.get("proxy")], _ANYWHERE)
    except ValueError as error:
        conversion.drop_model(name)
        conversion.remark((*at, "proxy"), f"{model} is left out: {error}")
        return
    is_free = is_only and model not in conversion.source.table["models"] and model not in conversion.aliases
    conversion.put((*path, "engine"), "remote", at)
    conversion.put((*path, "urls"), [table["proxy"]], (*at, "proxy"))
    conversion.put((*path, "served_names"), [name, *([model] if is_free else [])], (*at, "models"))
    conversion.put((*path, "upstream_name"), model, (*at, "models"))
    filters = table.get("filters")
    for key, becomes, kept in (
        ("stripParams", "strip_params", fields_taken_out),
        ("setParams", "set_params", fields_put_in),
    ):
        if isinstance(filters, dict) and filters.get(key):
            inside = (*at, "filters", key)
            conversion.put((*path, becomes), kept(conversion, inside, filters[key]), inside)
    if table.get("apiKey"):
        kept_in = VARIABLE_MACRO.fullmatch(str(conversion.original.table["peers"][peer]["apiKey"]))
        variable = kept_in[1] if kept_in else f"{re.sub('[^A-Z0-9]', '_', peer.upper())}_API_KEY"
        conversion.put((*path, "api_key_env"), variable, (*at, "apiKey"))
        if kept_in is None:
            conversion.remark((*at, "apiKey"), f"the key is not written: put it into muxd's environment as {variable}")
