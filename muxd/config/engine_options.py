"""Options of the engines: the keys of a model that one kind of server has, and others have not.

They stand in a model's table beside the keys that all models have.  They are declared here, not in the engines'
packages: whoever reads a configuration, as the proxy and muxctl do, must not load an engine.  The proxy is told none.
"""

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from math import inf

from .declarations import KeyDeclaration, key, keys_of
from .half_options import HalfOptions, half_or
from .readers import (
    boolean,
    choice,
    command,
    duration,
    integer,
    labels,
    number,
    prefill_urls,
    provider_urls,
    server_urls,
    text,
    texts,
)
from .server_commands import HookStep, command_line, hook_steps, url_path, url_paths

#: How the address of a Unix socket begins.
UNIX = "unix:"


@dataclass(frozen=True, slots=True)
class Simulation:
    """Behaviour of a simulated worker: its figures are invented, its processes are real."""

    import_time: float = key(
        duration(), "0s", doc="To import its modules, before load_time; a process in standby has done that."
    )
    load_time: float = key(duration(), "1s", doc="From its start until it is ready.")
    sleep_time: float = key(duration(), "100ms", doc="To fall asleep.")
    wake_time: float = key(duration(), "300ms", doc="To wake up.")
    release_lag: float = key(duration(), "0s", doc="How long memory stays taken after it was given up.")
    token_rate: float = key(number(above=0, high=1e6), 100.0, doc="Tokens per second of one request.")
    batch_slots: int = key(
        integer(1, 100_000), 8, doc="How many requests run at once; further ones wait inside the engine."
    )
    pace: float = key(
        number(above=0, high=10),
        0.1,
        doc="How fast it goes through the waits that SGLang has of its own, such as the 5 s until it notices "
        "SIGTERM: 1 is as slow.",
    )
    faults: tuple[str, ...] = key(texts, [], doc="How it misbehaves: names of faults, see muxd/simulator/faults.py.")


@dataclass(frozen=True, slots=True)
class DialectOptions:
    """Options of all engines that muxd probes for progress."""

    hang_timeout: float = key(
        duration(1, endless=True),
        "5min",
        live=True,
        doc="A worker that answers, but has requests and takes no step for this long, counts as unresponsive too.",
    )

    @property
    def usual_level(self) -> int | None:
        """Return the sleep level of a model whose table says none; None: that of all models."""
        return None


@dataclass(frozen=True, slots=True)
class InstalledOptions(DialectOptions):
    """Options of all engines that an interpreter of this machine has."""

    python: str = key(command, "python3", doc="The interpreter that has the engine: a name in $PATH, or a path.")


@dataclass(frozen=True, slots=True)
class SGLangOptions(InstalledOptions):
    """Options of `engine = "sglang"`."""


@dataclass(frozen=True, slots=True)
class VLLMOptions(InstalledOptions):
    """Options of `engine = "vllm"`; for its other flags there is `args`."""

    tensor_parallel_size: int = key(
        integer(1, 1024),
        unset=0,
        example=2,
        doc="vLLM: over how many GPUs each layer is split.  Default: all of the model's, unless args say how they are "
        "used.",
    )
    dtype: str = key(
        choice("auto", "half", "float16", "bfloat16", "float", "float32"),
        unset="",
        example="bfloat16",
        doc="vLLM: the type of weights and activations.  Default: as the model's files have it.",
    )
    max_model_len: int = key(
        integer(1, 1 << 30),
        unset=0,
        example=32768,
        doc="vLLM: the longest text in tokens, prompt and answer together.  Default: the model's own.",
    )
    gpu_memory_utilization: float = key(
        number(above=0, high=1),
        unset=0.0,
        example=0.85,
        doc="vLLM: the share of all of each GPU that the server may have for weights and KV cache.  Leave it out where "
        "memory has kv: muxd tells vLLM its share then.  Default: vLLM's own, 0.92.",
    )

    @property
    def flags(self) -> dict[str, str]:
        """Return vLLM's flags for the options that are said, with their values."""
        said = {name: getattr(self, name) for name in keys_of(self) if name not in keys_of(InstalledOptions)}
        return {f"--{name.replace('_', '-')}": str(value) for name, value in said.items() if value}


