"""llama-swap's configuration as muxd's: each command a model, by the engine that it plainly starts or as it is."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from muxd.config.command_lines import NotKnown, container_gpus
from muxd.config.devices import VARIABLE, visible
from muxd.config.lines import KeyPath
from muxd.config.loopback import is_loopback
from muxd.config.names import did_you_mean
from muxd.config.problems import Problems
from muxd.config.readers import Base, Reader, boolean, choice, integer, names, server_urls, text
from muxd.config.rules import OWNED_ENV
from muxd.config.units import show_duration, shown

from .documents import read_document
from .engine_commands import (
    EngineCommand,
    engine_command,
    gpus_of,
    in_container,
    repeated_flag,
    with_placeholder,
    words_of,
)
from .macros import Macros, why_no_macro
from .translations import ANY, Conversion, Take, Translation, Translations, lost, put

DEFAULT_PORT = 8080
_ANYWHERE = Base(Path("/"), Path("/"), host=False)

_ENV = re.compile(r"\$\{env\.([A-Za-z_][A-Za-z0-9_]*)\}")
_KILL = re.compile(r"kill\s+(?:-s\s+)?-?(?:SIG)?(TERM|INT|QUIT|HUP|USR1|USR2)\s+\$\{PID\}\s*")

_NO_TTL = "a model gives way when another one needs its GPU, not after a time; `muxctl sleep NAME` says when"
_NO_FACTS = "`/v1/models` says what the model's server says"
_NO_STORE = "`/metrics` counts every request, and `access_log` has a line for each"
_NO_UI = "there is no web page; `muxctl status --watch` shows what goes on"
_NO_CHOICE = "a request names its model; several names for one model are `served_names`"
_NO_MATRIX = "who may be awake together follows from what fits on the GPUs, by `memory` or as it was measured"
_NO_LOG = "muxd's log goes to stderr, a model's to `log_dir`; `muxctl logs NAME` shows it"
_CLIENTS_STREAM = "stream is left out: it is the client's to say"
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
    conversion.put(("models", conversion.table_names[at[1]], "strip_params"), _taken_out(conversion, at, value), at)


def _set_params(conversion: Conversion, at: KeyPath, value: Any) -> None:
    conversion.put(("models", conversion.table_names[at[1]], "set_params"), _put_in(conversion, at, value), at)


def _taken_out(conversion: Conversion, at: KeyPath, value: Any) -> list[str]:
    """Return the fields that are taken out of requests; what is not is noted."""
    fields = dict.fromkeys(field.strip() for field in (conversion.read(at, value, text) or "").split(","))
    if "stream" in fields:
        conversion.remark(at, _CLIENTS_STREAM)
    return [field for field in fields if field not in ("", "model", "stream")]


def _put_in(conversion: Conversion, at: KeyPath, value: Any) -> dict[str, Any]:
    """Return the fields that are set in requests; what is not is noted."""
    if not isinstance(value, dict):
        conversion.wrong(at, "not a mapping; write temperature: 0.7 below it")
        return {}
    if "stream" in value:
        conversion.remark(at, _CLIENTS_STREAM)
    if None in value.values():
        conversion.remark(at, "no equal: a field that is set to null; strip_params takes it out of requests")
    return {field: given for field, given in value.items() if field not in ("model", "stream") and given is not None}


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
        variable = _ENV.fullmatch(secret)
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
    "checkEndpoint": Translation("`ready_path`; with `none`, `/` is asked"),
    "env": Translation("`env`; CUDA_VISIBLE_DEVICES is `gpus`"),
    "aliases": Translation("`served_names`"),
    "useModelName": Translation("`upstream_name`"),
    "macros": Translation("put in where they are used"),
    "ttl": Translation(_NO_TTL, _ttl, is_lost=True),
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
    "startPort": Translation("not needed: muxd chooses a free port for each start", lambda *_: None),
    "healthCheckTimeout": Translation("`start_timeout`", _start_timeout),
    "unloadTimeout": Translation("`stop_timeout`", _stop_timeout("defaults.stop_timeout")),
    "globalTTL": Translation(_NO_TTL, _ttl, is_lost=True),
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


def convert(file: Path, problems: Problems) -> Conversion:
    """Return llama-swap's configuration as muxd's; what is wrong with it is noted in `problems`.

    Raise ConfigError where the file cannot be read.
    """
    source = read_document(file, is_yaml=True)
    problems.also(source)
    conversion = Conversion(source, problems)
    models = source.table.get("models")
    if not isinstance(models, dict) or not models:
        conversion.wrong(("models",), "no model; write models: and NAME: with its cmd below it")
        return conversion
    macros = _macros(conversion, ("macros",), Macros({}, os.environ))
    conversion.source = _expanded(conversion, macros)
    models = {name: table for name, table in conversion.source.table["models"].items() if isinstance(table, dict)}
    for name, table in models.items():
        _put_aliases(conversion, name, table)
    peers = _peers(conversion)
    conversion.name_models([*conversion.source.table["models"], *peers], conversion.aliases)
    conversion.put(("proxy", "listen"), f"127.0.0.1:{DEFAULT_PORT}", ("models",))
    conversion.put(("defaults", "cwd"), ".", ("models",))
    conversion.remark((), "llama-swap listens on every address; `listen` under [proxy] says which ones muxd does")
    conversion.follow(KEYS)
    ports = [_port_of(table.get("proxy")) for table in models.values()]
    for name, table in models.items():
        _SwapModel(conversion, name, table, shares_port=ports.count(_port_of(table.get("proxy"))) > 1).put()
    for name, (peer, model) in peers.items():
        _put_peer(conversion, name, peer, model, is_only=[each for _, each in peers.values()].count(model) == 1)
    return conversion


def _peers(conversion: Conversion) -> dict[str, tuple[str, str]]:
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


def _put_peer(conversion: Conversion, name: str, peer: str, model: str, *, is_only: bool) -> None:
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
    for key, becomes, kept in (("stripParams", "strip_params", _taken_out), ("setParams", "set_params", _put_in)):
        if isinstance(filters, dict) and filters.get(key):
            inside = (*at, "filters", key)
            conversion.put((*path, becomes), kept(conversion, inside, filters[key]), inside)
    if table.get("apiKey"):
        kept_in = _ENV.fullmatch(str(conversion.original.table["peers"][peer]["apiKey"]))
        variable = kept_in[1] if kept_in else f"{re.sub('[^A-Z0-9]', '_', peer.upper())}_API_KEY"
        conversion.put((*path, "api_key_env"), variable, (*at, "apiKey"))
        if kept_in is None:
            conversion.remark((*at, "apiKey"), f"the key is not written: put it into muxd's environment as {variable}")


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


def _expanded(conversion: Conversion, around: Macros) -> Any:
    """Return the file with its macros replaced; a value whose macros are wrong is noted, and left as it is."""
    table = dict(conversion.source.table)
    for key, value in table.items():
        if key == "apiKeys" and isinstance(value, list):  # a key in a variable stays there
            is_kept = [isinstance(item, str) and _ENV.fullmatch(item) is not None for item in value]
            replaced = [_replaced(conversion, (key, str(place)), item, around) for place, item in enumerate(value)]
            table[key] = [old if kept else new for old, new, kept in zip(value, replaced, is_kept, strict=True)]
        elif key not in ("models", "macros"):
            table[key] = _replaced(conversion, (key,), value, around)
    table["models"] = {}
    for name, model in conversion.source.table["models"].items():
        table["models"][name] = model
        if isinstance(model, dict):
            macros = _macros(conversion, ("models", name, "macros"), around)
            macros = macros.within({"PORT": "{port}", "MODEL_ID": name, "PID": "{pid}"})
            table["models"][name] = {
                key: value if key == "macros" else _replaced(conversion, ("models", name, key), value, macros)
                for key, value in model.items()
            }
    return replace(conversion.source, table=table)


def _replaced(conversion: Conversion, at: KeyPath, value: Any, macros: Macros) -> Any:
    try:
        if at[-1] in ("cmd", "cmdStop") and isinstance(value, str):  # a macro in a comment is none
            value = "\n".join(line for line in value.split("\n") if not line.lstrip().startswith("#"))
        return macros.expanded(value)
    except ValueError as error:
        conversion.wrong(at, str(error))
        return value


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


def _port_of(proxy: Any) -> int | None:
    """Return the port in the URL of a model's server; None where muxd chooses it, or the URL has none."""
    try:
        return urlsplit(proxy).port if isinstance(proxy, str) and "{port}" not in proxy else None
    except ValueError:
        return None


