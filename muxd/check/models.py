"""Checks of one model against this machine: its files, its GPUs, its RAM, its launch script's program."""

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from math import inf
from pathlib import Path

from muxd.config.devices import VARIABLE
from muxd.config.flags import runs_on_cpu
from muxd.config.half_options import HALVES
from muxd.config.model_schema import Model, Script
from muxd.config.problems import Problems
from muxd.config.schema import Config, GiB
from muxd.core.ledger import how_many_fit
from muxd.engines.installed_flags import asked_name, flag_faults
from muxd.engines.registry import kind_of
from muxd.host.bounded import NoAnswer, within
from muxd.host.model_kinds import NoModel, Unreadable, Unusable, config_of
from muxd.host.search import hub_cache, snapshot_in_hub
from muxd.host.weights import refuse_cut_off, weights_of

from .machine import HostCheck
from .report import ReportLine, ok, warn, wrong
from .scripts import FOLDERS, Text


def model_lines(machine: HostCheck, model: Model) -> Iterator[ReportLine]:
    """Yield lines on what is wrong with a model; one `ok` line that describes it if nothing is."""
    if kind_of(model).is_pretend:
        found = [*never_fits(model, machine.config, machine.problems), *_level_lines(machine, model)]
        yield from found or [ok(model.name, f"simulated on {_gpus(model)}")]
        return
    if kind_of(model).why_not_served is not None:
        why = machine.not_served.get(model.name)
        yield warn(model.name, why) if why else ok(model.name, "its servers run elsewhere, behind a router")
        return
    if model.script is not None:
        yield from [*_script_lines(machine, model, model.script)] or [_script_summary(model)]
        return
    text, size, findings = _files(machine, model)
    findings += [*_size_lines(machine, model, size), *_level_lines(machine, model), *_home_lines(machine, model)]
    findings += args_lines(machine, model, model.args, machine.where(model, "args"))
    for half in HALVES:
        if (options := getattr(model, half)) is not None:
            findings += args_lines(machine, model, options.args, machine.where(model, half, "args"), half)
    findings += [wrong(model.name, why, machine.where(model, *key)) for key, why in machine.unfit.get(model.name, ())]
    if not findings:
        unseen = "" if machine.gpus or runs_on_cpu(model.args) else ", which cannot be seen"
        findings = [ok(model.name, f"{text} on {_gpus(model)}{unseen}{_ram_text(machine, model, size)}")]
    yield from findings


def _gpus(model: Model) -> str:
    names = ", ".join(model.gpus)
    each = f" for each of its {model.most_replicas} replicas" * (model.most_replicas > 1)
    return f"any {model.any_gpus} of GPU {names}{each}" if model.any_gpus else f"GPU {names}"


def _too_few(model: Model, where: str) -> Iterator[ReportLine]:
    """Yield a line if a model that runs on any GPUs needs more than there are."""
    if len(model.gpus) < model.any_gpus:
        there = f"there {'is' if len(model.gpus) == 1 else 'are'} {', '.join(model.gpus)}"
        yield wrong(model.name, f"it needs {model.any_gpus} GPUs, and {there}; correct gpus", where)


def named_otherwise(config: Config, problems: Problems) -> Iterator[ReportLine]:
    """Yield a line for each model that names a card by its index which another names by its UUID, or the reverse."""
    first: dict[str, tuple[str, str]] = {}
    for model in (model for model in config.models if model.script is None):
        own = ("models", model.name, "gpus")
        path = own if problems.said(own) else ("defaults", "gpus")
        names = problems.value(path)
        for name, gpu in zip(map(str, names if isinstance(names, list) else ()), model.gpus, strict=False):
            other, its = first.setdefault(gpu, (model.name, name))
            if name.isdigit() != its.isdigit():
                text = f"{name} is the card that {other} names {its}; give it one name in both"
                yield wrong(model.name, text, problems.where(path))


# Its arguments


