"""What must hold between keys, between models, and between the file and this machine."""

import grp
import os
import pwd
import re
import shlex
import shutil
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

from .flags import DATA, PIPELINE, TENSOR, flag_of, parallel
from .folders import why_no_logs, why_no_socket
from .lines import KeyPath
from .loopback import ADVICE, collide, is_loopback
from .names import nearest
from .options import MODEL, OWNED_ENV, OWNED_FLAGS
from .problems import Problems
from .schema import Config, Model
from .units import show_size, shown

# sun_path holds 108 bytes and its end is a NUL.
SOCKET_PATH_MAX = 107

# Keys that say what a launch script says.
SCRIPTS_OWN = ("model_path", "python", "args", "simulation")

# The managed proxy's log and lock files, and what `muxctl logs` calls it and muxd.
OWN_NAMES = {"muxd-proxy": "the proxy is", "proxy": "the proxy is", "muxd": "muxd is"}

# Flag and value, or several flags, in one element; what follows "=" may have blanks, as JSON does.
_JOINED = re.compile(r"--?[A-Za-z][\w-]*(\s|=[^\s{\[\"']*\s+--?[A-Za-z])")

# What word processors make of "--".
_DASHES = re.compile("^[\u2010-\u2015\u2212]+-?(?=[a-z])")

# ${NAME} anywhere, $NAME where it is all or begins a path: "pa$word" is a password.
_VARIABLE = re.compile(r"\$\{\w+[^}]*\}|^\$[A-Za-z_]\w*(?=$|[/:])|(?<=:)\$[A-Za-z_]\w*(?=$|[/:])")

Finding = tuple[KeyPath, str]


def check(config: Config, raw: Mapping[str, Any], environ: Mapping[str, str], problems: Problems) -> None:
    """Note in `problems` whatever is wrong with values that are fine by themselves.

    Where reading has found a problem already, nothing more is said: it would be about a default.
    """
    told = problems.paths()
    stated = _Stated(raw)
    by_flag = problems.said(("--host",))
    for path, text in (*_findings(config, stated, environ, told), *_open_door(config, told, by_flag=by_flag)):
        if not any(_related(path, other) for other in told):
            problems.add(path, text)


def check_folders(config: Config, problems: Problems) -> None:
    """As `check`, of folders; for muxd alone: a proxy that serves must not ask a disk, which may hang."""
    daemon = config.daemon
    if ("muxd", "socket") not in problems.paths() and (why := why_no_socket(daemon.socket, daemon.state_dir)):
        problems.add(("muxd", "socket"), why)
    for key, folder in (("state_dir", daemon.state_dir), ("log_dir", daemon.log_dir)):
        if ("muxd", "state_dir") in problems.paths() and folder.is_relative_to(daemon.state_dir):
            continue  # told there
        if ("muxd", key) not in problems.paths() and (why := why_no_logs(folder, daemon.state_dir)):
            problems.add(("muxd", key), why)
    proxy, path = config.proxy, ("proxy", "access_log_dir")
    if proxy.access_log_dir is None or path in problems.paths():
        return
    # muxd's own proxy runs as the user that muxd does.
    if why := why_no_logs(proxy.access_log_dir, config.daemon.state_dir if proxy.managed else None):
        problems.add(path, why)


def _related(path: KeyPath, other: KeyPath) -> bool:
    """One of them lies within the other."""
    length = min(len(path), len(other))
    return path[:length] == other[:length]


def _findings(config: Config, stated: "_Stated", environ: Mapping[str, str], told: set[KeyPath]) -> Iterator[Finding]:
    if not config.models and not any(nearest(path[0], ["models"]) for path in told if len(path) == 1):
        yield ("models",), "no model; add a table [models.NAME]"
    yield from _daemon(config)
    yield from _proxy(config, stated)
    yield from _names(config)
    yield from _ports(config)
    if stated.by_default("script"):
        yield ("defaults", "script"), "starts one server; write it to [models.NAME]"
    for model in config.models:
        if stated.place(model.name, "engine") not in told:
            findings = _model(model, stated, environ)
            yield from (
                (stated.place(model.name, *key) if key else ("models", model.name), text) for key, text in findings
            )