@dataclass(frozen=True, slots=True)
class _SwapModel:
    """What follows from several keys of one model together: its command, its port and its GPUs."""

    conversion: Conversion
    name: str
    table: Mapping[str, Any]
    shares_port: bool  # whether another model's server is at the same port, as llama-swap allows

    def put(self) -> None:
        self._say("served_names", self._served_names(), "aliases")
        proxy = self._text("proxy") or "http://127.0.0.1:{port}"
        if self.table.get("cmd") is None:
            self.conversion.wrong(self._at(), "cmd is missing; write the command that starts its server")
            return
        try:
            words = words_of(self._text("cmd") or "")
        except ValueError as error:
            self.conversion.wrong(self._at("cmd"), str(error))
            return
        if (flag := repeated_flag(words)) and not in_container(words):
            self.conversion.wrong(self._at("cmd"), f"says {flag} twice, with what its macros add; take one of them out")
            return
        if self._is_here(proxy):
            self._put_command(words, proxy)

    def _is_here(self, proxy: str) -> bool:
        """Say whether the server's URL is of this host; take the model out where it is not."""
        try:
            address = urlsplit(proxy.replace("{port}", "1"))
            host, port = address.hostname or "", address.port
        except ValueError:
            self.conversion.wrong(self._at("proxy"), f"{shown(proxy)} is no URL; write http://127.0.0.1:${{PORT}}")
            return False
        if not (host == "localhost" or is_loopback(host) or host in ("0.0.0.0", "::")):
            self.conversion.drop_model(self.name)
            what = f"the model is left out: its server is at {host}, and muxd starts none on another host"
            self.conversion.remark(self._at("proxy"), f'{what}; one that runs already is engine = "remote"')
            return False
        if address.scheme != "http":
            self.conversion.wrong(
                self._at("proxy"), f"{shown(proxy)}: muxd speaks plain HTTP to servers; write http://"
            )
            return False
        if address.path.strip("/"):
            self.conversion.remark(self._at("proxy"), f"no equal: the path {address.path} in front of every route")
        if port is None:
            self.conversion.wrong(self._at("proxy"), f"{shown(proxy)} has no port; write http://127.0.0.1:${{PORT}}")
        return port is not None

    def _put_command(self, words: list[str], proxy: str) -> None:
        port = _port_of(proxy)
        if port is not None and self.shares_port and (own := with_placeholder(words, port)) is not None:
            words, port = own, None
            self.conversion.remark(self._at("proxy"), "another model has this port, too: muxd chooses one for each")
        if port is None and not any("{port}" in word for word in words):
            text = "no ${PORT} is in it, and proxy says no port"
            self.conversion.wrong(self._at("cmd"), f"{text}; write --port ${{PORT}}, or proxy: http://127.0.0.1:NUMBER")
            return
        self._say("port", port, "proxy")
        env = self._environment()
        prefix = self._put_gpus(words, env)
        self._say("env", env, "env")
        plain = engine_command(words, _ANYWHERE) if self.table.get("cmdStop") is None and not prefix else None
        if plain is not None:
            self._put_engine(plain)
        else:
            self._put_server([*prefix, *words])

    def _put_engine(self, plain: EngineCommand) -> None:
        self._say("engine", plain.engine, "cmd")
        self._say("python", plain.python, "cmd")
        self._say("model_path", plain.model_path, "cmd")
        self._say("args", list(plain.args), "cmd")
        if (asked := self._text("useModelName")) and asked not in (*plain.names, plain.model_path):
            self._say("upstream_name", asked, "useModelName")
        text = f"muxd runs {plain.engine} itself: it sleeps where llama-swap ends it, see sleep_level"
        self.conversion.remark(self._at("cmd"), text)

    def _put_server(self, words: list[str]) -> None:
        self._say("engine", "openai", "cmd")
        self._say("command", words, "cmd")
        self._say("upstream_name", self._text("useModelName"), "useModelName")
        check = self._text("checkEndpoint")
        if check is not None and check.lower() == "none":
            self.conversion.remark(self._at("checkEndpoint"), "no equal: a server is ready once it answers, here at /")
            check = "/"
        self._say("ready_path", f"/{check.lstrip('/')}" if check else None, "checkEndpoint")
        self._put_stop()

    def _put_stop(self) -> None:
        given = self._raw("cmdStop")
        if isinstance(given, str) and (signal := _KILL.fullmatch(given)):
            self._say("stop_signal", f"SIG{signal[1]}", "cmdStop")
        elif (stop := self._text("cmdStop")) is not None:
            try:
                self._say("stop_command", words_of(stop), "cmdStop")
            except ValueError as error:
                self.conversion.wrong(self._at("cmdStop"), str(error))

    def _environment(self) -> dict[str, str]:
        """Return the variables of `env`, a list of NAME=VALUE."""
        given = self.table.get("env") or []
        if not isinstance(given, list) or not all(isinstance(item, str) and "=" in item for item in given):
            self.conversion.wrong(self._at("env"), "not a list of variables; write - NAME=VALUE below it")
            return {}
        return dict(item.split("=", 1) for item in given)

    def _put_gpus(self, words: list[str], env: dict[str, str]) -> list[str]:
        """Put the GPUs that the server uses, as far as that is said, and take them out of `env`.

        Return what stands before a command that is to see none.
        """
        for name in OWNED_ENV.keys() & env.keys() - {VARIABLE}:
            del env[name]
            self.conversion.remark(self._at("env"), f"{name} is left out: muxd sets it")
        said, key = env.pop(VARIABLE, None), "env" if VARIABLE in str(self.table.get("env")) else "cmd"
        try:
            if said is not None:
                gpus: tuple[str, ...] | None = visible(said)
            elif in_container(words):
                gpus = container_gpus(words[1:])
            else:
                gpus = tuple(map(str, range(gpus_of(words)))) or None
        except (ValueError, NotKnown) as error:
            self.conversion.remark(self._at(key), f"its GPUs are not known: {error}; write gpus")
            return []
        if gpus:
            self._say("gpus", [int(gpu) if gpu.isdigit() else gpu for gpu in gpus], key)
        elif gpus is not None and said is not None:
            self.conversion.remark(self._at(key), "it sees no GPU; its turn is on GPU 0 as for others, see gpus")
            return ["env", f"{VARIABLE}={said}"]
        return []

    def _served_names(self) -> list[str]:
        aliases = [alias for alias, model in self.conversion.aliases.items() if model == self.name != alias]
        return [self.name, *aliases] if aliases or self.conversion.table_names[self.name] != self.name else []

    def _raw(self, key: str) -> Any:
        """Return a value as the file has it, with its macros."""
        return self.conversion.original.table["models"][self.name].get(key)

    def _text(self, key: str) -> str | None:
        """Return the text of a key; None where it is not there, or is no text, which is noted."""
        value = self.table.get(key)
        if value is None or value == "":
            return None
        if not isinstance(value, str):
            self.conversion.wrong(self._at(key), f"{shown(value)} is not text; put it in quotes")
            return None
        return value

    def _at(self, *keys: str) -> KeyPath:
        return ("models", self.name, *keys)

    def _say(self, key: str, value: Any, origin: str) -> None:
        """Put a key of the model, unless there is nothing to put."""
        if value not in (None, "", [], {}):
            self.conversion.put(("models", self.conversion.table_names[self.name], key), value, self._at(origin))
