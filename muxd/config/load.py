"""Loading of the configuration: TOML files in, one checked `Config` out, or every problem in them at once.

`sources` finds and merges the files; `schema` declares each key; `rules` checks what must hold between keys.
"""

import re
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from muxd.errors import ConfigError

from .declarations import KeyDeclaration, keys_of
from .default_paths import default_cache_dir, default_log_dir, default_socket, default_state_dir, home
from .devices import VARIABLE, Devices
from .engine_options import DEFAULT_ENGINE, ENGINE_OPTIONS
from .flags import TENSOR, Parallel, flag_of, parallel
from .half_options import HALVES, HalfOptions
from .key_tables import read_keys
from .lines import KeyPath
from .misplaced_keys import why_misplaced, why_no_model, why_no_table, why_not_a_table, why_not_models
from .model_capabilities import told_capabilities
from .model_schema import MODEL_KEYS, Model
from .names import MODEL_NAME, MODEL_NAME_RULE
from .problems import Problems
from .readers import ANY_GPUS, Base
from .rules import check, check_folders
from .schema import SECTIONS, Config, Console, Daemon, GpuBudgets, Policy, Proxy
from .sources import Source, merged, read_sources

if TYPE_CHECKING:
    from muxd.engines.kind import EngineKind

TABLES = [*SECTIONS, "defaults", "models", "keys"]


class ConfigOverlay(Protocol):
    """Settings of a command line that are laid over the files: see muxd/importers/drop_in.py."""

    @property
    def stands_alone(self) -> bool:
        """Say whether the command line names models, so that no configuration file is needed."""
        ...

    def join(self, sources: Sequence[Source], problems: Problems) -> list[Source]:
        """Return further sources, to be merged after the files; note in `problems` what is wrong with them."""
        ...

    def amend(self, config: Config) -> Config:
        """Return the configuration with the command line's settings in place of the files'."""
        ...


def load_config(path: Path | None, environ: Mapping[str, str], added: ConfigOverlay | None = None) -> Config:
    """Read, check and complete the file and those of `muxd.d` beside it, from scratch at each call.

    Without a path the configuration consists of `added` alone.  Raise ConfigError with every problem, one line each.
    """
    config, problems = read_config(path, environ, added)
    problems.raise_any()
    return config


def read_config(
    path: Path | None, environ: Mapping[str, str], added: ConfigOverlay | None = None, *, host: bool = True
) -> tuple[Config, Problems]:
    """Load like `load_config`, but return the problems beside what could be read: to report on, never to run.

    Without `host`, this may be another host than the files are for: the models' folders and interpreters are not looked
    for.

    Raise ConfigError where a file cannot be read or is not TOML.
    """
    config, problems = _read(path, environ, added=added, host=host)
    check_folders(config, problems)
    return config, problems


def load_proxy_config(path: Path, environ: Mapping[str, str]) -> Config:
    """Load like `load_config`, for the proxy: problems of the models are ignored, which concern their workers alone.

    The proxy may run as a user who cannot see the models' files, and must start again whatever was written to the
    configuration since muxd read it.
    """
    config, problems = _read(path, environ, ask=False)
    problems.raise_any(but=("models", "defaults"))
    return config


def config_from_supervisor(settings: dict[str, Any], environ: Mapping[str, str]) -> Config:
    """Return the proxy's configuration from what `proxy_settings.settings_for_proxy` made of muxd's.

    Raise ConfigError like `load_proxy_config`.
    """
    config, problems = _merged_config([Source(Path("muxd"), settings, {}, whole=True)], None, environ, ask=False)
    problems.raise_any(but=("models", "defaults"))
    return config


def salvage_config(path: Path, environ: Mapping[str, str]) -> Config:
    """Return what can be used of files that may have problems: to find logs with, never to run.

    Raise ConfigError where the first file cannot be read or is not TOML.
    """
    return _read(path, environ, salvage=True, ask=False)[0]