def args_lines(
    machine: HostCheck, model: Model, args: Sequence[str], where: str, half: str = ""
) -> Iterator[ReportLine]:
    """Yield one line on each mistake in arguments of a model, or its half: wrong, where its own engine refuses them."""
    checks = kind_of(model).installation
    if checks is None:
        return
    python, rejected = machine.rejected.get(asked_name(model, half), ("", []))
    whose = f"{half}.args" if half else "args" if model.script is None else ""
    for fault in flag_faults(checks, python, args, rejected, whose):
        yield (wrong if fault.is_refused else warn)(model.name, fault.text, where)
    for flag, path in checks.paths_read(args):
        with suppress(NoAnswer):
            if not within(partial(os.path.exists, path)):
                yield wrong(model.name, f"{flag}: nothing at {path}; correct the path", where)


# Its files


def _files(machine: HostCheck, model: Model) -> tuple[str, int, list[ReportLine]]:
    """Return a description of the model's files, the bytes of its weights (0 if unknown), and lines on faults."""
    where, given = machine.where(model, "model_path"), model.model_path
    if not kind_of(model).has_hub_layout:
        program = model.engine_options.python
        return f"{given} by {program}" if given else program, 0, []
    try:
        if given.startswith("/"):
            return within(lambda: _local_files(model, where))
        if "://" in given:
            return given, 0, []
        return within(lambda: _hub_files(machine, model, where))
    except NoAnswer as error:
        return given, 0, [warn(model.name, f"{given} cannot be looked at: {error}", where)]


def _local_files(model: Model, where: str) -> tuple[str, int, list[ReportLine]]:
    path = Path(model.model_path)
    if path.suffix.lower() == ".gguf":
        text = f"{path} is GGUF, which is for llama.cpp; give the folder that has config.json and *.safetensors"
        return str(path), 0, [warn(model.name, text, where)]
    if not path.is_dir():
        return str(path), 0, [wrong(model.name, f"{path} is no folder; give the one that has config.json", where)]
    try:
        size = _size_of(model, path)
    except Unusable as error:
        if below := _models_below(path):
            text = f"{path}: {error}, but a model is in {below[0]}: give that"
        else:
            text = f"{path}: {_add_remedy(error)}"
        return str(path), 0, [(warn if isinstance(error, Unreadable) else wrong)(model.name, text, where)]
    return f"{path}, {_gib(size)}" if size else str(path), size, []


def _models_below(folder: Path) -> list[Path]:
    """Return the folders of models right below one that is none, as a repository of the Hub's cache has snapshots."""
    if (folder / "config.json").exists():
        return []
    return [file.parent for pattern in ("*/config.json", "snapshots/*/config.json") for file in folder.glob(pattern)]


def _size_of(model: Model, folder: Path) -> int:
    """Return the bytes of the weights in the folder; 0 if none are loaded from files.  Raises Unusable."""
    if not config_of(folder).get("architectures"):
        raise NoModel("config.json names no architecture")
    if _has_no_weights(model):
        return 0
    size = weights_of(folder)
    refuse_cut_off(folder)
    return size


def _add_remedy(error: Unusable) -> str:
    """Return the error with a remedy, unless its text has one."""
    text = str(error)
    if ";" in text or ", which" in text:
        return text
    return f"{text}; name a folder with a whole model, or download it again (hf download)"


def _has_no_weights(model: Model) -> bool:
    """Say whether SGLang reads no weights from files: it invents them, or gets them elsewhere."""
    text = " ".join(model.args).replace("=", " ")
    return any(f"--load-format {form}" in text for form in ("dummy", "remote", "gguf"))


