"""TOML files -> one checked `Config`, or every problem in them at once.

Which files those are is said in `sources`; what each key may hold is declared in
`keys`; what must hold between keys is in `rules`; defaults are those of `schema`.
"""

import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from muxd.errors import ConfigError

from . import options
from .default_paths import default_log_dir, default_socket, default_state_dir, home
from .devices import VARIABLE, Devices, cuda_names
from .flags import Parallel, flag_of, parallel
from .key_tables import read_keys
from .lines import KeyPath
from .names import MODEL_NAME
from .problems import Problems, shown_path
from .readers import Base, unknown_key
from .rules import check, check_folders
from .schema import Config, Daemon, Memory, Model, Policy, Proxy, Simulation
from .sources import Source, merged, read_sources
from .units import shown

SECTIONS = ["muxd", "proxy", "policy", "defaults", "models", "keys"]

_HOMES = {"muxd": options.DAEMON, "proxy": options.PROXY, "policy": options.POLICY, "models.NAME": options.MODEL}


class ConfigOverlay(Protocol):
    """What a command line adds to the files: see muxd/importers/drop_in.py."""

    @property
    def stands_alone(self) -> bool:
        """It brings models: no file has to be found for them."""
        ...

    def join(self, sources: Sequence[Source], problems: Problems) -> list[Source]: ...

    def amend(self, config: Config) -> Config: ...


def load_config(path: Path | None, environ: Mapping[str, str], added: ConfigOverlay | None = None) -> Config:
    """Read, check and complete the file and those of `muxd.d` beside it, from scratch at each call.

    Without a path: `added` is all.  ConfigError names every problem, one line each.
    """
    config, problems = read_config(path, environ, added)
    problems.raise_any()
    return config


def read_config(
    path: Path | None, environ: Mapping[str, str], added: ConfigOverlay | None = None
) -> tuple[Config, Problems]:
    """As load_config, with what is wrong beside what could be read: to report on, never to run."""
    config, problems = _read(path, environ, added=added)
    check_folders(config, problems)
    return config, problems


def load_proxy_config(path: Path, environ: Mapping[str, str]) -> Config:
    """As load_config, for the proxy: what is wrong with the models is their worker's business, not its.

    It may run as a user who cannot see their files, and must come up again whatever was
    written there since muxd read it.
    """
    config, problems = _read(path, environ, ask=False)
    problems.raise_any(but=("models", "defaults"))
    return config


def config_from_supervisor(settings: dict[str, Any], environ: Mapping[str, str]) -> Config:
    """As load_proxy_config, of what `handover.settings_for_proxy` says."""
    config, problems = _merged_config([Source(Path("muxd"), settings, {}, whole=True)], None, environ, ask=False)
    problems.raise_any(but=("models", "defaults"))
    return config


def salvage_config(path: Path, environ: Mapping[str, str]) -> Config:
    """What can be used of files that may have problems: to find logs by, never to run.

    ConfigError when the first one is not TOML at all.
    """
    return _read(path, environ, salvage=True, ask=False)[0]


def _read(
    path: Path | None,
    environ: Mapping[str, str],
    *,
    salvage: bool = False,
    added: ConfigOverlay | None = None,
    ask: bool = True,
) -> tuple[Config, Problems]:
    began = time.time_ns()
    files = _files(path, salvage=salvage) if path is not None else []
    config, problems = _merged_config(files, path, environ, added, ask=ask)
    return replace(config, files=tuple(source.file.absolute() for source in files), read_at=began), problems


def _merged_config(
    files: list[Source],
    path: Path | None,
    environ: Mapping[str, str],
    added: ConfigOverlay | None = None,
    *,
    ask: bool = True,
) -> tuple[Config, Problems]:
    """`ask`: a GPU's name is looked up; NVML takes its time, and who runs no worker need not know."""
    problems = Problems(files)
    sources = [*files, *(added.join(files, problems) if added is not None else [])]
    raw = merged(sources)
    file = path.absolute() if path is not None else None
    base = Base(file.parent if file is not None else Path.cwd(), home(environ))
    devices = Devices(environ, ask=ask)
    config = _FileReading(base, environ, problems, devices).config(raw, file)
    config = replace(config, keys=read_keys(sources, config.models, base, environ, problems))
    config = added.amend(config) if added is not None else config
    if any(model.script is not None for model in config.models):
        from muxd.observed_scripts import completed, seen_before  # only where there is one: the proxy never needs it

        config = completed(config, seen_before(config.daemon.state_dir) if ask else {})
    config = replace(config, remarks=tuple(_remarks(config, raw, devices)))
    check(config, raw, environ, problems)
    return config, problems


def _files(path: Path, *, salvage: bool) -> list[Source]:
    main, parts, broken = read_sources(path)
    if main is None or (broken and not salvage):
        raise ConfigError(broken)
    return [main, *parts]


def _remarks(config: Config, raw: Mapping[str, Any], devices: Devices) -> Iterator[str]:
    """What follows from the GPUs that muxd itself was given."""
    if devices.said is None:
        return
    started = f"{VARIABLE}={devices.said}, which muxd was started with"
    tables, by_default = raw.get("models", {}), "gpus" in raw.get("defaults", {})
    for model in config.models:
        if not model.gpus:
            continue  # which is told
        names = ", ".join(model.cuda_devices or map(str, model.gpus))
        if by_default or "gpus" in tables.get(model.name, {}) or model.script is not None:
            if outside := devices.outside(model.gpus, simulated=model.engine == "simulator"):
                yield f"model {model.name} uses GPU {', '.join(map(str, outside))}, outside of {started}"
        else:
            yield f"model {model.name} gets GPU {names}: it has no gpus, and they follow {started}"


