"""Every key and flag of llama-swap, with what becomes of it; what several keys say together is put by `swap_models`."""

from __future__ import annotations

from hashlib import sha256
from typing import Any

from muxd.config.lines import KeyPath
from muxd.config.names import did_you_mean
from muxd.config.readers import Reader, boolean, choice, integer, names
from muxd.config.units import show_duration, shown

from .macros import VARIABLE_MACRO
from .swap_filters import fields_put_in, fields_taken_out
from .translations import ANY, Conversion, Take, Translation, Translations, lost, put

_NO_FACTS = "`/v1/models` says what the model's server says"
_NO_STORE = "`/metrics` counts every request, and `access_log` has a line for each"
_NO_UI = "there is no web page; `muxctl status --watch` shows what goes on"
_NO_CHOICE = "a request names its model; several names for one model are `served_names`"
_NO_MATRIX = "who may be awake together follows from what fits on the GPUs, by `memory` or as it was measured"
_NO_LOG = "muxd's log goes to stderr, a model's to `log_dir`; `muxctl logs NAME` shows it"
_ONE_TIMEOUT = "`[proxy] upstream_timeout` is one for all models"


def _seconds(low: int = 0) -> Reader[int]:
    return integer(low, 10**9)


def _ttl(conversion: Conversion, at: KeyPath, value: Any) -> None:
    conversion.read(at, value, integer(-1, 10**9))


def _start_timeout(conversion: Conversion, at: KeyPath, value: Any) -> None:
    if (seconds := conversion.read(at, value, _seconds())) is not None:
        conversion.put(("defaults", "start_timeout"), show_duration(max(15, seconds)), at)  # llama-swap's own least


def _stop_timeout(target: str) -> Take:
    def take(conversion: Conversion, at: KeyPath, value: Any) -> None:
        if conversion.read(at, value, _seconds()):
            put(target, _seconds(), show_duration)(conversion, at, value)

    return take


def _stripped(conversion: Conversion, at: KeyPath, value: Any) -> None:
    other = {"strip_params": "stripParams"}.get(at[-1])  # the old name, and the new one
    if other and conversion.source.table["models"][at[1]]["filters"].get(other, value) != value:
        conversion.wrong(at, f"{other} is there as well, and says something else; write one of the two")
        return
    conversion.put(
        ("models", conversion.table_names[at[1]], "strip_params"), fields_taken_out(conversion, at, value), at
    )


def _set_params(conversion: Conversion, at: KeyPath, value: Any) -> None:
    conversion.put(("models", conversion.table_names[at[1]], "set_params"), fields_put_in(conversion, at, value), at)


def _params_by_id(conversion: Conversion, at: KeyPath, value: Any) -> None:
    """Note what is lost; the keys stay names of the model, as they are with llama-swap."""
    if not isinstance(value, dict):
        conversion.wrong(at, "not a mapping; write NAME: and the fields below it")
    elif value:
        conversion.remark(at, "no equal: set_params are those of the model, whichever name a client writes")


def _api_keys(conversion: Conversion, at: KeyPath, value: Any) -> None:
    """Put a table of [[keys]] for each key, never its text: its SHA-256, or the variable that holds it."""
    if not isinstance(value, list) or not all(isinstance(item, str) and item for item in value):
        conversion.wrong(at, "not a list of keys; write - KEY below it")
        return
    for place, secret in enumerate(value):
        variable = VARIABLE_MACRO.fullmatch(secret)
        hashed = sha256(secret.encode(errors="surrogateescape")).hexdigest()
        conversion.add_key(
            {
                "name": f"key-{place + 1}",
                **({"secret_env": variable[1]} if variable else {"secret_sha256": hashed}),
            },
            (*at, str(place)),
        )


def _group(conversion: Conversion, at: KeyPath, value: Any) -> None:
    """Put `pinned` for the members of a persistent group, and say what else of it has no equal."""
    if not isinstance(value, dict) or (unknown := next((key for key in value if key not in _GROUP), None)) is not None:
        what = f"{shown(unknown)} is no key of a group" if isinstance(value, dict) else "not a group"
        conversion.wrong(at, f"{what}; there are {', '.join(_GROUP)}")
        return
    flags = {key: conversion.read((*at, key), given, boolean) for key, given in value.items() if key != "members"}
    members = conversion.read((*at, "members"), value.get("members") or [], names) or ()
    for member in members:
        if member not in conversion.table_names:
            conversion.wrong(
                (*at, "members"), f"no model {shown(member)}; {did_you_mean(member, conversion.table_names)}"
            )
        elif flags.get("persistent"):
            conversion.put(("models", conversion.table_names[member], "pinned"), True, (*at, "persistent"))
    if flags.get("swap") is False or flags.get("exclusive") is False:
        conversion.remark(at, f"no equal: {_NO_MATRIX.replace('`', '')}")


_GROUP = ("swap", "exclusive", "persistent", "members")


def _preload(conversion: Conversion, at: KeyPath, value: Any) -> None:
    for name in conversion.read(at, value, names) or ():
        if (table := conversion.named(name)) is None:
            conversion.wrong(at, f"no model {shown(name)}; {did_you_mean(name, conversion.table_names)}")
        else:
            conversion.put(("models", table, "preload"), True, at)


_TIMEOUTS: Translations = dict.fromkeys(
    ("connect", "keepalive", "responseHeader", "tlsHandshake", "expectContinue", "idleConn"), lost(_ONE_TIMEOUT)
)

