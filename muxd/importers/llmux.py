"""llmux's configuration as muxd's: llmux 1, which runs vLLM itself, and llmux 2, which calls three hooks of a model."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from muxd.config.lines import KeyPath
from muxd.config.problems import Problems
from muxd.config.readers import Base, Reader, boolean, choice, integer, number, text, texts
from muxd.config.server_commands import literal
from muxd.config.units import show_duration
from muxd.config.units import shown as shown_value

from .documents import read_document
from .owned_flags import why_left_out, without_owned
from .programs import interpreter_of
from .translations import ANY, Conversion, Take, Translation, Translations, lost, put

DEFAULT_PORT = 3000
DEFAULT_METRICS_PORT = 9090

_HOOKS = ("wake", "sleep", "alive")
_CURL = re.compile(
    r"\s*curl(?:\s+-\S+)*\s+[\"']?https?://(?:localhost|127\.0\.0\.1|\[::1\]):\d+(/[^\s\"'?#]*)[\"']?\s*"
)

#: What muxd's command does while the hooks' server lives: the hook itself may come back, and leave a container behind.
_HOLD = 'sh -c "$0" && exec sleep infinity'

_NO_IMAGES = (
    "muxd makes no images of processes (CRIU, cuda-checkpoint); a model that has no process starts from nothing"
)
_OWN_ORDER = "whose turn it is follows from the waits that are stated, see `[policy] wait_target`"
_EVENTS = "`muxctl` and its socket are the control API"


def _seconds(low: int = 0) -> Reader[int]:
    return integer(low, 10**9)


def _duration(seconds: float) -> str:
    return show_duration(seconds)


def _extra_args(conversion: Conversion, at: KeyPath, value: Any) -> None:
    if (words := conversion.read(at, value, texts)) is not None:
        kept, left_out = without_owned(words)
        for flag in left_out:
            conversion.remark(at, why_left_out(flag) or f"{flag} is left out: muxd gives it itself")
        if kept:
            conversion.put(("models", conversion.table_names[at[1]], "args"), kept, at)


def _listen(conversion: Conversion, at: KeyPath, value: Any) -> None:
    if (port := conversion.read(at, value, integer(1, 65535))) is not None:
        conversion.put(("proxy", "listen"), f"127.0.0.1:{port}", at)


def _metrics(conversion: Conversion, at: KeyPath, value: Any) -> None:
    if conversion.read(at, value, integer(0, 65535)):
        conversion.put(("proxy", "metrics_listen"), f"127.0.0.1:{value}", at)


def _python(conversion: Conversion, at: KeyPath, value: Any) -> None:
    """Put the interpreter of the program `vllm`: the one beside it, or the one that its first line names."""
    if (program := conversion.read(at, value, text)) is None:
        return
    if python := interpreter_of(program, os.environ):
        conversion.put(("defaults", "python"), python, at)
    elif program != "vllm":
        conversion.remark(at, "whose interpreter cannot be seen here; write python, the interpreter that has vLLM")


def _warmup(conversion: Conversion, at: KeyPath, value: Any) -> None:
    if conversion.read(at, value, boolean) is False:
        conversion.put(("defaults", "wake_proof"), False, at)


def _drain(conversion: Conversion, at: KeyPath, value: Any) -> None:
    if conversion.read(at, value, boolean) is False:
        conversion.put(("defaults", "drain_timeout"), "0s", at)


def _level(target: str) -> Take:
    """Return a function that puts llmux's sleep level, of which 4 and 5 are what CRIU and a kill do."""

    def take(conversion: Conversion, at: KeyPath, value: Any) -> None:
        if (level := conversion.read(at, value, integer(1, 5))) is not None:
            _put_level(conversion, target, at, min(level, 3))
            if level > 3:
                conversion.remark(at, f"level 3 is written: {_NO_IMAGES}")

    return take


def _put_level(conversion: Conversion, target: str, at: KeyPath, level: int) -> None:
    """Put a sleep level; sleep_level and eviction, which both say one, must say the same."""
    path = [conversion.table_names[at[1]] if part == ANY else part for part in target.split(".")]
    table = conversion.tables
    for part in path:
        table = table.get(part, {})
    if table.get("sleep_level", level) != level:
        other = "eviction" if at[-1] == "sleep_level" else "sleep_level"
        conversion.wrong(at, f"level {level} here, and {table['sleep_level']} by {other}; write one of the two")
        return
    conversion.put((*path, "sleep_level"), level, at)


#: The sleep level of a model whose weights and whose process llmux deals with so, and what gets lost.
_WEIGHTS = {"retain": 0, "offload": 1, "discard": 2}
_PROCESS = {"keep_running": 0, "cuda_suspend": 1, "checkpoint": 2, "stop": 3}


