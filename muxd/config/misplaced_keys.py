"""Advice on keys that no table has, or another one than they stand in: what was meant, and where it is written."""

from collections.abc import Mapping, Sequence
from typing import Any

from .declarations import KeyDeclaration, keys_of
from .engine_options import has_own_command
from .flag_advice import FLAGS, flag_meant, why_flag
from .lines import KeyPath, shown_path
from .model_schema import MODEL_KEYS
from .names import did_you_mean, few, nearest
from .schema import SECTIONS, Proxy
from .units import shown

#: Words of other servers' configurations, and of muxd's neighbours, for tables.
_TABLES = {
    "server": "proxy",
    "http": "proxy",
    "api": "proxy",
    "gateway": "proxy",
    "daemon": "muxd",
    "global": "muxd",
    "general": "muxd",
    "supervisor": "muxd",
    "default": "defaults",
    "workers": "models",
    "engines": "models",
    "scheduler": "policy",
    "api_keys": "keys",
    "auth": "keys",
}

#: The same for keys, by the table that has the key which is meant.
_WORDS: Mapping[str, Mapping[str, Sequence[str]]] = {
    "muxd": {
        "socket": ("sock", "socket_path", "unix_socket", "control_socket"),
        "state_dir": ("state", "data_dir", "home", "workdir", "run_dir"),
        "log_dir": ("log", "logs", "log_file", "logfile", "log_path", "logs_dir"),
        "cache_dir": ("cache", "caches", "cache_root", "cachedir"),
        "log_level": ("debug", "verbose", "verbosity", "level"),
        "admin_group": ("group", "admin", "admins"),
    },
    "proxy": {
        "max_body": ("max_body_size", "body_limit", "max_request_size"),
        "upstream_timeout": ("timeout", "request_timeout", "read_timeout"),
        "allow_origins": ("cors", "cors_origins", "allowed_origins", "cors_allow_origin", "origins"),
        "hosts": ("allowed_hosts", "server_name", "server_names"),
        "metrics_listen": ("metrics", "metrics_port", "metrics_host"),
        "allow_anonymous": ("anonymous", "no_auth"),
    },
    "models": {
        "model_path": ("path", "repo", "repo_id", "checkpoint", "weights", "model_name_or_path", "hf_model"),
        "served_names": ("name", "names", "aliases", "model_name", "served_model_names", "serve_as"),
        "gpus": ("gpu", "gpu_id", "gpu_ids", "devices", "device_ids", "cuda_visible_devices"),
        "python": ("interpreter", "venv", "python_path", "virtualenv"),
        "env": ("environment", "env_vars", "variables", "environ"),
        "args": ("flags", "arguments", "extra_args", "options", "engine_args", "server_args", "sglang_args"),
        "script": ("command", "cmd", "exec", "launch", "launch_script", "run"),
        "cwd": ("workdir", "work_dir", "working_dir", "working_directory"),
        "engine": ("backend", "runtime", "kind", "type"),
        "preload": ("autostart", "autoload", "load_on_startup"),
        "memory": ("vram", "gpu_memory"),
        "start_timeout": ("ready_timeout", "load_timeout", "startup_timeout"),
    },
}
#: The same for the keys of a model that a command serves: llama-swap's words, and others.
_OF_COMMANDS: Mapping[str, Sequence[str]] = {
    "command": ("cmd", "exec", "run", "launch", "launch_script", "start", "start_command"),
    "stop_command": ("cmdstop", "cmd_stop", "stop_cmd", "stop"),
    "ready_path": ("checkendpoint", "check_endpoint", "ready", "readiness", "readiness_path", "alive"),
    "health_path": ("health", "healthcheck", "health_check", "health_endpoint", "liveness_path"),
    "upstream_name": ("usemodelname", "use_model_name", "upstream_model"),
    "start_timeout": ("healthchecktimeout", "health_check_timeout"),
}
_COMMANDS_MEANT = {word: key for key, words in _OF_COMMANDS.items() for word in words}
_MEANT = {table: {word: key for key, words in keys.items() for word in words} for table, keys in _WORDS.items()}