@dataclass(frozen=True, slots=True)
class SimulatorOptions(DialectOptions):
    """Options of `engine = "simulator"`."""

    simulation: Simulation = key(Simulation, {}, doc="How a simulated server behaves.")

    @property
    def python(self) -> str:
        """Return the interpreter that has the simulator: muxd's own."""
        return sys.executable


#: Signals that ask a server to end.
STOP_SIGNALS = ("SIGTERM", "SIGINT", "SIGQUIT", "SIGHUP", "SIGUSR1", "SIGUSR2")


@dataclass(frozen=True, slots=True)
class OpenAIOptions:
    """Options of `engine = "openai"`: any server of OpenAI's API, of which muxd knows what stands here."""

    command: tuple[str, ...] = key(
        command_line,
        unset=(),
        example=["llama-server", "--model", "{model_path}", "--port", "{port}"],
        doc="The command that starts the server, as a list of words; no shell is involved.  Placeholders: {port}, "
        "{host}, {model}, {model_path}, {gpus}; {lbrace} is a brace that is none of theirs.",
    )
    ready_path: str = key(url_path, "/health", doc="The server is ready once a GET there is answered with a 2xx.")
    health_path: str = key(
        url_path,
        unset="",
        example="/health",
        live=True,
        doc="It lives as long as a GET there is answered with a 2xx.  Default: ready_path.",
    )
    stop_signal: str = key(choice(*STOP_SIGNALS), "SIGTERM", doc="The signal that asks it to end.")
    stop_command: tuple[str, ...] = key(
        command_line,
        unset=(),
        example=["docker", "rm", "--force", "muxd-{model}"],
        doc="A command that ends it, in place of the signal.  Unless it has {pid}, it is run as well after the server "
        "has crashed or was killed, as a container outlives its client: the server need be no child of the command, "
        "and what is left of the command gets the signal afterwards.  Placeholders as in command, and {pid}.",
    )
    routes: tuple[str, ...] = key(
        url_paths,
        unset=(),
        example=["/v1/chat/completions", "/v1/completions"],
        doc="The routes that it answers; a request for another is refused before anybody gives way.  Default: all "
        "that muxd passes on.",
    )
    sleep: tuple[HookStep, ...] = key(
        hook_steps,
        unset=(),
        example=[{"post": "/sleep", "body": {"level": 1}}],
        doc="Steps that put it to sleep at its sleep_level, 1 or 2 (default: 1): HTTP calls to the server (get, post, "
        "put or delete, with body and headers), and commands, which may have {pid} and {pids} as well.  Each has "
        "call_timeout, and one that fails ends the server.  Without steps the model sleeps at level 3: its process "
        "ends.",
    )
    wake: tuple[HookStep, ...] = key(
        hook_steps,
        unset=(),
        example=[{"command": ["cuda-checkpoint", "--toggle", "--pid", "{pid}"]}],
        doc="Steps that wake it again.",
    )

    @property
    def usual_level(self) -> int | None:
        """Return the sleep level of a model whose table says none, whatever [defaults] says of other engines."""
        return 1 if self.sleep else 3

    @property
    def hang_timeout(self) -> float:
        """Return infinity: whether such a server makes progress is not known."""
        return inf

    @property
    def python(self) -> str:
        """Return the program of the command: there is no interpreter to look for an engine in."""
        return self.command[0] if self.command else ""


@dataclass(frozen=True, slots=True)
class PodDiscovery:
    """How servers are found in a Kubernetes cluster, by sglang-router."""

    selector: dict[str, str] = key(labels, {}, doc="The labels of their pods.")
    prefill_selector: dict[str, str] = key(labels, {}, doc="In place of it: the labels of those that prefill ...")
    decode_selector: dict[str, str] = key(labels, {}, doc="... and of those that decode.")
    namespace: str = key(text, unset="", example="llm", doc="Their namespace.  Default: all that the router may watch.")
    port: int = key(integer(1, 65535), 30000, doc="The port at which each pod answers.")