def _read(
    path: Path | None,
    environ: Mapping[str, str],
    *,
    salvage: bool = False,
    added: ConfigOverlay | None = None,
    ask: bool = True,
    host: bool = True,
) -> tuple[Config, Problems]:
    began = time.time_ns()
    files = _files(path, salvage=salvage) if path is not None else []
    config, problems = _merged_config(files, path, environ, added, ask=ask, host=host)
    return replace(config, files=tuple(source.file.absolute() for source in files), read_at=began), problems


def _merged_config(
    files: list[Source],
    path: Path | None,
    environ: Mapping[str, str],
    added: ConfigOverlay | None = None,
    *,
    ask: bool = True,
    host: bool = True,
) -> tuple[Config, Problems]:
    """Merge, read, complete and check the files and what the command line adds.

    With `ask`, NVML is asked for GPUs given by name.  NVML takes its time, and a process that runs no worker needs no
    GPU numbers.
    """
    problems = Problems(files)
    sources = [*files, *(added.join(files, problems) if added is not None else [])]
    raw = merged(sources)
    told = told_capabilities(raw.pop("capabilities", {}) if files and files[0].whole else {})
    file = path.absolute() if path is not None else None
    base = Base(file.parent if file is not None else Path.cwd(), home(environ), host)
    devices = Devices(environ, ask=ask)
    config = _FileReading(base, environ, problems, devices).config(raw, file)
    config = replace(config, capabilities=told)
    config = replace(config, keys=read_keys(sources, config.models, base, environ, problems))
    config = added.amend(config) if added is not None else config
    if any(model.script is not None for model in config.models):
        from muxd.launchers.observed_scripts import completed, seen_before  # imported for launch scripts only

        config = completed(config, seen_before(config.daemon.state_dir) if ask else {})
    config = replace(config, remarks=tuple(_remarks(config, raw, devices)) if ask else ())
    check(config, raw, environ, problems, host=host, models=ask)
    return config, problems


def _files(path: Path, *, salvage: bool) -> list[Source]:
    main, parts, broken = read_sources(path)
    if main is None or (broken and not salvage):
        raise ConfigError(broken)
    return [main, *parts]


def _remarks(config: Config, raw: Mapping[str, Any], devices: Devices) -> Iterator[str]:
    """Yield a remark for each model whose GPUs follow from CUDA_VISIBLE_DEVICES of muxd, or contradict it."""
    if devices.said is None:
        return
    started = f"{VARIABLE}={devices.said}, which muxd was started with"
    tables, by_default = raw.get("models", {}), "gpus" in raw.get("defaults", {})
    for model in config.models:
        if not model.gpus:
            continue  # a problem is noted already
        names = ", ".join(model.gpus)
        if model.script is not None and not model.script.knows_gpus:
            continue  # it claims every GPU, whichever it uses
        if by_default or "gpus" in tables.get(model.name, {}) or model.script is not None:
            if outside := devices.outside(model.gpus, simulated=_kind(model.engine).is_pretend):
                yield f"model {model.name} uses GPU {', '.join(outside)}, outside of {started}"
        else:
            yield f"model {model.name} gets GPU {names}: it has no gpus, and they follow {started}"