class _Stated:
    """Which keys the user wrote, and those of a model where: in its own table or in [defaults]."""

    def __init__(self, raw: Mapping[str, Any]) -> None:
        self._defaults = _as_table(raw.get("defaults"))
        self._models = _as_table(raw.get("models"))
        self._proxy = _as_table(raw.get("proxy"))

    def by_proxy(self, key: str) -> bool:
        return key in self._proxy

    def by_default(self, key: str) -> bool:
        return key in self._defaults

    def place(self, name: str, *key: str) -> KeyPath:
        """The path to blame for a key of a model."""
        if key[0] in self._defaults and not self.by_model(name, key[0]):
            return ("defaults", *key)
        return ("models", name, *key)

    def by_model(self, name: str, key: str) -> bool:
        return key in _as_table(self._models.get(name))

    def anywhere(self, name: str, key: str) -> bool:
        return key in self._defaults or self.by_model(name, key)

    def misspelt(self, name: str) -> bool:
        """The model's table has a key that does not exist: what seems to be missing may be it."""
        return not _as_table(self._models.get(name)).keys() <= MODEL.keys()


def _as_table(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _daemon(config: Config) -> Iterator[Finding]:
    length = len(os.fsencode(config.daemon.socket))
    if length > SOCKET_PATH_MAX:
        yield (
            ("muxd", "socket"),
            f"{config.daemon.socket} has {length} bytes, a socket's path at most {SOCKET_PATH_MAX}; use a shorter one",
        )
    if (group := config.daemon.admin_group) is not None and not _group_exists(group):
        yield ("muxd", "admin_group"), f"no group {group}; create it with: groupadd --system {group}"


def _group_exists(name: str) -> bool:
    try:
        grp.getgrnam(name)
    except KeyError:
        return False
    return True


def _user_exists(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True


def _proxy(config: Config, stated: "_Stated") -> Iterator[Finding]:
    proxy = config.proxy
    if proxy.user is not None and not _user_exists(proxy.user):
        yield ("proxy", "user"), f"no user {proxy.user}; create it with: useradd --system {proxy.user}"
    if proxy.max_body > proxy.buffer_memory:
        larger, smaller = show_size(proxy.max_body), show_size(proxy.buffer_memory)
        if stated.by_proxy("buffer_memory") and not stated.by_proxy("max_body"):
            yield ("proxy", "buffer_memory"), f"{smaller} is less than max_body, {larger}; raise it or lower max_body"
        else:
            yield (
                ("proxy", "max_body"),
                f"{larger} is more than buffer_memory, {smaller}; lower it or raise buffer_memory",
            )
    if proxy.access_log_dir is not None and proxy.access_log == "off":
        yield ("proxy", "access_log_dir"), 'nothing is written there while access_log is "off"; leave one of them out'
    host, port = proxy.metrics_listen or ("", 0)
    if port and port == proxy.port and collide(host, proxy.host):
        text = f"{port} is already the port of listen; use another, or leave it out: /metrics is there, too"
        yield ("proxy", "metrics_listen"), text


def _open_door(config: Config, told: set[KeyPath], *, by_flag: bool) -> Iterator[Finding]:
    """A key that was revoked, or cannot be read, is one: whoever takes the last one back opens nothing."""
    proxy = config.proxy
    if is_loopback(proxy.host) or proxy.allow_anonymous or config.keys or any(path[0] == "keys" for path in told):
        return
    if by_flag:
        yield ("--host",), f"{proxy.host} {ADVICE.format('add --allow-anonymous')}"
    else:
        yield ("proxy", "listen"), f"{proxy.host} {ADVICE.format('write allow_anonymous = true')}"


def _names(config: Config) -> Iterator[Finding]:
    """Names and served names are unique over all models: a request must mean one of them."""
    owner = {model.name: model.name for model in config.models}
    for model in config.models:
        for served in model.served_names:
            first = owner.setdefault(served, model.name)
            if first != model.name:
                yield (
                    ("models", model.name, "served_names"),
                    f'"{served}" already means model {first}; give each name to one model',
                )


def _ports(config: Config) -> Iterator[Finding]:
    _, metrics = config.proxy.metrics_listen or ("", 0)
    said = {metrics: "metrics_listen, under [proxy]", config.proxy.port: "the proxy"}
    owner = {port: whose for port, whose in said.items() if port}
    for model in config.models:
        if model.port:
            first = owner.setdefault(model.port, f"model {model.name}")
            if first != f"model {model.name}":
                yield (
                    ("models", model.name, "port"),
                    f"{model.port} is already the port of {first}; use another"
                    + (", or leave it out and muxd chooses one" if model.script is None else ""),
                )


def _model(model: Model, stated: _Stated, environ: Mapping[str, str]) -> Iterator[Finding]:
    """Findings by key inside the model's table."""
    yield from _owned(model)
    if model.memory is not None and model.memory.total == 0:
        yield ("memory",), 'is empty; write at least { weights = "..." }, or leave it out: the whole GPU is taken then'
    if model.name in OWN_NAMES:
        yield (), f"{OWN_NAMES[model.name]} called so; give the model another name"
    if stated.by_model(model.name, "script"):
        yield from _script(model, stated)
        return
    yield from _too_few_gpus(model)
    if model.engine == "simulator":
        yield from _faults(model)
        return
    if stated.by_model(model.name, "simulation"):
        yield ("simulation",), 'only engine = "simulator" has it; remove it or change engine'
    if not stated.anywhere(model.name, "model_path") and not stated.misspelt(model.name):
        yield ("model_path",), "missing; give a local directory or a Hub id such as Qwen/Qwen3-14B"
    if shutil.which(model.python, path=model.env.get("PATH", environ.get("PATH"))) is None:
        yield ("python",), f"{model.python} is not an executable that can be found; give the path of SGLang's python"


def _too_few_gpus(model: Model) -> Iterator[Finding]:
    """Of numbers in `args` that are none the engine says so itself."""
    with suppress(ValueError):
        needs, count = parallel(flag_of(model.args)), len(model.cuda_devices or model.gpus)
        if model.gpus and needs.seen > count:
            text = f"the server needs {needs}, and gpus names {count}; name as many there, or correct args"
            yield ("args",), text


def _script(model: Model, stated: _Stated) -> Iterator[Finding]:
    """What a launch script says itself, and cannot be told."""
    if model.engine != "sglang":
        yield ("engine",), "a launch script starts SGLang; leave this out"
    for key in SCRIPTS_OWN:
        if stated.by_model(model.name, key):
            yield (key,), "is for the command line that muxd makes; put it into the script, and leave this out"


def _faults(model: Model) -> Iterator[Finding]:
    from muxd.simulator.faults import check_fault  # only where a simulated model asks for it

    for fault in model.simulation.faults:
        try:
            check_fault(fault)
        except ValueError as error:
            yield ("simulation", "faults"), f"{error}; see muxd/simulator/faults.py"


def _owned(model: Model) -> Iterator[Finding]:
    """What of `args` and `env` is muxd's, or would reach the engine as something else than it looks like."""
    for arg in model.args:
        flag = re.split(r"[=\s]", arg, maxsplit=1)[0]
        if flag in OWNED_FLAGS:
            yield ("args",), f"{flag} is muxd's own; {OWNED_FLAGS[flag]}"
        elif _JOINED.match(arg):
            apart = ", ".join(map(shown, _apart(arg)))
            yield ("args",), f"{shown(arg)} is one word to the engine, which knows no such flag; write {apart}"
        elif why := _no_flag(arg):
            yield ("args",), f"{shown(arg)} {why}"
        elif (value := _value(arg))[:1] not in ("{", "[") and (wanted := _VARIABLE.search(value)):
            yield ("args",), f"{wanted[0]} would be taken literally, nothing is expanded; write the value"
    if model.script is None and (first := "".join(model.args[:1])) and not (first[0] == "-" or _no_flag(first)):
        yield ("args",), f'{shown(first)} belongs to no flag; SGLang\'s flags begin with "--"'
    for variable, value in model.env.items():
        if variable in OWNED_ENV:
            yield ("env", variable), f"muxd sets it; {OWNED_ENV[variable]}"
        elif wanted := _VARIABLE.search(value):
            advice = "write the value, or leave it out: a worker has muxd's own environment"
            yield ("env", variable), f"{wanted[0]} would be taken literally, nothing is expanded; {advice}"


def _no_flag(arg: str) -> str:
    """Why it is not the flag that it looks like; empty where it looks like none, or may be one."""
    if _DASHES.match(arg):
        return f'begins with a dash that is no "-"; write {shown(_DASHES.sub("--", arg))}'
    if "-" + arg.partition("=")[0] in (*TENSOR, *PIPELINE, *DATA):
        return f"has one dash; write {shown('-' + arg)}"
    return ""


def _value(arg: str) -> str:
    """The value that it is, or has."""
    return arg.partition("=")[2] if arg.startswith("-") else arg


def _apart(arg: str) -> list[str]:
    """As a shell would take it."""
    try:
        return shlex.split(arg)
    except ValueError:  # a quotation mark too few
        return arg.split()