def _hub_files(machine: HostCheck, model: Model, where: str) -> tuple[str, int, list[ReportLine]]:
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
        return given, 0, [warn(model.name, f"{given} in the Hub's cache {cache}: {_add_remedy(error)}", where)]
    if size is not None:
        return f"{given} in the Hub's cache, {_gib(size)}", size, []
    if environ.get("HF_HUB_OFFLINE") in ("1", "true", "True", "yes", "YES", "ON", "on"):
        text = f"{given} is not in the Hub's cache {cache}, and HF_HUB_OFFLINE is set: it cannot be downloaded"
        return given, 0, [warn(model.name, text, where)]
    text = f"{given}, not in the Hub's cache {cache}: its first load downloads it from the Hub"
    local = f' (a local folder is written "./{given}")'
    if "/" in given and given.split("/")[0] in FOLDERS:
        return given, 0, [warn(model.name, text + local, where)]
    return text + (local if "/" not in given else ""), 0, []


def _home_lines(machine: HostCheck, model: Model) -> Iterator[ReportLine]:
    """Yield lines on variables and arguments with "~", which neither muxd nor a shell expands."""
    for name, value in model.env.items():
        if value == "~" or value.startswith("~/"):
            text = f'{name} is "{value}" to the worker, nothing is expanded; write the path in full'
            yield warn(model.name, text, machine.where(model, "env", name))
    for arg in model.args:
        if arg.startswith("~/") or (arg.startswith("--") and "=~/" in arg):
            text = f'"{arg}" stays as it is for the engine, nothing is expanded; write the path in full'
            yield warn(model.name, text, machine.where(model, "args"))


# Its sizes


def never_fits(model: Model, config: Config, problems: Problems) -> Iterator[ReportLine]:
    """Yield a line if a simulated model does not fit on simulated GPUs."""
    if not kind_of(model).is_pretend:
        return
    yield from _too_few(model, problems.where(("models", model.name, "gpus")))
    total = config.daemon.simulated_gpu_memory
    share = model.memory.total // max(1, model.gpus_each) if model.memory is not None else 0
    rooms = {gpu: config.gpus.most(gpu, total) for gpu in model.gpus}
    if small := [gpu for gpu in _best(model, rooms) if share > rooms[gpu]]:
        where = problems.where(("models", model.name, "memory"))
        yield _too_large(model, small[0], rooms[small[0]], total, where)
    else:
        yield from _crowded_lines(model, rooms, problems.where(("models", model.name, "gpus")))


def _crowded_lines(model: Model, rooms: Mapping[str, int], where: str) -> Iterator[ReportLine]:
    """Yield a line for each GPU that never has room for all of those replicas on it with which the model begins."""
    share = kind_of(model).granted(model)
    at_first = max(model.replicas, model.min_replicas or 0) if model.prefill is None else model.most_replicas
    if model.any_gpus:
        yield from _spread_lines(model, rooms, at_first, where)
        return
    for gpu, count in Counter(model.gpus[: at_first * model.gpus_each]).items():
        room = rooms.get(gpu, inf)
        if count == 1 or (share and count * share <= room):
            continue
        if share:
            text = f"{count} replicas on GPU {gpu} need {_gib(count * share)}, and it has {_gib(int(room))}"
            text = f"{text}: {int(room) // share} of them fit; give each a GPU of its own, or correct memory"
        else:
            text = f"{count} replicas cannot share GPU {gpu}, all of which one may take"
            text = f"{text}; give it sizes in memory, of kv too, or each a GPU of its own"
        yield wrong(model.name, text, where)