class _FileReading:
    """One pass over the parsed TOML; a value that cannot be read is noted as a problem and left at its default."""

    def __init__(self, base: Base, environ: Mapping[str, str], problems: Problems, devices: Devices) -> None:
        self._base = base
        self._environ = environ
        self._problems = problems
        self._devices = devices
        self._engine = "sglang"  # of models that name none
        self._pretend_gpus = 0

    def config(self, raw: dict[str, Any], path: Path | None) -> Config:
        for name in raw.keys() - set(TABLES):
            self._problems.add((name,), why_no_table(name, raw, TABLES))
        defaults = self._table(("defaults",), raw.get("defaults", {}), MODEL_KEYS)
        self._engine = str(defaults.get("engine", self._engine))
        daemon = self._daemon(raw.get("muxd", {}))
        self._pretend_gpus = daemon.simulated_gpus
        self._devices.declared = _declared_gpus(raw)
        models = self._models(raw.get("models", {}), defaults)
        return Config(
            daemon=daemon,
            proxy=Proxy(**self._table(("proxy",), raw.get("proxy", {}), keys_of(Proxy))),
            policy=Policy(**self._table(("policy",), raw.get("policy", {}), keys_of(Policy))),
            gpus=self._gpu_budgets(
                raw.get("gpus", {}), simulated="gpus" in raw and any(_kind(model.engine).is_pretend for model in models)
            ),
            ui=Console(**self._table(("ui",), raw.get("ui", {}), keys_of(Console))),
            models=models,
            path=path,
        )

    def _daemon(self, raw: Any) -> Daemon:
        given = self._table(("muxd",), raw, keys_of(Daemon))
        state_dir = given.setdefault("state_dir", default_state_dir(self._environ))
        given.setdefault("log_dir", default_log_dir(self._environ, state_dir))
        given.setdefault("cache_dir", default_cache_dir(self._environ))
        given.setdefault("socket", default_socket(self._environ))
        return Daemon(**given)

    def _gpu_budgets(self, raw: Any, *, simulated: bool) -> GpuBudgets:
        given = self._table(("gpus",), raw, keys_of(GpuBudgets))
        sizes = given.pop("memory", {})
        try:
            ids = self._devices.distinct_ids(tuple(sizes), simulated=simulated)
            given["memory"] = dict(zip(ids, sizes.values(), strict=True))
        except ValueError as error:
            self._problems.add(("gpus", "memory"), _with_remedy(error))
        return GpuBudgets(**given)

    def _models(self, raw: Any, defaults: dict[str, Any]) -> tuple[Model, ...]:
        if not isinstance(raw, dict):
            self._problems.add(("models",), why_not_models(raw))
            return ()
        misplaced = {name: why for name, table in raw.items() if (why := why_no_model(name, table))}
        for name, why in misplaced.items():
            self._problems.add(("models", name), why)
        return tuple(self._model(name, table, defaults) for name, table in raw.items() if name not in misplaced)

    def _model(self, name: str, raw: Any, defaults: dict[str, Any]) -> Model:
        path = ("models", name)
        if not MODEL_NAME.fullmatch(name):
            self._problems.add(path, f"not a model name; {MODEL_NAME_RULE}")
        own = self._table(path, raw, MODEL_KEYS)
        if "script" in own:
            from muxd.importers.script_models import follow_script  # imported for launch scripts only

            own = follow_script(name, own, defaults, self._base, self._environ, self._devices, self._problems)
        given = _over_defaults({key: value for key, value in defaults.items() if key != "script"}, own)
        given["served_names"] = given.get("served_names") or (name,)
        given = {key: _built(MODEL_KEYS[key], value) for key, value in given.items()}
        given |= self._gpus(given, path if "gpus" in own or "gpus" not in defaults else ("defaults",))
        kind = ENGINE_OPTIONS[given.get("engine", DEFAULT_ENGINE)]
        options = kind(**{key: given[key] for key in keys_of(kind) if key in given})
        halves = {half: given[half] for half in HALVES if isinstance(given.get(half), HalfOptions)}
        given = {key: value for key, value in given.items() if key in keys_of(Model) or key == "any_gpus"} | halves
        if halves and "sleep_level" not in own:
            given["sleep_level"] = 3
        if options.usual_level is not None and "sleep_level" not in own:
            given["sleep_level"] = options.usual_level
        return self._with_program(Model(name=name, engine_options=options, **given))

    def _gpus(self, given: Mapping[str, Any], path: KeyPath) -> dict[str, Any]:
        """Return the field `gpus`, by id; without it, of the first GPUs muxd was given."""
        if "engine" in given and not _kind(given["engine"]).capabilities.uses_gpus:
            return {"gpus": ()}
        try:
            needs = _gpus_needed((*_tensor_parallel(given), *given.get("args", ())))
            halves = [given[half] for half in HALVES if isinstance(given.get(half), HalfOptions)]
            most = sum(half.replicas for half in halves) or max(given.get("replicas", 1), given.get("max_replicas", 0))
            names = given["gpus"] if "gpus" in given else self._devices.default(needs, most)
            is_pretend = "engine" in given and _kind(given["engine"]).is_pretend
            if names[:1] and names[0].startswith(ANY_GPUS):
                count = int(names[0].removeprefix(ANY_GPUS))
                any_of = self._devices.any_of(count * most, self._pretend_gpus if is_pretend else 0)
                return {"gpus": any_of, "any_gpus": count}
            each = len(names) // most if len(names) % most == 0 else len(names)  # else a rule refuses it
            parts = (names[start : start + each] for start in range(0, len(names), each))
            ids = (self._devices.distinct_ids(part, simulated=is_pretend) for part in parts)
            return {"gpus": tuple(id for part in ids for id in part)}
        except ValueError as error:
            self._problems.add((*path, "gpus"), _with_remedy(error))
            return {"gpus": ()}

    def _with_program(self, model: Model) -> Model:
        """Return the model with the full path of its `python`, looked up in the PATH that the worker will have."""
        options: Any = model.engine_options
        if "python" not in keys_of(options) or model.script is not None:
            return model
        found = shutil.which(options.python, path=model.env.get("PATH", self._environ.get("PATH")))
        return replace(model, engine_options=replace(options, python=found)) if found else model

    def _table(self, path: KeyPath, raw: Any, declared: Mapping[str, KeyDeclaration]) -> dict[str, Any]:
        """Return the values of a TOML table as its readers understand them; note the keys that no reader accepts."""
        if not isinstance(raw, dict):
            self._problems.add(path, why_not_a_table(path, raw, declared))
            return {}
        given: dict[str, Any] = {}
        for key, value in raw.items():
            if key not in declared:
                self._problems.add((*path, key), why_misplaced(path, key, raw, declared, self._engine))
            elif isinstance(read := declared[key].read, type):
                given[key] = self._table((*path, key), value, keys_of(read))
            else:
                try:
                    given[key] = read(value, self._base)
                except ValueError as error:
                    self._problems.add((*path, key), str(error))
        return given