class _FileReading:
    """One pass over the parsed TOML; what cannot be read is noted and left at its default."""

    def __init__(self, base: Base, environ: Mapping[str, str], problems: Problems, devices: Devices) -> None:
        self._base = base
        self._environ = environ
        self._problems = problems
        self._devices = devices

    def config(self, raw: dict[str, Any], path: Path | None) -> Config:
        for name in raw.keys() - set(SECTIONS):
            text = _misplaced(name) or unknown_key(name, raw[name], SECTIONS, in_model=False)
            self._problems.add((name,), text)
        defaults = self._table(("defaults",), raw.get("defaults", {}), options.MODEL)
        return Config(
            daemon=self._daemon(raw.get("muxd", {})),
            proxy=self._proxy(raw.get("proxy", {})),
            policy=Policy(**self._table(("policy",), raw.get("policy", {}), options.POLICY)),
            models=self._models(raw.get("models", {}), defaults),
            path=path,
        )

    def _daemon(self, raw: Any) -> Daemon:
        given = self._table(("muxd",), raw, options.DAEMON)
        state_dir = given.setdefault("state_dir", default_state_dir(self._environ))
        given.setdefault("log_dir", default_log_dir(self._environ, state_dir))
        given.setdefault("socket", default_socket(self._environ))
        return Daemon(**given)

    def _proxy(self, raw: Any) -> Proxy:
        given = self._table(("proxy",), raw, options.PROXY)
        if listen := given.pop("listen", None):
            given["host"], given["port"] = listen
        return Proxy(**given)

    def _models(self, raw: Any, defaults: dict[str, Any]) -> tuple[Model, ...]:
        if not isinstance(raw, dict):
            self._problems.add(("models",), f"{shown(raw)} is not a table; write [models.NAME]")
            return ()
        return tuple(self._model(name, table, defaults) for name, table in raw.items())

    def _model(self, name: str, raw: Any, defaults: dict[str, Any]) -> Model:
        path = ("models", name)
        if not MODEL_NAME.fullmatch(name):
            self._problems.add(
                path, "not a model name; use a-z, 0-9, '.', '_' and '-', and begin with a letter or digit"
            )
        own = self._table(path, raw, options.MODEL)
        if "script" in own:
            from muxd.importers.script_models import follow_script  # only where there is one: the proxy never needs it

            own = follow_script(name, own, defaults, self._base, self._environ, self._devices, self._problems)
        given = _merged({key: value for key, value in defaults.items() if key != "script"}, own)
        given["served_names"] = given.get("served_names") or (name,)
        if "memory" in given:
            given["memory"] = Memory(**given["memory"])
        if "simulation" in given:
            given["simulation"] = Simulation(**given["simulation"])
        given |= self._gpus(given, path if "gpus" in own or "gpus" not in defaults else ("defaults",))
        return self._with_program(Model(name=name, **given))

    def _gpus(self, given: Mapping[str, Any], path: KeyPath) -> dict[str, Any]:
        """By number, whatever they were called; where nobody said any, the first that muxd was given."""
        try:
            names = given["gpus"] if "gpus" in given else self._devices.default(_needs(given.get("args", ())))
            numbers = self._devices.numbers(names, simulated=given.get("engine") == "simulator")
        except ValueError as error:
            self._problems.add((*path, "gpus"), f"{error}; give gpus, by number")
            return {"gpus": ()}
        return {"gpus": numbers, "cuda_devices": cuda_names(names)}

    def _with_program(self, model: Model) -> Model:
        """A bare `python` is looked up now, in the PATH it will run with."""
        search = model.env.get("PATH", self._environ.get("PATH"))
        found = (
            None if model.engine == "simulator" or model.script is not None else shutil.which(model.python, path=search)
        )
        return replace(model, python=found) if found else model

    def _table(self, path: KeyPath, raw: Any, table: options.Table) -> dict[str, Any]:
        if not isinstance(raw, dict):
            form = f"{path[-1]} = {{ {next(iter(table))} = ... }}" if len(path) > 2 else f"[{shown_path(path)}]"
            self._problems.add(path, f"{shown(raw)} is not a table; write {form}")
            return {}
        given: dict[str, Any] = {}
        for key, value in raw.items():
            match table.get(key):
                case None:
                    text = _misplaced(key) or unknown_key(key, value, list(table), in_model=path[0] == "models")
                    self._problems.add((*path, key), text)
                case dict() as inner:
                    given[key] = self._table((*path, key), value, inner)
                case read:
                    try:
                        given[key] = read(value, self._base)
                    except ValueError as error:
                        self._problems.add((*path, key), str(error))
        return given


def _misplaced(key: str) -> str | None:
    """What to say about a key that is known elsewhere."""
    homes = [f"[{section}]" for section, table in _HOMES.items() if key in table]
    return f"no key of this table; it belongs under {' or '.join(homes)}" if homes else None


def _needs(args: Sequence[str]) -> Parallel:
    """Numbers that are none are for the engine to refuse."""
    try:
        return parallel(flag_of(args))
    except ValueError:
        return Parallel()


def _merged(defaults: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """A model's own keys over `[defaults]`; tables (env, memory, simulation) key by key."""
    merged = dict(defaults)
    for key, value in own.items():
        merged[key] = {**defaults.get(key, {}), **value} if isinstance(value, dict) else value
    return merged