def _can_be_told(old: tuple[str, ...], new: tuple[str, ...]) -> bool:
    """Say whether a router that runs can be told of a change of `urls`: it needs a bridge for Unix sockets."""
    return bool(old) and bool(new) and (any_unix(old) or not any_unix(new))


def any_unix(urls: Iterable[str]) -> bool:
    """Say whether one of the servers is behind a Unix socket."""
    return any(url.startswith(UNIX) for url in urls)


@dataclass(frozen=True, slots=True)
class RemoteOptions:
    """Options of `engine = "remote"`: servers that run already, here or elsewhere, behind a router of muxd's."""

    urls: tuple[str, ...] = key(
        provider_urls,
        unset=(),
        example=["http://10.0.0.7:30000", "https://gpu2.example:8443", "unix:/run/qwen.sock"],
        live=_can_be_told,
        doc="The servers of the model: of SGLang, vLLM or llama.cpp, or another host's muxd.  A reload adds "
        "and removes them while the others serve on; only the first Unix socket among them takes a new router.",
    )
    prefill: tuple[str, ...] | HalfOptions = key(
        half_or(prefill_urls),
        unset=(),
        example=["http://10.0.0.7:30000 8998"],
        doc="In place of urls: the servers that prefill, each with its bootstrap port, where it has one, ...  SGLang "
        "has workers of muxd's for it: { replicas = 1, policy = 'cache_aware', args = [] }, on the first of gpus.",
    )
    decode: tuple[str, ...] | HalfOptions = key(
        half_or(server_urls),
        unset=(),
        example=["http://10.0.0.8:30000"],
        doc="... and those that decode; SGLang's likewise, on the GPUs behind those.",
    )
    discovery: PodDiscovery | None = key(
        PodDiscovery,
        unset=None,
        example={"selector": {"app": "qwen"}, "namespace": "llm", "port": 30000},
        doc="In place of urls: pods of a Kubernetes cluster, found by their labels as they come and go.",
    )
    api_key_env: str = key(
        text,
        unset="",
        example="QWEN_API_KEY",
        doc="The environment variable of muxd that holds the key which the servers ask for.",
    )
    external: bool = key(
        boolean,
        False,
        doc="The servers of urls have OpenAI's routes alone, as other providers' do, and no /health: that they live is "
        "seen by /v1/models, every 10 s.  An address may have a path then, which stands before /v1.",
    )

    @property
    def usual_level(self) -> int | None:
        """Return the sleep level of a model whose table says none: there is no process that could sleep."""
        return 3

    @property
    def hang_timeout(self) -> float:
        """Return infinity: whether such a server makes progress is not known."""
        return inf

    @property
    def python(self) -> str:
        """Return muxd's own interpreter: the model's servers need none here."""
        return sys.executable


EngineOptions = SGLangOptions | VLLMOptions | OpenAIOptions | RemoteOptions | SimulatorOptions

#: The engines that a model may name, and the options of each.
ENGINE_OPTIONS: dict[str, type[EngineOptions]] = {
    "sglang": SGLangOptions,
    "vllm": VLLMOptions,
    "openai": OpenAIOptions,
    "remote": RemoteOptions,
    "simulator": SimulatorOptions,
}

DEFAULT_ENGINE = "sglang"

#: The keys of all engines together.
OPTION_KEYS: dict[str, KeyDeclaration] = {
    name: declared for options in ENGINE_OPTIONS.values() for name, declared in keys_of(options).items()
}


def has_own_command(engine: str) -> bool:
    """Say whether a user writes the command line of an engine's servers, to which muxd adds no flag."""
    return engine in ENGINE_OPTIONS and "command" in keys_of(ENGINE_OPTIONS[engine])


def engines_with(option: str) -> str:
    """Return the engines that have an option, as a message says them: engine = "simulator"."""
    having = [f'"{engine}"' for engine, options in ENGINE_OPTIONS.items() if option in keys_of(options)]
    return f"engine = {' or '.join(having)}"
