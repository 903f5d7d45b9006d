"""Options of the engines: the keys of a model that one kind of server has, and others have not.

They stand in a model's table beside the keys that all models have.  They are declared here, not in the engines'
packages: whoever reads a configuration, as the proxy and muxctl do, must not load an engine.  The proxy is told none.
"""

import sys
from dataclasses import dataclass

from .declarations import KeyDeclaration, key, keys_of
from .readers import command, duration, integer, number, texts


@dataclass(frozen=True, slots=True)
class Simulation:
    """Behaviour of a simulated worker: its figures are invented, its processes are real."""

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


@dataclass(frozen=True, slots=True)
class InstalledOptions(DialectOptions):
    """Options of all engines that an interpreter of this machine has."""

    python: str = key(command, "python3", doc="The interpreter that has the engine: a name in $PATH, or a path.")


@dataclass(frozen=True, slots=True)
class SGLangOptions(InstalledOptions):
    """Options of `engine = "sglang"`."""


@dataclass(frozen=True, slots=True)
class VLLMOptions(InstalledOptions):
    """Options of `engine = "vllm"`."""


@dataclass(frozen=True, slots=True)
class SimulatorOptions(DialectOptions):
    """Options of `engine = "simulator"`."""

    simulation: Simulation = key(Simulation, {}, doc="How a simulated server behaves.")

    @property
    def python(self) -> str:
        """Return the interpreter that has the simulator: muxd's own."""
        return sys.executable


EngineOptions = SGLangOptions | VLLMOptions | SimulatorOptions

#: The engines that a model may name, and the options of each.
ENGINE_OPTIONS: dict[str, type[EngineOptions]] = {
    "sglang": SGLangOptions,
    "vllm": VLLMOptions,
    "simulator": SimulatorOptions,
}

DEFAULT_ENGINE = "sglang"

#: The keys of all engines together.
OPTION_KEYS: dict[str, KeyDeclaration] = {
    name: declared for options in ENGINE_OPTIONS.values() for name, declared in keys_of(options).items()
}


def engines_with(option: str) -> str:
    """Return the engines that have an option, as a message says them: engine = "simulator"."""
    having = [f'"{engine}"' for engine, options in ENGINE_OPTIONS.items() if option in keys_of(options)]
    return f"engine = {' or '.join(having)}"