def _eviction(target: str) -> Take:
    def take(conversion: Conversion, at: KeyPath, value: Any) -> None:
        if not isinstance(value, dict) or value.keys() - {"weights", "process"}:
            conversion.wrong(at, 'not an eviction; write { "weights": "offload", "process": "keep_running" }')
            return
        process = conversion.read((*at, "process"), value.get("process", "stop"), choice(*_PROCESS))
        weights = conversion.read((*at, "weights"), value.get("weights", "retain"), choice(*_WEIGHTS))
        if process is None or weights is None:
            return
        _put_level(conversion, target, at, max(_WEIGHTS[weights], _PROCESS[process]))
        if process in ("cuda_suspend", "checkpoint"):
            conversion.remark(at, f'no equal of "{process}", the nearest level is written: {_NO_IMAGES}')
        elif (weights, process) == ("retain", "keep_running"):
            conversion.remark(at, "level 0 is written: its KV cache is given up; pinned = true keeps that, too")

    return take


_MODEL: Translations = {
    "model_path": Translation('`model_path`, with `engine = "vllm"`', put("models.*.model_path", text)),
    "port": Translation("`port`", put("models.*.port", integer(1, 65535))),
    "sleep_level": Translation("`sleep_level`, 3 without it; 4 and 5 become 3", _level("models.*")),
    "eviction": Translation(
        "`sleep_level`: 0, 1, 2 for weights that are retained, offloaded, discarded; 3 for a process that stops",
        _eviction("models.*"),
    ),
    "gpu_memory_utilization": Translation(
        "`gpu_memory_utilization`; `memory` with `kv` lets several be awake on one GPU",
        put("models.*.gpu_memory_utilization", number(0, 1)),
    ),
    "tensor_parallel_size": Translation(
        "`gpus`, the first so many: vLLM is split over all that it has",
        put("models.*.gpus", integer(1, 1024), lambda count: list(range(count))),
    ),
    "dtype": Translation("`dtype`", put("models.*.dtype", text)),
    "extra_args": Translation("`args`, without the flags that muxd gives itself", _extra_args),
    "checkpoint_path": lost(_NO_IMAGES),
    "wake": Translation('`command` and `wake`, with `engine = "openai"`'),
    "sleep": Translation("`sleep` and `stop_command`"),
    "alive": Translation("`health_path`, where it is a plain curl; else `/health` is asked"),
}

_POLICY: Translations = {
    "policy_type": lost(_OWN_ORDER),
    "request_timeout_secs": Translation(
        "`switch_timeout`, which is 10 min without it",
        put("defaults.switch_timeout", _seconds(1), _duration),
    ),
    "drain_before_switch": Translation("true is muxd's way; false is `drain_timeout = 0`", _drain),
    "sleep_level": Translation("`sleep_level` under `[defaults]`", _level("defaults")),
    "eviction": Translation("`sleep_level` under `[defaults]`", _eviction("defaults")),
    "min_active_secs": lost("a turn is kept for as long as its clients usually return, see `[policy] keep_turns`"),
    "max_wait_secs": Translation("`[policy] wait_target`", put("policy.wait_target", _seconds(), _duration)),
    **dict.fromkeys(("coalesce_window_ms", "amortization_factor", "tick_interval_ms"), lost(_OWN_ORDER)),
    "min_quantum_ms": lost(_OWN_ORDER),
}

#: Every key of llmux 1 and 2.
KEYS: Translations = {
    "models": {ANY: _MODEL},
    "port": Translation("`[proxy] listen`, on loopback: llmux listens everywhere", _listen),
    "metrics_port": Translation("`[proxy] metrics_listen`; `/metrics` is at the proxy's own port, too", _metrics),
    "admin_port": lost(_EVENTS),
    "vllm_command": Translation("`python`, the interpreter of that program", _python),
    "vllm_logging": Translation("always on: `muxctl logs NAME`", lambda *_: None),
    "startup_timeout_secs": Translation("`start_timeout`", put("defaults.start_timeout", _seconds(1), _duration)),
    "warmup": Translation("`wake_proof`, whose question warms up a server before it is ready", _warmup),
    "checkpoint": {
        **dict.fromkeys(("criu_path", "cuda_plugin_dir", "images_dir", "cuda_checkpoint_path"), lost(_NO_IMAGES)),
        **dict.fromkeys(("keep_images",), lost(_NO_IMAGES)),
        "object_store": lost(_NO_IMAGES),
    },
    "policy": _POLICY,
}

