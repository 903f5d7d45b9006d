"""Checks of a model's keys for vLLM: what its command line would refuse, or muxd sets itself."""

import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import suppress
from itertools import chain

from muxd.config.engine_options import VLLMOptions
from muxd.config.findings import SHELL_VARIABLE, Finding
from muxd.config.flags import flag_of, owned_flag, parallel
from muxd.config.model_schema import Model
from muxd.config.units import show_size, shown
from muxd.engines.kind import no_interpreter

from .installation import GPU_SHARE, KV_CACHE_BYTES, kv_cache_bytes_in, why_no_share

# Flags that muxd itself sets for vLLM, each with what the user does instead.
OWNED_FLAGS = {
    "--host": "leave it out: workers listen on loopback only",
    "--port": "use the key port",
    "--uds": "leave it out: the proxy asks workers on loopback, and their control routes take muxd's key",
    "--model": "use the key model_path",
    "--served-model-name": "use the key served_names",
    "--config": "leave it out: put its settings into args",
    "--api-key": "leave it out: clients show keys to the proxy, see [[keys]], and it has none to show to the worker",
    "--enable-sleep-mode": "use the key sleep_level",
    "--no-enable-sleep-mode": "use the key sleep_level",
    "--shutdown-timeout": "leave it out: muxd lets requests finish before it ends a server",
    "--middleware": "leave it out: muxd puts its own there, which guards the control routes",
}

#: Flags of a server that muxd cannot drive, each with why.
UNUSABLE_FLAGS = {
    "--headless": "it answers nobody on HTTP",
    "--grpc": "muxd asks servers on HTTP",
    "--ssl-keyfile": "muxd speaks plain HTTP to servers, which listen on loopback only",
    "--ssl-certfile": "muxd speaks plain HTTP to servers, which listen on loopback only",
}

#: Variables that muxd sets itself, each with why.
_OWNED_ENV = {
    "VLLM_SERVER_DEV_MODE": "without it there are no routes for sleep and wake, and muxd keeps them to itself",
}

#: vLLM's names of its flags for the ways to use several GPUs, and of those by which some of them are elsewhere.
TENSOR = ("--tensor-parallel-size", "-tp")
PIPELINE = ("--pipeline-parallel-size", "-pp")
DATA = ("--data-parallel-size", "-dp")
ELSEWHERE = ("--nnodes", "-n", "--distributed-executor-backend", "--data-parallel-size-local", "-dpl")

#: vLLM's names of the flags that are keys of muxd's, where there are several.
_SAME = {names[0]: names for names in (TENSOR, GPU_SHARE)}

#: The variable by which a vLLM without --api-key asks for a key: it would refuse the proxy.
API_KEY = "VLLM_API_KEY"


def findings(model: Model, environ: Mapping[str, str] | None) -> Iterator[Finding]:
    """Yield what is wrong with a model that vLLM runs; see `EngineKind.findings`."""
    for arg in model.args:
        flag = re.split(r"[=\s.]", arg, maxsplit=1)[0]  # --FLAG.KEY is a part of a value of --FLAG
        if owned := owned_flag(flag, OWNED_FLAGS):
            named = f" {owned}" if owned != flag else ""
            yield ("args",), f"{flag} is muxd's own{named}; {OWNED_FLAGS[owned]}"
        elif unusable := owned_flag(flag, UNUSABLE_FLAGS):
            yield ("args",), f"{flag}: {UNUSABLE_FLAGS[unusable]}; leave it out"
        elif re.match(r"--?[A-Za-z][\w.-]*\s", arg):
            apart = ", ".join(map(shown, arg.split()))
            yield ("args",), f"{shown(arg)} is one word to the engine, which knows no such flag; write {apart}"
        elif arg[:1] not in "{[" and (wanted := SHELL_VARIABLE.search(arg)):
            yield ("args",), f"{wanted[0]} would be taken literally, nothing is expanded; write the value"
    if API_KEY in model.env:
        yield ("env", API_KEY), f"muxd keeps it from the worker; {OWNED_FLAGS['--api-key']}"
    for variable in model.env.keys() & _OWNED_ENV.keys():
        yield ("env", variable), f"muxd sets it: {_OWNED_ENV[variable]}; leave it out"
    if why := why_no_share(model.args):
        yield ("args",), why
    granted = model.memory.kv // max(1, model.gpus_each) if model.memory is not None else 0
    if 0 < granted < (wanted_kv := kv_cache_bytes_in(model.args)):
        text = f"{KV_CACHE_BYTES} is {show_size(wanted_kv)}, and memory grants its KV cache {show_size(granted)}"
        yield ("args",), f"{text} of each GPU; leave the flag out, or correct kv in memory"
    if isinstance(model.engine_options, VLLMOptions):
        for flag in model.engine_options.flags:
            if flag_of(model.args)(_SAME.get(flag, (flag,))) is not None:
                name = flag.removeprefix("--").replace("-", "_")
                yield ("args",), f"{flag} is said by the key {name} already; leave one of them out"
        yield from _too_few_gpus(model, model.engine_options)
    if (first := "".join(model.args[:1])) and first[0] != "-":
        yield ("args",), f'{shown(first)} belongs to no flag; vLLM\'s flags begin with "--"'
    if not model.model_path:
        yield ("model_path",), "missing; give a local directory or a Hub id such as Qwen/Qwen3-14B"
    options = model.engine_options
    if environ is None or not isinstance(options, VLLMOptions):
        return
    if not shutil.which(options.python, path=model.env.get("PATH", environ.get("PATH"))):
        yield ("python",), no_interpreter(options.python, "vLLM", "vllm")


def _too_few_gpus(model: Model, options: VLLMOptions) -> Iterator[Finding]:
    """Yield a finding where the server needs more GPUs than the model has, all of them on this host."""
    said = flag_of((*chain.from_iterable(options.flags.items()), *model.args))
    if any(said((name,)) is not None for name in ELSEWHERE):
        return
    with suppress(ValueError):  # vLLM itself refuses numbers that are invalid
        needs, count = parallel(said), max(1, model.gpus_each)
        if model.gpus and needs.count > count:
            key = "tensor_parallel_size" if options.tensor_parallel_size else "args"
            names = f"gpus names {count}" + f" for each of {model.most_replicas} replicas" * (model.most_replicas > 1)
            yield (key,), f"the server needs {needs}, and {names}; name as many there, or correct {key}"
