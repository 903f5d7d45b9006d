"""Rules of the configuration: checks between keys, between models, and between the file and this machine."""

import grp
import os
import pwd
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from .declarations import keys_of
from .default_paths import default_cache_dir, default_log_dir
from .engine_options import DEFAULT_ENGINE, OPTION_KEYS, RemoteOptions, engines_with
from .findings import SHELL_VARIABLE, Finding
from .flag_advice import why_flag
from .folders import why_no_logs, why_no_socket
from .half_options import HALVES
from .lines import KeyPath
from .loopback import ADVICE, collide, is_loopback
from .model_schema import MODEL_KEYS, Model
from .names import did_you_mean, nearest
from .problems import Problems
from .schema import Config
from .units import show_size

# sun_path, see unix(7), holds 108 bytes, of which the last is a NUL.
SOCKET_PATH_MAX = 107

# Keys that a model with a launch script cannot have: the script has its own command line.  Options that a reload takes
# over live are not of the command line.
SCRIPTS_OWN = ("model_path", "args", *(name for name, key in OPTION_KEYS.items() if not key.live))

# Variables that muxd itself sets for an engine, each with what the user does instead.
OWNED_ENV = {
    "CUDA_VISIBLE_DEVICES": "use the key gpus",
    "MUXD_TOKEN": "leave it out: muxd knows its processes by it",
}

# Names that no model may have: the managed proxy's log and lock files, and `muxctl logs` for the proxy and muxd.
_OF_A_PROCESS = re.compile(r"muxd-proxy-[0-9]+")
OWN_NAMES = {"muxd-proxy": "the proxy is", "proxy": "the proxy is", "muxd": "muxd is", "muxd-ui": "the console is"}


def check(
    config: Config,
    raw: Mapping[str, Any],
    environ: Mapping[str, str],
    problems: Problems,
    *,
    host: bool = True,
    models: bool = True,
) -> None:
    """Note in `problems` what is wrong with values that are each fine by themselves.

    A key that could not be read has its default here: about such a key, which has a problem already, nothing is noted.
    Without `host`, no interpreter is looked for.  Without `models`, nothing is checked that concerns one model alone.
    """
    reported = problems.paths()
    written = _WrittenKeys(raw)
    by_flag = problems.said(("--host",))
    for path, text in (
        *_findings(config, written, environ if host else None, reported, models=models),
        *_open_to_anybody(config, reported, by_flag=by_flag),
    ):
        if not any(_related(path, other) for other in reported):
            problems.add(path, text)


def check_folders(config: Config, problems: Problems) -> None:
    """Note in `problems` what is wrong with the folders of the socket, the state and the logs.

    Only muxd does this, never the proxy: a disk may hang, and a proxy that serves must not wait for one.
    """
    daemon = config.daemon
    if ("muxd", "socket") not in problems.paths() and (why := why_no_socket(daemon.socket, daemon.state_dir)):
        problems.add(("muxd", "socket"), why)
    for key, folder in (("state_dir", daemon.state_dir), ("log_dir", daemon.log_dir)):
        if ("muxd", "state_dir") in problems.paths() and folder.is_relative_to(daemon.state_dir):
            continue  # a folder in state_dir has the same problem, which is noted already
        if folder == default_log_dir({}, daemon.state_dir) and os.path.lexists(folder) and not os.path.isdir(folder):
            continue  # muxd puts what is in its own place aside
        if ("muxd", key) not in problems.paths() and (why := why_no_logs(folder, daemon.state_dir)):
            problems.add(("muxd", key), why)
    caches, path = daemon.cache_dir, ("muxd", "cache_dir")
    if caches is not None and caches != default_cache_dir(os.environ) and path not in problems.paths():
        why = why_no_logs(caches, daemon.state_dir)  # muxd can do without a default place
        if why is not None:
            problems.add(path, why)
    proxy, path = config.proxy, ("proxy", "access_log_dir")
    if proxy.access_log_dir is None or path in problems.paths():
        return
    # The managed proxy runs as muxd's user, an unmanaged one as any user.
    if why := why_no_logs(proxy.access_log_dir, config.daemon.state_dir if proxy.managed else None):
        problems.add(path, why)