def _spread_lines(model: Model, rooms: Mapping[str, int], at_first: int, where: str) -> Iterator[ReportLine]:
    """Yield a line if not all replicas of a model fit that runs on any GPUs: wrong for those with which it begins."""
    share, most = kind_of(model).granted(model), model.most_replicas
    slots = [int(rooms[gpu]) // share if share and gpu in rooms else 1 for gpu in model.gpus]
    fit = how_many_fit(slots, model.any_gpus, most)
    if fit == most or len(model.gpus) < model.any_gpus:
        return
    count = f"{model.any_gpus} GPUs" if model.any_gpus > 1 else "one GPU"
    needs = f"{_gib(share)} of {count}" if share else f"{count} to itself"
    text = f"each replica needs {needs}, and {fit} of them fit on GPU {', '.join(model.gpus)}"
    if fit < at_first:
        remedy = "correct memory" if share else "give it sizes in memory, of kv too"
        yield wrong(model.name, f"{text}, not {at_first}; ask for fewer, or {remedy}", where)
    else:
        yield warn(model.name, f"{text}: max_replicas, {most}, is never reached", where)


def _best(model: Model, rooms: Mapping[str, int]) -> list[str]:
    """Return the GPUs of a model: of those of which any will do the ones with most room."""
    return sorted(model.gpus, key=lambda gpu: -rooms[gpu])[: model.any_gpus] if model.any_gpus else list(model.gpus)


def _too_large(model: Model, gpu: str, room: int, total: int, where: str) -> ReportLine:
    needs = model.memory.total if model.memory is not None else 0
    each = f" on {model.gpus_each} GPUs" if model.gpus_each > 1 else ""
    has = _gib(room) if room == total else f"{_gib(room)} for models by [gpus]"
    text = f"needs {_gib(needs)}{each}, GPU {gpu} has {has}: it can never be loaded"
    return wrong(model.name, f"{text}; give it more gpus, or correct memory", where)


def _size_lines(machine: HostCheck, model: Model, weights: int) -> Iterator[ReportLine]:
    """Yield lines if the model does not fit on the GPUs whose sizes are known, or asleep at level 1 not into RAM."""
    uses_gpus = not runs_on_cpu(model.args)
    missing = [gpu for gpu in model.gpus if gpu not in machine.gpus] if machine.gpus and uses_gpus else []
    if missing:
        there = ", ".join(machine.gpus)
        text = f"GPU {', '.join(missing)} {'are' if len(missing) > 1 else 'is'} not there"
        text = f"{text}: there {'are' if len(machine.gpus) > 1 else 'is'} {there}"
        if machine.has_said(model, "gpus"):
            yield wrong(model.name, f"{text}; correct gpus", machine.where(model, "gpus"))
        elif given := machine.environ_of(model).get(VARIABLE):
            started = f"{VARIABLE}={given}, which muxd was started with"
            yield wrong(model.name, f"{text}, and {started}, names it; correct it, or start muxd without it")
        elif model.script is not None:
            yield wrong(model.name, f"{text}, and its server was seen there", _place_of(model.script))
        return
    if uses_gpus:
        yield from _too_few(model, machine.where(model, "gpus"))
        yield from _gpu_lines(machine, model, weights)
        rooms = {gpu: machine.room(machine.sized_gpus[gpu]) for gpu in model.gpus if gpu in machine.sized_gpus}
        yield from _crowded_lines(model, rooms, machine.where(model, "gpus"))
        if machine.gpus:
            yield from _unsized_lines(machine, model)
        yield from _demand_lines(machine, model)
    ram, own = machine.memory, _ram_asleep(model, weights)
    if ram and own > ram:
        text = f"sleep level 1 takes {_gib(own)} of host RAM, and there are {_gib(ram)}; use sleep_level = 2"
        yield warn(model.name, text, machine.where(model, "sleep_level"))


def _unsized_lines(machine: HostCheck, model: Model) -> Iterator[ReportLine]:
    """Yield a line if the model takes what it finds of a GPU of which [gpus] leaves models a part."""
    parts = [gpu for gpu in model.gpus if machine.room(machine.gpus[gpu]) < machine.gpus[gpu].total]
    if parts and not kind_of(model).granted(model):
        room = _gib(machine.room(machine.gpus[parts[0]]))
        text = f"takes what it finds of GPU {parts[0]}, of which [gpus] leaves models {room}"
        yield warn(model.name, f"{text}; give it sizes in memory, of kv too", machine.where(model, "gpus"))


def _demand_lines(machine: HostCheck, model: Model) -> Iterator[ReportLine]:
    """Yield a line if the model's own flags let its server have more of a GPU than it is granted, or than there is."""
    memory = model.memory
    share = memory.total // max(1, model.gpus_each) if memory is not None and memory.kv else 0
    for gpu in (machine.sized_gpus[id] for id in model.gpus if id in machine.sized_gpus):
        (flag, demanded), room = kind_of(model).demanded(model, gpu.total), machine.room(gpu)
        if demanded > (share or room):
            granted = f"memory grants it {_gib(share)}" if share else f"[gpus] leaves models {_gib(room)}"
            text = f"its {flag} is {_gib(demanded)} of GPU {gpu.id}, and {granted}"
            remedy = "leave the flag out, where memory has sizes" if share else "lower it, or give it sizes in memory"
            yield wrong(model.name, f"{text}; {remedy}", machine.where(model, "args"))
            return


def _level_lines(machine: HostCheck, model: Model) -> Iterator[ReportLine]:
    """Yield a line if the model's sleep level will be of no use."""
    if model.sleep_level == 0 and not kind_of(model).granted(model):
        text = "sleeps at level 0, and without sizes it has its GPU to itself: any other model puts it deeper"
        remedy = "give sizes in memory, of kv too, or use sleep_level = 1 or 2"
        yield warn(model.name, f"{text}; {remedy}", machine.where(model, "sleep_level"))


def pinned_lines(machine: HostCheck) -> Iterator[ReportLine]:
    """Yield a line for each model that pinned ones leave no room for."""
    for model in machine.models:
        pinned = [other for other in machine.models if other.pinned and other is not model]
        for gpu in model.gpus:
            there = [other for other in pinned if gpu in other.gpus]
            sizes = [kind_of(each).granted(each) for each in (model, *there)]
            size = _capacity(machine, model, gpu)
            if there and (0 in sizes or 0 < size < sum(sizes)):
                names = " and ".join(other.name for other in there)
                sums = f"together they need {_gib(sum(sizes))} of {_gib(size)}"
                needs = "one of them has no sizes, and needs the GPU to itself" if 0 in sizes else sums
                text = f"GPU {gpu} has no room for it beside {names}, which leaves for nobody (pinned): {needs}"
                remedy = "remove pinned there, or give one of them other gpus, or sizes in memory that fit"
                yield wrong(model.name, f"{text}; {remedy}", machine.where(there[0], "pinned"))
                break


def _capacity(machine: HostCheck, model: Model, gpu: str) -> int:
    """Return the bytes of a GPU as the model's engine sees it; 0 where nobody can tell."""
    if kind_of(model).is_pretend:
        return machine.config.daemon.simulated_gpu_memory
    return machine.sized_gpus[gpu].total if gpu in machine.sized_gpus else 0


def _gpu_lines(machine: HostCheck, model: Model, weights: int) -> Iterator[ReportLine]:
    share = model.memory.total // max(1, model.gpus_each) if model.memory is not None else 0
    known = {gpu: machine.sized_gpus[gpu] for gpu in model.gpus if gpu in machine.sized_gpus}
    is_known = len(known) == len(model.gpus)
    if not known or (model.any_gpus and not is_known):
        return
    best = _best(model, {gpu: machine.room(each) for gpu, each in known.items()}) if is_known else list(known)
    small = min((known[gpu] for gpu in best), key=machine.room)
    together = sum(machine.room(known[gpu]) for gpu in best)
    if share > machine.room(small):
        yield _too_large(model, small.id, machine.room(small), small.total, machine.where(model, "memory"))
    elif is_known and not share and weights > together and not any(a.startswith("--cpu-offload") for a in model.args):
        have = f"have {_gib(together)} together" if model.gpus_each > 1 else f"has {_gib(together)}"
        where, least = machine.where(model, "gpus"), kind_of(model).certain_need(model, machine.environ_of(model))
        if least > together:
            text = f"its weights alone need {_gib(least)}, {_gpus(model)} {have}: it can never be loaded"
            yield wrong(model.name, f"{text}; give it more gpus, or a smaller model", where)
        else:
            text = f"its weights have {_gib(weights)}, {_gpus(model)} {have}; give it more gpus"
            yield warn(model.name, text, where)


def _ram_asleep(model: Model, weights: int) -> int:
    """Return the bytes of host RAM that the model takes while it sleeps."""
    declared = model.memory.weights if model.memory is not None else 0
    return (declared or weights) if model.sleep_level == 1 else 0


def ram_lines(machine: HostCheck) -> Iterator[ReportLine]:
    """Yield a line if all models that sleep at level 1 together take more host RAM than they may, or than there is."""
    sleepers = [model for model in machine.real_models if model.sleep_level == 1]
    together = sum(model.memory.weights for model in sleepers if model.memory is not None)
    room = machine.config.daemon.host_memory or machine.memory
    if room and len(sleepers) > 1 and together > room:
        names = ", ".join(model.name for model in sleepers)
        text = f"{names} sleep at level 1 and take {_gib(together)} together, and there are {_gib(room)}"
        yield warn("RAM", f"{text}: those that are loaded last will sleep at level 2; use sleep_level = 2 for some")


def _ram_text(machine: HostCheck, model: Model, weights: int) -> str:
    if not (taken := _ram_asleep(model, weights)):
        return f"; level {model.sleep_level}"
    total = f" (of {_gib(machine.memory)})" if machine.memory else ""
    return f"; level 1 takes {'as much' if taken == weights else _gib(taken)} host RAM{total}"


def _gib(size: int) -> str:
    return f"{size / GiB:.1f} GiB" if size >= GiB / 10 else f"{size / (1 << 20):.1f} MiB"


# Its launch script


def _place_of(script: Script) -> str:
    """Return FILE:LINE of the command that starts the server; the script's path if that was not found."""
    return script.launch or script.argv[1]


def _script_summary(model: Model) -> ReportLine:
    """Return the line that says what was read of a model's launch script."""
    assert model.script is not None
    names, program = ", ".join(model.served_names), model.script.program or "a command"
    is_new = not model.script.is_seen
    if is_new and not model.script.said.names:
        names += ", and what its server calls itself once it runs (or write served_names into its table),"
    advice = " (or write port into its table)" if is_new else ""
    port = f"port {model.port}" if model.port else f"a port that is found once it listens{advice}"
    why_all = " until it was seen once" if is_new else ", as nobody can tell which it uses"
    claims = _gpus(model) + ("" if model.script.knows_gpus else why_all)
    read = f"serves {names} on {port}, {claims}, level {model.sleep_level}"
    contradictions = "".join(f"; {contradiction}" for contradiction in model.script.contradictions)
    is_odd = contradictions or (is_new and not (model.port or model.script.said.names))
    return (warn if is_odd else ok)(model.name, f"{_place_of(model.script)}: {program} {read}{contradictions}")


def _script_lines(machine: HostCheck, model: Model, script: Script) -> Iterator[ReportLine]:
    """Yield lines on what will keep a launch script from running, as far as its text shows."""
    text = Text(model, script, machine.environ_of(model))
    yield from (warn(model.name, complaint, where) for complaint, where in text.missing())
    yield from args_lines(machine, model, text.flags() or (), script.launch)
    yield from _program_lines(model, script)
    if script.asks_key and not machine.config.keys:
        text_of_key = "gives its server an --api-key, and it will refuse muxd, too (engine_locked)"
        yield warn(model.name, f"{text_of_key}: take it out, and write [[keys]] for clients", script.asks_key)
    size = 0
    if (served := text.model_path()) is not None:
        try:
            size, found = within(lambda: _folder_of(model, *served))
            yield from found
        except NoAnswer as error:
            yield warn(model.name, f"{served[0]} cannot be looked at: {error}", served[1])
    yield from _size_lines(machine, model, size)


def _folder_of(model: Model, path: str, where: str) -> tuple[int, list[ReportLine]]:
    """Return the bytes of the weights in a script's model folder, and lines on faults."""
    if not os.path.exists(path):
        return 0, [warn(model.name, f"nothing at {path}; correct the script", where)]
    _, size, findings = _local_files(replace(model, model_path=path), where)
    return size, findings


def _program_lines(model: Model, script: Script) -> Iterator[ReportLine]:
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
