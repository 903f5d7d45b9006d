"""What a model needs of this machine: its files, its GPUs, its RAM, its launch script's program."""

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from muxd.config.devices import VARIABLE
from muxd.config.flags import odd_args, runs_on_cpu
from muxd.config.problems import Problems
from muxd.config.schema import GiB, Model, Script
from muxd.host.bounded import NoAnswer, within
from muxd.host.certain import certain_need
from muxd.host.model_kinds import NoModel, Unusable, config_of
from muxd.host.search import hub_cache, snapshot_in_hub
from muxd.host.weights import weights_of

from .machine import HostCheck
from .report import ReportLine, ok, warn, wrong
from .scripts import Text


def model_lines(machine: HostCheck, model: Model) -> Iterator[ReportLine]:
    """What was read of it, and what is wrong."""
    if model.engine == "simulator":
        pretend = machine.config.daemon.simulated_gpu_memory
        found = list(never_fits(model, pretend, machine.problems))
        yield from found or [ok(model.name, f"simulated on {_gpus(model)}")]
        return
    if model.script is not None:
        yield from [*_script(machine, model, model.script)] or [_read_of(model)]
        return
    text, size, findings = _files(machine, model)
    findings += [*_sizes(machine, model, size), *_homes(machine, model)]
    findings += [warn(model.name, odd, machine.where(model, "args")) for odd in odd_args(model.args)]
    if not findings:
        unseen = "" if machine.gpus or runs_on_cpu(model.args) else ", which cannot be seen"
        findings = [ok(model.name, f"{text} on {_gpus(model)}{unseen}{_host_ram(machine, model, size)}")]
    yield from findings


def _gpus(model: Model) -> str:
    return f"GPU {', '.join(map(str, model.gpus))}"


# Its files

#: How people call folders of models, and nobody at the Hub who publishes them.
_FOLDERS = ("models", "model", "checkpoints", "weights", "llm", "llms", "data", "mnt", "home")


def _files(machine: HostCheck, model: Model) -> tuple[str, int, list[ReportLine]]:
    """What it is, the bytes of its weights where they are known, and what is wrong."""
    where, given = machine.where(model, "model_path"), model.model_path
    try:
        if given.startswith("/"):
            return within(lambda: _local(model, where))
        if "://" in given:
            return given, 0, []
        return within(lambda: _of_hub(machine, model, where))
    except NoAnswer as error:
        return given, 0, [warn(model.name, f"{given} cannot be looked at: {error}", where)]


def _local(model: Model, where: str) -> tuple[str, int, list[ReportLine]]:
    path = Path(model.model_path)
    if path.suffix.lower() == ".gguf":
        text = f"{path} is GGUF, which is for llama.cpp; give the folder that has config.json and *.safetensors"
        return str(path), 0, [warn(model.name, text, where)]
    if not path.is_dir():
        return str(path), 0, [warn(model.name, f"{path} is no folder; give the one that has config.json", where)]
    try:
        size = _size_of(model, path)
    except Unusable as error:
        return str(path), 0, [warn(model.name, f"{path}: {_with_remedy(error)}", where)]
    return f"{path}, {_shown(size)}" if size else str(path), size, []


def _size_of(model: Model, folder: Path) -> int:
    """Raises Unusable."""
    if not config_of(folder).get("architectures"):
        raise NoModel("config.json names no architecture")
    return 0 if _has_no_weights(model) else weights_of(folder)


def _with_remedy(error: Unusable) -> str:
    """What is wrong, and what to do about what is no whole model."""
    text = str(error)
    if ";" in text or ", which" in text:
        return text
    return f"{text}; name a folder with a whole model, or download it again (hf download)"


def _has_no_weights(model: Model) -> bool:
    """SGLang makes them up, or does not read them from files."""
    text = " ".join(model.args).replace("=", " ")
    return any(f"--load-format {form}" in text for form in ("dummy", "remote", "gguf"))


