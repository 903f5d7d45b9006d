"""One TOML file -> one checked `Config`, or every problem in it at once.

What each key may hold is declared in `keys`; what must hold between keys is in
`rules`; defaults are those of `schema`.
"""

import re
import shutil
import tomllib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from muxd.errors import ConfigError

from . import keys
from .lines import KeyPath, key_lines
from .names import MODEL_NAME
from .places import default_log_dir, default_socket, default_state_dir, home
from .problems import Problems, shown_path
from .readers import Base, unknown_key
from .rules import check
from .schema import Config, Daemon, Memory, Model, Policy, Proxy, Simulation
from .units import shown

SECTIONS = ["muxd", "proxy", "policy", "defaults", "models"]

_AT_LINE = re.compile(r" \(at (?:line (\d+), column \d+|end of document)\)$")


def load_config(path: Path, environ: Mapping[str, str]) -> Config:
    """Read, check and complete one file.  ConfigError names every problem, one line each."""
    config, problems = _read(path, environ)
    problems.raise_any()
    return config


def load_proxy_config(path: Path, environ: Mapping[str, str]) -> Config:
    """As load_config, for the proxy: what is wrong with the models is their worker's business, not its.

    It may run as a user who cannot see their files, and must come up again whatever was
    written there since muxd read it.
    """
    config, problems = _read(path, environ)
    problems.raise_any(but=("models", "defaults"))
    return config


def salvage_config(path: Path, environ: Mapping[str, str]) -> Config:
    """What can be used of a file that may have problems: to find logs by, never to run.

    ConfigError when it is not TOML at all.
    """
    return _read(path, environ)[0]


def _read(path: Path, environ: Mapping[str, str]) -> tuple[Config, Problems]:
    source = _text(path)
    raw = _parse(path, source)
    problems = Problems(path, key_lines(source))
    config = _Reading(Base(path.absolute().parent, home(environ)), environ, problems).config(raw, path.absolute())
    check(config, raw, environ, problems)
    return config, problems


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode()
    except OSError as error:
        raise ConfigError([f"{path}: cannot be read: {error.strerror}; correct the path or its permissions"]) from None
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ConfigError([f"{path}:{line}: not UTF-8; save the file as UTF-8"]) from None


def _parse(path: Path, source: str) -> dict[str, Any]:
    try:
        return tomllib.loads(source)
    except tomllib.TOMLDecodeError as error:
        message = str(error)
        at = _AT_LINE.search(message)
        line = at[1] if at and at[1] else source.count("\n") + 1
        raise ConfigError([f"{path}:{line}: not TOML: {_AT_LINE.sub('', message)}; correct this line"]) from None
    except RecursionError:
        raise ConfigError([f"{path}: not usable: nested too deeply; write plain tables"]) from None


class _Reading:
    """One pass over the parsed TOML; what cannot be read is noted and left at its default."""

    def __init__(self, base: Base, environ: Mapping[str, str], problems: Problems) -> None:
        self._base = base
        self._environ = environ
        self._problems = problems

    def config(self, raw: dict[str, Any], path: Path) -> Config:
        for name in raw.keys() - set(SECTIONS):
            self._problems.add((name,), unknown_key(name, raw[name], SECTIONS, in_model=False))
        defaults = self._table(("defaults",), raw.get("defaults", {}), keys.MODEL)
        return Config(
            daemon=self._daemon(raw.get("muxd", {})),
            proxy=self._proxy(raw.get("proxy", {})),
            policy=Policy(**self._table(("policy",), raw.get("policy", {}), keys.POLICY)),
            models=self._models(raw.get("models", {}), defaults),
            path=path,
        )

    def _daemon(self, raw: Any) -> Daemon:
        given = self._table(("muxd",), raw, keys.DAEMON)
        state_dir = given.setdefault("state_dir", default_state_dir(self._environ))
        given.setdefault("log_dir", default_log_dir(self._environ, state_dir))
        given.setdefault("socket", default_socket(self._environ))
        return Daemon(**given)

    def _proxy(self, raw: Any) -> Proxy:
        given = self._table(("proxy",), raw, keys.PROXY)
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
        given = _merged(defaults, self._table(path, raw, keys.MODEL))
        given["served_names"] = given.get("served_names") or (name,)
        if "memory" in given:
            given["memory"] = Memory(**given["memory"])
        if "simulation" in given:
            given["simulation"] = Simulation(**given["simulation"])
        return self._with_program(Model(name=name, **given))

    def _with_program(self, model: Model) -> Model:
        """A bare `python` is looked up now, in the PATH it will run with."""
        search = model.env.get("PATH", self._environ.get("PATH"))
        found = None if model.engine == "simulator" else shutil.which(model.python, path=search)
        return replace(model, python=found) if found else model

    def _table(self, path: KeyPath, raw: Any, table: keys.Table) -> dict[str, Any]:
        if not isinstance(raw, dict):
            form = f"{path[-1]} = {{ {next(iter(table))} = ... }}" if len(path) > 2 else f"[{shown_path(path)}]"
            self._problems.add(path, f"{shown(raw)} is not a table; write {form}")
            return {}
        given: dict[str, Any] = {}
        for key, value in raw.items():
            match table.get(key):
                case None:
                    text = unknown_key(key, value, list(table), in_model=path[0] == "models")
                    self._problems.add((*path, key), text)
                case dict() as inner:
                    given[key] = self._table((*path, key), value, inner)
                case read:
                    try:
                        given[key] = read(value, self._base)
                    except ValueError as error:
                        self._problems.add((*path, key), str(error))
        return given


def _merged(defaults: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """A model's own keys over `[defaults]`; tables (env, memory, simulation) key by key."""
    merged = dict(defaults)
    for key, value in own.items():
        merged[key] = {**defaults.get(key, {}), **value} if isinstance(value, dict) else value
    return merged