#: Words for the two halves of the address that the proxy listens at.
_HOST = ("host", "hostname", "bind", "ip", "listen_host", "listen_address", "address", "addr", "interface")
_PORT = ("port", "listen_port", "http_port")


def why_misplaced(
    path: KeyPath, key: str, table: Mapping[str, Any], declared: Mapping[str, KeyDeclaration], engine: str
) -> str:
    """Return what is wrong with `key` of the table at `path`, which has no such key, and what to do.

    `table` is what the user wrote there, and `declared` are the keys that the table has; `engine`: of models without.
    """
    value, plain = table[key], _plain(key)
    if len(path) > (2 if path[0] == "models" else 1):  # a table within a table
        return f"unknown key; {did_you_mean(key, declared)}"
    if path[0] in ("models", "defaults"):
        return _in_model(path, key, value, declared, str(table.get("engine", engine)))
    if plain in (*_HOST, *_PORT):
        return f"unknown key; write {_listen(table)}" + (" under [proxy]" if path[0] != "proxy" else "")
    if path[0] == "proxy" and plain in ("api_key", "api_keys", "key", "keys", "token", "auth"):
        return "unknown key; clients' API keys are made with muxctl keys add NAME, and written as [[keys]]"
    if meant := _MEANT.get(path[0], {}).get(plain):
        return f"unknown key; write {meant}"
    return _elsewhere(key) or f"unknown key; {did_you_mean(key, declared)}"


def why_no_table(name: str, raw: Mapping[str, Any], tables: Sequence[str]) -> str:
    """Return what is wrong with a key or table at the top of a file, which has no such one, and what to do."""
    plain, value = _plain(name), raw[name]
    if isinstance(value, dict):
        if meant := _TABLES.get(plain):
            return f"unknown table; write {'[[keys]]' if meant == 'keys' else f'[{meant}]'}"
        return f"unknown key; {did_you_mean(name, tables)}"
    if plain in (*_HOST, *_PORT):
        return f"unknown key; write {_listen(raw)} under [proxy]"
    if meant := next((table for table, words in _MEANT.items() if plain in words), ""):
        home = "models.NAME" if meant == "models" else meant
        return f"unknown key; write {_MEANT[meant][plain]} under [{home}]"
    if why := _elsewhere(name) or why_flag(name, value):
        return f"{why} under [models.NAME]" if "write args" in why or "use the key" in why else why
    return f"unknown key; {did_you_mean(name, tables)}"


def why_no_model(key: str, value: Any) -> str:
    """Return what is wrong with what stands directly under [models], where it is no model's table; "" where it is."""
    declared = MODEL_KEYS.get(key)
    if isinstance(value, dict):
        inner = keys_of(declared.read) if declared is not None and isinstance(declared.read, type) else {}
        return _BELONGS if value and value.keys() <= inner.keys() else ""
    if _is_list_of_tables(value):
        return f"a list of tables; write [{shown_path(('models', key))}] in single brackets"
    plain = _plain(key)
    if declared is not None:
        return _BELONGS
    if meant := _MEANT["models"].get(plain):
        return f"{_BELONGS}, as {meant}"
    if why := why_flag(key, value):
        return f"{_BELONGS}: {why}"
    if near := nearest(plain, MODEL_KEYS):
        return f"{_BELONGS}; did you mean {near}?"
    below = f", and below it model_path = {shown(value)}" if isinstance(value, str) and "/" in value else ""
    return f"{shown(value)} is not a table; write [{shown_path(('models', key))}]{below}"


_BELONGS = "no model, but a model's key; it belongs under [models.NAME]"


def why_not_models(value: Any) -> str:
    """Return what to write in the place of a `models` that is no table."""
    if not _is_list_of_tables(value):
        return f"{shown(value)} is not a table; write [models.NAME] for each model, and below it model_path = ..."
    names = [name if isinstance(name := table.get("name"), str) else "NAME" for table in value]
    heads = dict.fromkeys(f"[{shown_path(('models', name))}]" for name in names)
    return f"a list of tables, and each model is a table of its own; write {few(list(heads), 8)}, without a name in it"