def _of_hub(machine: HostCheck, model: Model, where: str) -> tuple[str, int, list[ReportLine]]:
    given, environ = model.model_path, machine.environ_of(model)
    beside = Path(os.path.abspath(machine.config.path or "muxd.toml")).parent / given
    if beside.exists():
        text = f'{given} is taken for a Hub id, and a folder of that name is here: write "./{given}", if it is meant'
        return given, 0, [warn(model.name, text, where)]
    if given.lower().endswith(".gguf"):
        return given, 0, [warn(model.name, f"{given} is GGUF, which is for llama.cpp; give a model for SGLang", where)]
    cache = hub_cache(environ)
    try:
        snapshot = snapshot_in_hub(cache, given)
        size = _size_of(model, snapshot) if snapshot is not None else None
    except Unusable as error:
        return given, 0, [warn(model.name, f"{given} in the Hub's cache {cache}: {_with_remedy(error)}", where)]
    if size is not None:
        return f"{given} in the Hub's cache, {_shown(size)}", size, []
    if environ.get("HF_HUB_OFFLINE") in ("1", "true", "True", "yes", "YES", "ON", "on"):
        text = f"{given} is not in the Hub's cache {cache}, and HF_HUB_OFFLINE is set: it cannot be downloaded"
        return given, 0, [warn(model.name, text, where)]
    local = f' (a local folder is written "./{given}")' if given.split("/")[0] in _FOLDERS else ""
    return f"{given}, not in the Hub's cache {cache}: its first load downloads it from the Hub{local}", 0, []


def _homes(machine: HostCheck, model: Model) -> Iterator[ReportLine]:
    """Nothing expands "~" in a variable, or in an argument, but the program that reads it, if that does."""
    for name, value in model.env.items():
        if value == "~" or value.startswith("~/"):
            text = f'{name} is "{value}" to the worker, nothing is expanded; write the path in full'
            yield warn(model.name, text, machine.where(model, "env", name))
    for arg in model.args:
        if arg.startswith("~/") or (arg.startswith("--") and "=~/" in arg):
            text = f'"{arg}" stays as it is for the engine, nothing is expanded; write the path in full'
            yield warn(model.name, text, machine.where(model, "args"))


# Its sizes


def never_fits(model: Model, capacity: int, problems: Problems) -> Iterator[ReportLine]:
    """A simulated one, whose GPUs all have that size."""
    if model.engine == "simulator" and model.memory is not None:
        share = model.memory.total // max(1, len(model.gpus))
        if share > capacity:
            where = problems.where(("models", model.name, "memory"))
            yield _too_large(model, model.gpus[0], capacity, where)


def _too_large(model: Model, gpu: int, capacity: int, where: str) -> ReportLine:
    needs = model.memory.total if model.memory is not None else 0
    each = f" on {len(model.gpus)} GPUs" if len(model.gpus) > 1 else ""
    text = f"needs {_shown(needs)}{each}, GPU {gpu} has {_shown(capacity)}: it can never be loaded"
    return wrong(model.name, f"{text}; give it more gpus, or correct memory", where)


def _sizes(machine: HostCheck, model: Model, weights: int) -> Iterator[ReportLine]:
    """Against the GPUs that can be seen, and the RAM that a sleep at level 1 takes."""
    if machine.gpus and not runs_on_cpu(model.args):
        if missing := [gpu for gpu in model.gpus if gpu not in machine.gpus]:
            there = ", ".join(map(str, machine.gpus))
            text = f"GPU {', '.join(map(str, missing))} {'are' if len(missing) > 1 else 'is'} not there"
            text = f"{text}: there {'are' if len(machine.gpus) > 1 else 'is'} {there}"
            if model.script is not None and VARIABLE not in model.script.env:
                yield wrong(model.name, f"{text}; correct {VARIABLE} there", _place_of(model.script))
            else:
                yield wrong(model.name, f"{text}; correct gpus", machine.where(model, "gpus"))
            return
        yield from _against_gpus(machine, model, weights)
    ram, own = machine.memory, _ram(model, weights)
    if ram and own > ram:
        text = f"sleep level 1 takes {_shown(own)} of host RAM, and there are {_shown(ram)}; use sleep_level = 2"
        yield warn(model.name, text, machine.where(model, "sleep_level"))