def _related(path: KeyPath, other: KeyPath) -> bool:
    """Say whether one of two paths of keys lies within the other, or they are the same."""
    length = min(len(path), len(other))
    return path[:length] == other[:length]


def _findings(
    config: Config,
    written: "_WrittenKeys",
    environ: Mapping[str, str] | None,
    reported: set[KeyPath],
    *,
    models: bool,
) -> Iterator[Finding]:
    if not config.models and not any(nearest(path[0], ["models"]) for path in reported if len(path) == 1):
        yield ("models",), "no model; add a table [models.NAME]"
    yield from _daemon(config)
    yield from _proxy(config, written)
    yield from _unused_flags(config, written)
    yield from _names(config)
    yield from _any_names(config)
    yield from _default_model(config)
    yield from _ports(config)
    yield from _console(config)
    if written.in_defaults("script"):
        yield ("defaults", "script"), "starts one server; write it to [models.NAME]"
    for model in config.models if models else ():
        if config.keys and model.script is not None and model.script.asks_key:
            text = "clients' keys ([[keys]]) end at the proxy, and its server would refuse every request"
            yield (
                ("models", model.name, "script"),
                f"{model.script.asks_key} gives an --api-key of its own: {text}; remove it there",
            )
        if written.place(model.name, "engine") not in reported:
            findings = _model(model, written, environ)
            yield from (
                (written.place(model.name, *key) if key else ("models", model.name), text) for key, text in findings
            )


class _WrittenKeys:
    """The keys that the user wrote, and for those of a model the table: the model's own or [defaults]."""

    def __init__(self, raw: Mapping[str, Any]) -> None:
        self._defaults = _as_table(raw.get("defaults"))
        self._models = _as_table(raw.get("models"))
        self._proxy = _as_table(raw.get("proxy"))

    def in_proxy(self, key: str) -> bool:
        return key in self._proxy

    def in_defaults(self, key: str) -> bool:
        return key in self._defaults

    def place(self, name: str, *key: str) -> KeyPath:
        """Return the path to blame for a key of a model: in [defaults] where only that table has the key."""
        if key[0] in self._defaults and not self.in_model(name, key[0]):
            return ("defaults", *key)
        return ("models", name, *key)

    def in_model(self, name: str, key: str) -> bool:
        return key in _as_table(self._models.get(name))

    def anywhere(self, name: str, key: str) -> bool:
        return key in self._defaults or self.in_model(name, key)

    def value(self, name: str, key: str) -> Any:
        """Return what is written for a key of a model; None where nothing is."""
        return _as_table(self._models.get(name)).get(key, self._defaults.get(key))

    def has_unknown_key(self, name: str) -> bool:
        """Say whether the model's table has an unknown key: a key that seems to be missing may be misspelt."""
        return not _as_table(self._models.get(name)).keys() <= MODEL_KEYS.keys()