#: Every flag of llmux 1 and 2.
FLAGS = {
    "`--config FILE`, `-c`": "`muxd start --llmux FILE`, or `muxd import llmux FILE -o muxd.toml` once",
    "`--port PORT`, `-p`": "`muxd start --listen-port PORT`",
    "`--verbose`, `-v`": "`--log-level debug`, or `--verbose` with `--validate`; vLLM's: `muxctl logs NAME`",
    "`--validate MODEL`": "`muxd start --llmux FILE --validate MODEL`; of a muxd that runs, `muxctl validate MODEL`",
    "`--levels 1,2`": "`--levels 1,2`",
    "`--policies offload+keep_running,...`": "`--levels 1,2,3`: the sleep levels",
    "`--checkpoint MODEL`, `--restore-detached MODEL`, `--eviction`, `--no-warmup`": f"no equal: {_NO_IMAGES}",
    "`--version`": "`muxd --version`",
    "`RUST_LOG`": "`[muxd] log_level`",
}


def convert(file: Path, problems: Problems) -> Conversion:
    """Return llmux's configuration as muxd's; what is wrong with it is noted in `problems`.

    A file that ends in .yaml or .yml is read as YAML, any other as JSON, as llmux does.  Raise ConfigError where it
    cannot be read.
    """
    source = read_document(file, is_yaml=file.suffix in (".yaml", ".yml"))
    conversion = Conversion(source, problems)
    problems.also(source)
    models = source.table.get("models")
    if not isinstance(models, dict) or not models:
        conversion.wrong(("models",), 'no model; write "models": { "NAME": { ... } }')
        return conversion
    conversion.name_models(models)
    conversion.put(("proxy", "listen"), f"127.0.0.1:{DEFAULT_PORT}", ("port",))
    conversion.follow(KEYS)
    conversion.remark(("port",), "llmux listens on every address without a key, muxd on loopback; `listen` says which")
    for name, table in models.items():
        if isinstance(table, dict):
            _finish(conversion, name, table)
    if any(isinstance(table, dict) and "model_path" in table for table in models.values()):
        _put_defaults_of_1(conversion)
    return conversion


def _put_defaults_of_1(conversion: Conversion) -> None:
    """Put what llmux 1 does where its file says nothing, and muxd does otherwise."""
    if "metrics_port" not in conversion.source.table:
        conversion.put(("proxy", "metrics_listen"), f"127.0.0.1:{DEFAULT_METRICS_PORT}", ("metrics_port",))
    if "sleep_level" not in conversion.tables.get("defaults", {}):
        conversion.put(("defaults", "sleep_level"), 3, ("policy",))


def _finish(conversion: Conversion, name: str, table: Mapping[str, Any]) -> None:
    """Put what follows from several keys of a model together."""
    at: KeyPath = ("models", name)
    path = ("models", conversion.table_names[name])
    hooks = [hook for hook in _HOOKS if table.get(hook) is not None]
    if bool(hooks) == ("model_path" in table):
        which = "as well as" if hooks else "nor"
        text = f"{'has' if hooks else 'has no'} model_path (llmux 1) {which} wake, sleep and alive (llmux 2)"
        conversion.wrong(at, f"{text}; write one of the two")
        return
    for needed in (*(_HOOKS if hooks else ()), "port"):
        if table.get(needed) is None:
            conversion.wrong(at, f"{needed} is missing; write it")
    if path[1] != name:
        conversion.put((*path, "served_names"), [name], at)
    conversion.put((*path, "engine"), "openai" if hooks else "vllm", at)
    if hooks:
        _put_hooks(conversion, name, table)


def _put_hooks(conversion: Conversion, name: str, table: Mapping[str, Any]) -> None:
    """Put the three hooks of llmux 2, which `sh -c` runs with LLMUX_MODEL in the environment."""
    at: KeyPath = ("models", name)
    path = ("models", conversion.table_names[name])
    wake, sleep, alive = (conversion.read((*at, hook), table.get(hook, "true"), _hook) for hook in _HOOKS)
    if wake is None or sleep is None or alive is None:
        return
    run = ["env", f"LLMUX_MODEL={literal(name)}", "sh", "-c"]
    conversion.put((*path, "command"), [*run, _HOLD, wake], (*at, "wake"))
    conversion.put((*path, "wake"), [{"command": [*run, wake]}], (*at, "wake"))
    conversion.put((*path, "sleep"), [{"command": [*run, sleep]}], (*at, "sleep"))
    conversion.put((*path, "stop_command"), [*run, sleep], (*at, "sleep"))
    conversion.put((*path, "sleep_level"), 1, (*at, "sleep"))
    conversion.put((*path, "cwd"), ".", at)
    if plain := _CURL.fullmatch(alive):
        conversion.put((*path, "ready_path"), plain[1], (*at, "alive"))
    else:
        conversion.remark((*at, "alive"), "the script is not run: ready_path and health_path of the server are asked")


def _hook(value: Any, base: Base) -> str:
    if isinstance(value, str) and value.strip() and "\0" not in value:
        return literal(value)
    raise ValueError(f"{shown_value(value)} is no script; write the words of a shell in quotes")