def _against_gpus(machine: HostCheck, model: Model, weights: int) -> Iterator[ReportLine]:
    share = model.memory.total // max(1, len(model.gpus)) if model.memory is not None else 0
    small = min((machine.gpus[gpu] for gpu in model.gpus), key=lambda gpu: gpu.total, default=None)
    if small is None:
        return
    together = sum(machine.gpus[gpu].total for gpu in model.gpus)
    if share > small.total:
        yield _too_large(model, small.index, small.total, machine.where(model, "memory"))
    elif not share and weights > together and not any(arg.startswith("--cpu-offload") for arg in model.args):
        have = f"have {_shown(together)} together" if len(model.gpus) > 1 else f"has {_shown(together)}"
        text, where = f"its weights have {_shown(weights)}, {_gpus(model)} {have}", machine.where(model, "gpus")
        if certain_need(model, machine.environ_of(model)) > together:
            yield wrong(model.name, f"{text}: it can never be loaded; give it more gpus, or a smaller model", where)
        else:
            yield warn(model.name, f"{text}; give it more gpus", where)


def _ram(model: Model, weights: int) -> int:
    """Bytes of host RAM that it takes while it sleeps."""
    declared = model.memory.weights if model.memory is not None else 0
    return (declared or weights) if model.sleep_level == 1 else 0


def ram_lines(machine: HostCheck) -> Iterator[ReportLine]:
    """What all models that sleep at level 1 take together, where that is too much."""
    sleepers = [model for model in machine.real_models if model.sleep_level == 1]
    together = sum(model.memory.weights for model in sleepers if model.memory is not None)
    if machine.memory and len(sleepers) > 1 and together > machine.memory:
        names = ", ".join(model.name for model in sleepers)
        text = f"{names} sleep at level 1 and take {_shown(together)} together, and there are {_shown(machine.memory)}"
        yield warn("RAM", f"{text}; use sleep_level = 2 for some")


def _host_ram(machine: HostCheck, model: Model, weights: int) -> str:
    if not (taken := _ram(model, weights)):
        return f"; level {model.sleep_level}"
    of = f" (of {_shown(machine.memory)})" if machine.memory else ""
    return f"; level 1 takes {'as much' if taken == weights else _shown(taken)} host RAM{of}"


def _shown(size: int) -> str:
    return f"{size / GiB:.1f} GiB" if size >= GiB / 10 else f"{size / (1 << 20):.1f} MiB"


# Its launch script


def _place_of(script: Script) -> str:
    """FILE:LINE of what starts its server, as far as that was seen."""
    return script.launch or script.argv[1]


def _read_of(model: Model) -> ReportLine:
    """What was read of it."""
    assert model.script is not None
    names, program = ", ".join(model.served_names), model.script.program or "a command"
    port = f"port {model.port}" if model.port else "whichever port it listens on"
    claims = _gpus(model) + ("" if model.script.is_seen or model.script.said.gpus else " until it was seen once")
    read = f"serves {names} on {port}, {claims}, level {model.sleep_level}"
    told = "".join(f"; {contradiction}" for contradiction in model.script.contradictions)
    return (warn if told else ok)(model.name, f"{_place_of(model.script)}: {program} {read}{told}")


def _script(machine: HostCheck, model: Model, script: Script) -> Iterator[ReportLine]:
    """What keeps it from running, as far as its text shows."""
    text = Text(model, script, machine.environ_of(model))
    yield from (warn(model.name, what, where) for what, where in text.missing())
    yield from _program(model, script)
    size = 0
    if (served := text.model_path()) is not None:
        try:
            size, found = within(lambda: _folder_of(model, *served))
            yield from found
        except NoAnswer as error:
            yield warn(model.name, f"{served[0]} cannot be looked at: {error}", served[1])
    yield from _sizes(machine, model, size)


def _folder_of(model: Model, path: str, where: str) -> tuple[int, list[ReportLine]]:
    """The bytes of the weights there, and what is wrong."""
    if not os.path.exists(path):
        return 0, [warn(model.name, f"nothing at {path}; correct the script", where)]
    _, size, findings = _local(replace(model, model_path=path), where)
    return size, findings


def _program(model: Model, script: Script) -> Iterator[ReportLine]:
    if not os.path.isabs(script.program):
        return
    try:
        is_there = within(lambda: os.access(script.program, os.X_OK) and not os.path.isdir(script.program))
    except NoAnswer as error:
        yield warn(model.name, f"{script.program} cannot be looked at: {error}", script.launch)
        return
    if not is_there:
        why = "cannot be executed" if os.path.exists(script.program) else "is not there"
        yield warn(model.name, f"{script.program} {why}; correct the script", script.launch)