def _declared_gpus(raw: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the ids of the GPUs that `[gpus]` names by number."""
    table = raw.get("gpus")
    sizes = table.get("memory") if isinstance(table, dict) else None
    return (
        tuple(str(int(name)) for name in sizes if re.fullmatch("[0-9]{1,3}", name)) if isinstance(sizes, dict) else ()
    )


def _with_remedy(error: ValueError) -> str:
    return str(error) if "; " in str(error) else f"{error}; give gpus, by number"


def _built(declared: KeyDeclaration, value: Any) -> Any:
    """Return the value of a key; of a key that is a table, the dataclass made from what was read."""
    return declared.read(**value) if isinstance(declared.read, type) else value


def _kind(engine: str) -> "EngineKind":
    from muxd.engines.registry import ENGINES  # imported where a file names an engine: the proxy has no use for it

    return ENGINES[engine]


def _gpus_needed(args: Sequence[str]) -> Parallel:
    """Return the GPUs that a server with these arguments needs; one where a number is invalid: SGLang refuses it."""
    try:
        return parallel(flag_of(args))
    except ValueError:
        return Parallel()


def _tensor_parallel(given: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the flag for what the key tensor_parallel_size says, where the model's engine has that key."""
    size = given.get("tensor_parallel_size")
    return (TENSOR[-1], str(size)) if size else ()


def _over_defaults(defaults: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """Lay a model's own keys over those of `[defaults]`; tables (env, memory, simulation) are merged key by key."""
    merged = dict(defaults)
    for key, value in own.items():
        merged[key] = {**defaults.get(key, {}), **value} if isinstance(value, dict) else value
    return merged