def _as_table(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _daemon(config: Config) -> Iterator[Finding]:
    length = len(os.fsencode(config.daemon.socket))
    if length > SOCKET_PATH_MAX:
        yield (
            ("muxd", "socket"),
            f"{config.daemon.socket} has {length} bytes, a socket's path at most {SOCKET_PATH_MAX}; use a shorter one",
        )
    if (group := config.daemon.admin_group) is not None and not _is_there(group, grp.getgrnam):
        yield ("muxd", "admin_group"), f"no group {group}; create it with: groupadd --system {group}"


def _is_there(name: str, look_up: Callable[[str], object]) -> bool:
    try:
        look_up(name)
    except KeyError:
        return False
    return True


def _proxy(config: Config, written: "_WrittenKeys") -> Iterator[Finding]:
    proxy = config.proxy
    if proxy.user is not None and not _is_there(proxy.user, pwd.getpwnam):
        yield ("proxy", "user"), f"no user {proxy.user}; create it with: useradd --system {proxy.user}"
    if proxy.max_body > proxy.buffer_memory:
        larger, smaller = show_size(proxy.max_body), show_size(proxy.buffer_memory)
        if written.in_proxy("buffer_memory") and not written.in_proxy("max_body"):
            yield ("proxy", "buffer_memory"), f"{smaller} is less than max_body, {larger}; raise it or lower max_body"
        else:
            yield (
                ("proxy", "max_body"),
                f"{larger} is more than buffer_memory, {smaller}; lower it or raise buffer_memory",
            )
    too_long = len(os.fsencode(config.daemon.state_dir / "proxy/64.sock")) - SOCKET_PATH_MAX
    if proxy.managed and proxy.processes != 1 and too_long > 0:
        said = f"several processes have sockets in state_dir, whose path is {too_long} bytes too long for that"
        yield ("proxy", "processes"), f"{said}; leave processes out, or give [muxd] state_dir a shorter path"
    if proxy.access_log_dir is not None and proxy.access_log == "off":
        yield ("proxy", "access_log_dir"), 'nothing is written there while access_log is "off"; leave one of them out'
    host, port = proxy.metrics_listen or ("", 0)
    if port and port == proxy.port and collide(host, proxy.host):
        text = f"{port} is already the port of listen; use another, or leave it out: /metrics is there, too"
        yield ("proxy", "metrics_listen"), text
    for model in config.models:
        yield from _own_address(model, proxy.host, proxy.port)


def _own_address(model: Model, host: str, port: int) -> Iterator[Finding]:
    """Yield a problem where the proxy itself is one of a model's servers: a request would go round for ever."""
    if not isinstance(model.engine_options, RemoteOptions):
        return
    for key in ("urls", "prefill", "decode"):
        servers = getattr(model.engine_options, key)
        for server in servers if isinstance(servers, tuple) else ():
            url = urlsplit(server.split(" ")[0])
            if url.port == port and url.hostname is not None and collide(url.hostname, host):
                text = f"{server} is this muxd's own proxy, by [proxy] listen; name another server"
                yield ("models", model.name, key), text


def _open_to_anybody(config: Config, reported: set[KeyPath], *, by_flag: bool) -> Iterator[Finding]:
    """Yield a problem where the proxy listens beyond loopback and asks for no API key.

    A key that is revoked or cannot be read counts as a key: with the last key revoked, every request is refused.
    """
    proxy = config.proxy
    if is_loopback(proxy.host) or proxy.allow_anonymous or config.keys or any(path[0] == "keys" for path in reported):
        return
    if by_flag:
        yield ("--host",), f"{proxy.host} {ADVICE.format('add --allow-anonymous')}"
    else:
        yield ("proxy", "listen"), f"{proxy.host} {ADVICE.format('write allow_anonymous = true')}"


def _names(config: Config) -> Iterator[Finding]:
    """Check that names and served names are unique over all models: a request must mean one model."""
    owner = {model.name: model.name for model in config.models}
    for model in config.models:
        for served in model.served_names:
            first = owner.setdefault(served, model.name)
            if first != model.name:
                yield (
                    ("models", model.name, "served_names"),
                    f'"{served}" already means model {first}; give each name to one model',
                )


def _any_names(config: Config) -> Iterator[Finding]:
    """Check that at most one model takes the names that no model has."""
    first, *others = [model.name for model in config.models if model.any_name] or [""]
    for name in others:
        yield ("models", name, "any_name"), f"model {first} takes all names that no model has; leave one of them out"


def _console(config: Config) -> Iterator[Finding]:
    """Check that the console has a port of its own, and that somebody may look at it where it asks for a key."""
    host, port = config.ui.listen or ("", 0)
    proxy = config.proxy
    others = {"listen, under [proxy]": (proxy.host, proxy.port), "metrics_listen, under [proxy]": proxy.metrics_listen}
    for name, other in others.items():
        if port and other and other[1] == port and collide(other[0], host):
            yield ("ui", "listen"), f"{port} is already the port of {name}; use another"
    if host and not is_loopback(host) and not any(key.view or key.admin for key in config.keys):
        yield (
            ("ui", "listen"),
            f"{host} lets other machines in, and no key may look: `muxctl keys add NAME --admin` makes one, "
            "or listen on 127.0.0.1",
        )


def _default_model(config: Config) -> Iterator[Finding]:
    name, known = config.policy.default_model, [model.name for model in config.models]
    if name and known and name not in known:
        yield ("policy", "default_model"), f"there is no model {name}; {did_you_mean(name, known)}"


def _ports(config: Config) -> Iterator[Finding]:
    _, metrics = config.proxy.metrics_listen or ("", 0)
    _, console = config.ui.listen or ("", 0)
    said = {
        metrics: "metrics_listen, under [proxy]",
        console: "listen, under [ui]",
        config.proxy.port: "the proxy",
    }
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


def _unused_flags(config: Config, written: _WrittenKeys) -> Iterator[Finding]:
    """Yield each key of [defaults] that is an option of no model's engine, and a flag of the engines that there are."""
    for key in OPTION_KEYS:
        if written.in_defaults(key) and not any(key in keys_of(model.engine_options) for model in config.models):
            engine = next((model.engine for model in config.models), DEFAULT_ENGINE)
            if advice := why_flag(key, written.value("", key), engine):
                yield ("defaults", key), advice


def _model(model: Model, written: _WrittenKeys, environ: Mapping[str, str] | None) -> Iterator[Finding]:
    """Yield the problems of one model; their paths begin inside the model's table."""
    yield from _env(model)
    if model.memory is not None and model.memory.total == 0:
        yield ("memory",), 'is empty; write at least { weights = "..." }, or leave it out: the whole GPU is taken then'
    own = "muxd-proxy" if _OF_A_PROCESS.fullmatch(model.name) else model.name
    if own in OWN_NAMES:
        yield (), f"{OWN_NAMES[own]} called so; give the model another name"
    if written.in_model(model.name, "script"):
        yield from _script(model, written)
        return
    from muxd.engines.registry import kind_of  # imported where models are judged: the proxy has no use for it
    from muxd.engines.routers.router_checks import findings as router_findings

    kind = kind_of(model)
    if model.sleep_level not in kind.capabilities.sleep_levels:
        levels = ", ".join(map(str, sorted(kind.capabilities.sleep_levels)))
        yield ("sleep_level",), f"{kind.name} has no sleep level {model.sleep_level}; use one of {levels}"
    for key in OPTION_KEYS:
        is_half = key in HALVES and getattr(model, key) is not None
        if key not in keys_of(model.engine_options) and written.in_model(model.name, key) and not is_half:
            advice = why_flag(key, written.value(model.name, key), model.engine)
            yield (key,), advice or f"only {engines_with(key)} has it; remove it or change engine"
    if not kind.capabilities.uses_gpus and written.in_model(model.name, "gpus"):
        yield ("gpus",), "leave this out: its servers run elsewhere"
    yield from _replicas(model, written, uses_gpus=kind.capabilities.uses_gpus)
    yield from _idle(model, written, {*kind.levels(model), model.sleep_level, 3})
    has_gate, is_held = kind.capabilities.has_gate, bool(kind.granted(model))
    if model.standby and (why := _why_no_standby(model, has_gate=has_gate, is_held=is_held)):
        yield ("standby",), f"{why}, or write standby = false"
    if model.router is not None:
        yield from router_findings(model.router, environ)
    for path, text in kind.findings(model, environ):
        if written.anywhere(model.name, path[0]) or not written.has_unknown_key(model.name):
            yield path, text


def _replicas(model: Model, written: _WrittenKeys, *, uses_gpus: bool) -> Iterator[Finding]:
    """Yield what keeps several workers from serving the model, or a router from being of use.

    Servers that do not run on this host have a router in any case.
    """
    count, most = len(model.gpus), model.most_replicas
    yield from _bounds_of_replicas(model)
    yield from _halves(model, written, uses_gpus=uses_gpus)
    if written.in_model(model.name, "placement") and not (model.any_gpus and most > 1):
        yield ("placement",), 'it is for replicas whose gpus are "auto"; leave it out, or write that'
    if most == 1:
        if written.in_model(model.name, "router") and uses_gpus:
            yield ("router",), "one worker needs no router; leave this out, or give replicas"
        return
    if not model.any_gpus and count % most:
        text = f"{count} GPU{'s' if count != 1 else ''} cannot be parted among {most} replicas"
        of_each = "those that prefill, then those that decode" if model.prefill is not None else "the replicas"
        yield ("gpus",), f"{text}; name as many for each, in the order of {of_each}"


def _halves(model: Model, written: _WrittenKeys, *, uses_gpus: bool) -> Iterator[Finding]:
    """Yield what keeps a model from having workers that prefill and workers that decode."""
    if model.prefill is None and model.decode is None:
        return
    first = next(half for half in HALVES if getattr(model, half) is not None)
    if not uses_gpus:
        yield (first,), "its servers run elsewhere; give a list of their addresses"
        return
    for half, other in (HALVES, HALVES[::-1]):
        if getattr(model, half) is not None and not written.anywhere(model.name, other):
            yield (half,), f"workers that {half} are of no use without those that {other}; give {other}, too"
    if model.engine not in ("sglang", "simulator"):
        yield (first,), "only SGLang has workers that prefill and others that decode; leave it out, or change engine"
    for name, is_set in (("replicas", model.replicas > 1), ("max_replicas", model.is_scaled)):
        if is_set:
            yield (name,), f"how many there are is said in {' and '.join(HALVES)}; leave this out"
    if model.sleep_level != 3:
        yield ("sleep_level",), "its KV cache is known to the other half, and cannot be given up by itself; use 3"


def _bounds_of_replicas(model: Model) -> Iterator[Finding]:
    """Yield what is wrong with how many replicas there may be."""
    least = model.replicas if model.min_replicas is None else model.min_replicas
    if 0 < model.max_replicas < model.replicas:
        yield ("replicas",), f"{model.replicas} is more than max_replicas, {model.max_replicas}"
    if least > model.most_replicas:
        yield ("min_replicas",), f"{least} is more than there can be, {model.most_replicas}; raise max_replicas"
    if model.min_replicas == 0 and model.pinned:
        yield ("min_replicas",), "a pinned model never leaves its GPUs by itself; use 1, or leave pinned out"


def _idle(model: Model, written: _WrittenKeys, levels: set[int]) -> Iterator[Finding]:
    """Yield what keeps an idle model from sleeping as its table says."""
    steps = [key for key in ("idle", "idle_timeout") if written.in_model(model.name, key)]
    if len(steps) > 1:
        yield ("idle_timeout",), "idle says it already; leave one of them out"
    if steps and model.pinned and written.in_model(model.name, "pinned"):
        yield (steps[0],), "pinned = true keeps it on its GPUs for good; leave one of them out"
    for _, level in model.idle:
        if level not in levels:
            known = " and ".join(map(str, sorted(levels)))
            yield ("idle",), f"it cannot sleep at level {level}, only at {known}: that is settled by its sleep_level"
            return


def _why_no_standby(model: Model, *, has_gate: bool, is_held: bool) -> str:
    """Return why no process of the model can wait for it to be wanted, with what to do; "" where one can."""
    if not has_gate:
        engines = "SGLang's and the simulator's servers alone have a gate at which they wait"
        return f"{engines}, and {model.engine} has none; change engine"
    if model.sleep_level != 3:
        return f"at sleep_level {model.sleep_level} its process stays, and no next one is needed; use sleep_level = 3"
    if model.most_replicas > 1:
        return "it goes with one worker, not with several; leave replicas out"
    if model.any_gpus:
        return "a process is told its GPUs when it begins, and any will do for this model; name those that it is to use"
    if is_held:
        return "a process is told its share of the GPU when it begins, by what is free then; leave kv out of memory"
    return ""


def _script(model: Model, written: _WrittenKeys) -> Iterator[Finding]:
    """Yield a problem for each key that a model with a launch script cannot have."""
    if model.standby:
        yield ("standby",), "a launch script starts its server by itself, without a gate; leave this out"
    if model.engine != "sglang":
        yield (
            ("engine",),
            "a launch script starts SGLang; leave this out, or give model_path and args in place of the script",
        )
    if model.most_replicas > 1:
        yield ("replicas",), "a launch script starts one server; leave this out"
    for key in SCRIPTS_OWN:
        if written.in_model(model.name, key):
            yield (key,), "is for the command line that muxd makes; put it into the script, and leave this out"


def _env(model: Model) -> Iterator[Finding]:
    for variable, value in model.env.items():
        if variable in OWNED_ENV:
            yield ("env", variable), f"muxd sets it; {OWNED_ENV[variable]}"
        elif wanted := SHELL_VARIABLE.search(value):
            advice = "write the value, or leave it out: a worker has muxd's own environment"
            yield ("env", variable), f"{wanted[0]} would be taken literally, nothing is expanded; {advice}"