_MODEL: Translations = {
    "cmd": Translation(
        '`command`, with `engine = "openai"`; of a plain `vllm serve` or `sglang.launch_server`: `engine`, `python`, '
        "`model_path`, `args`"
    ),
    "cmdStop": Translation("`stop_command`; a plain `kill -SIGNAL ${PID}` is `stop_signal`"),
    "proxy": Translation("`port`, where the address is of this host; `${PORT}` is `{port}`, which muxd chooses"),
    "checkEndpoint": Translation("`ready_path`; with `none`, `/` is asked; vLLM and SGLang are asked at `/health`"),
    "env": Translation("`env`; CUDA_VISIBLE_DEVICES is `gpus`; `NAME=${env.NAME}` is left to muxd's own environment"),
    "aliases": Translation("`served_names`"),
    "useModelName": Translation("`upstream_name`"),
    "macros": Translation("put in where they are used"),
    "ttl": Translation(
        '`idle`: after 600 s, `["10min -> 3"]`; a model of a persistent group is `pinned` instead', _ttl
    ),
    "unloadTimeout": Translation("`stop_timeout`", _stop_timeout("models.*.stop_timeout")),
    "concurrencyLimit": Translation(
        "`concurrency_limit`: further requests wait, and get 429 where more than `queue_limit` do",
        put("models.*.concurrency_limit", integer(0, 1_000_000)),
    ),
    "filters": {
        "stripParams": Translation("`strip_params`", _stripped),
        "strip_params": Translation("`strip_params`", _stripped),
        "setParams": Translation("`set_params`", _set_params),
        "setParamsByID": Translation("the names stay names of the model; its fields have no equal", _params_by_id),
    },
    "unlisted": lost("`/v1/models` lists every model; a key's `models` says which ones its holder sees"),
    **dict.fromkeys(("name", "description", "metadata", "capabilities"), lost(_NO_FACTS)),
    "sendLoadingState": lost("comments in the stream tell phase and ETA, see `[proxy] comment_interval`"),
    "timeouts": _TIMEOUTS,
    "compat": {"ignoreWebsockets": lost("the proxy speaks no websockets")},
}

_PEER: Translations = {
    "proxy": Translation('`urls`, with `engine = "remote"`: a table for each model, behind a router'),
    "models": Translation("a table for each, asked for as PEER/MODEL, and as MODEL where no other has that name"),
    "apiKey": Translation("`api_key_env`, the variable that holds it"),
    "filters": {"stripParams": Translation("`strip_params`"), "setParams": Translation("`set_params`")},
    "timeouts": _TIMEOUTS,
}

_GROUPS: Translations = {
    ANY: Translation(
        "a group: `pinned` where it is persistent; `swap` and `exclusive` have no equal: what fits is awake",
        _group,
    )
}

#: Every key of llama-swap.
KEYS: Translations = {
    "models": {ANY: _MODEL},
    "macros": Translation("put in where they are used"),
    "startPort": Translation(
        "where a number must be written for `${PORT}`; else muxd chooses a free port for each start", lambda *_: None
    ),
    "healthCheckTimeout": Translation("`start_timeout`", _start_timeout),
    "unloadTimeout": Translation("`stop_timeout`", _stop_timeout("defaults.stop_timeout")),
    "globalTTL": Translation("`idle` of each model without one of its own", _ttl),
    "logLevel": Translation(
        "`[muxd] log_level`",
        put("muxd.log_level", choice("debug", "info", "warn", "error"), lambda level: level.replace("warn", "warning")),
    ),
    **dict.fromkeys(("logTimeFormat", "logToStdout", "logRequests"), lost(_NO_LOG)),
    **dict.fromkeys(("metricsMaxInMemory", "captureBuffer"), lost(_NO_STORE)),
    "store": {"path": lost(_NO_STORE)},
    "performance": {"disabled": lost(_NO_STORE), "every": lost(_NO_STORE)},
    "ui": {"activity": {"session_id": lost(_NO_UI)}},
    "sendLoadingState": lost("comments in the stream tell phase and ETA, see `[proxy] comment_interval`"),
    "includeAliasesInList": Translation("always: `/v1/models` has every name", lambda *_: None),
    "apiKeys": Translation("`[[keys]]`, by their SHA-256 or the variable that holds one", _api_keys),
    "hooks": {"on_startup": {"preload": Translation("`preload`", _preload)}},
    "groups": _GROUPS,
    "matrix": lost(_NO_MATRIX),
    "routing": {
        "router": {
            "use": Translation("which of the two below counts", lambda *_: None),
            "settings": {"groups": _GROUPS, "matrix": lost(_NO_MATRIX)},
        },
        "scheduler": lost("whose turn it is follows from the waits that are stated, see `[policy] wait_target`"),
    },
    "peers": {ANY: _PEER},
    **dict.fromkeys(("profiles", "selectors"), lost(_NO_CHOICE)),
    "upstream": {"ignorePaths": lost("there is no `/upstream`; a model's own server is at its `port`, on loopback")},
}

#: Every flag of llama-swap.
FLAGS = {
    "`-config FILE`": "`muxd import llama-swap FILE -o muxd.toml`, once",
    "`-config-dir DIR`": "`muxd import` for each file; results in `muxd.d/` are merged",
    "`-listen ADDRESS`": "`[proxy] listen`, or `muxd start --host HOST --listen-port PORT`",
    "`-watch-config`": "`muxctl reload` takes a changed configuration over",
    "`-tls-cert-file`, `-tls-key-file`": "no equal: muxd speaks plain HTTP, and a server in front of it speaks TLS",
    "`-version`": "`muxd --version`",
}