def why_not_a_table(path: KeyPath, value: Any, declared: Mapping[str, KeyDeclaration]) -> str:
    """Return what to write in the place of a value that has to be the table at `path`."""
    if _is_list_of_tables(value):
        return f"a list of tables; write [{shown_path(path)}] in single brackets"
    if len(path) == 1 and path[0] in MODEL_KEYS:
        return "a model's key, as it is written; it belongs under [models.NAME]"
    form = f"{path[-1]} = {{ {next(iter(declared))} = ... }}" if len(path) > 2 else f"[{shown_path(path)}]"
    return f"{shown(value)} is not a table; write {form}"


def _plain(key: str) -> str:
    """Return a key as muxd spells its own: `--Served-Names` as served_names."""
    return key.strip("-").replace("-", "_").lower()


def _is_list_of_tables(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, dict) for item in value)


def _in_model(path: KeyPath, key: str, value: Any, declared: Mapping[str, KeyDeclaration], engine: str) -> str:
    words, plain = _MEANT["models"], _plain(key)
    own_command = has_own_command(engine)
    words = words | _COMMANDS_MEANT if own_command else words
    if plain == "device" and not str(value).isalpha():
        return "unknown key; write gpus"
    if meant := words.get(plain):
        return f"unknown key; write {meant}"
    if why := _elsewhere(key) or why_flag(key, value, engine):
        return why
    if len(path) > 1 and isinstance(value, dict) and (name := _dotted_name(path[1], key, value)):
        return f"unknown table; a model name with a dot is written in quotes: [{shown_path(('models', name))}]"
    flags = () if isinstance(value, dict) else tuple(flag.strip("-").replace("-", "_") for flag in FLAGS)
    near = nearest(plain, [*declared, *words, *flags])
    if near is None:
        where = "into command" if own_command else 'into args, as args = ["--tp", "2"]'
        return f"unknown key; a flag of the engine goes {where}; known: {few(list(declared))}"
    if near in flags and near not in declared:
        return f"unknown key; did you mean {near}? It is {why_flag(near, value, engine)}"
    return f"unknown key; did you mean {words.get(near, near)}?"


def _dotted_name(model: str, key: str, value: Mapping[str, Any]) -> str:
    """Return the name of a model that TOML took for tables in each other, as models.qwen2.5; "" for another table."""
    name, inner = f"{model}.{key}", value
    while len(inner) == 1:
        ((part, below),) = inner.items()
        if not isinstance(below, dict) or part in MODEL_KEYS:
            break
        name, inner = f"{name}.{part}", below
    known = [*MODEL_KEYS, *_MEANT["models"]]
    is_model = not inner or any(nearest(part, known) or flag_meant(part) for part in inner)
    near = nearest(key, [*MODEL_KEYS])
    is_key = near is not None and isinstance(MODEL_KEYS[near].read, type)
    return name if is_model and not is_key else ""


def _elsewhere(key: str) -> str:
    """Return the text about a key that belongs to another table; "" for a key that no table has."""
    tables = {name: keys_of(table) for name, table in SECTIONS.items()} | {"models.NAME": MODEL_KEYS}
    homes = [f"[{name}]" for name, keys in tables.items() if key in keys]
    return f"no key of this table; it belongs under {' or '.join(homes)}" if homes else ""


def _listen(table: Mapping[str, Any]) -> str:
    """Return the key `listen` with the host and the port that a table has apart, or the default's."""
    usual = keys_of(Proxy)["listen"].shown
    said = {key.replace("-", "_").lower(): value for key, value in table.items()}
    host = next((said[word] for word in _HOST if isinstance(said.get(word), str)), "")
    port = next((said[word] for word in _PORT if word in said and str(said[word]).isdigit()), "")
    if (host.count(":") == 1 or "]:" in host) and not port:
        return f"listen = {shown(host)}"
    usual_host, _, usual_port = usual.rpartition(":")
    host = f"[{host}]" if ":" in host and "[" not in host else host
    return f"listen = {shown(f'{host or usual_host}:{port or usual_port}')}"
