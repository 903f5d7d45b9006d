"""An engine as the registry has it: what concerns those who start none of its servers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from msgspec import Struct, field

from muxd.config.findings import Finding
from muxd.config.flags import flag_of
from muxd.config.model_schema import Model
from muxd.config.schema import Config, Daemon
from muxd.core.ledger import GpuId
from muxd.errors import EngineMissing

from .capabilities import Capabilities

if TYPE_CHECKING:
    from muxd.gpus import GpuMemory, Gpus

    from .engine import Engine
    from .engine_packages import EnginePackage, Interpreter


class PretendGpus(Struct, frozen=True):
    """The pretend GPUs of an engine whose servers take no memory of this machine's."""

    open: Callable[[Config], Gpus]  # returns the source of readings for muxd
    read: Callable[[Config, Iterable[GpuId]], list[GpuMemory]]  # returns one reading, where no muxd runs


class NotInstalled(Exception):
    """An interpreter does not have an engine (`is_missing`), or cannot be asked; the text says why."""

    def __init__(self, text: str, *, is_missing: bool = False) -> None:
        super().__init__(text)
        self.is_missing = is_missing


def no_interpreter(python: str, title: str, package: str) -> str:
    """Return what is wrong with an interpreter that cannot be found, and what to do."""
    text = f"{python} is not an executable that can be found ({EngineMissing.code})"
    made = f"make one: python3 -m venv DIR && DIR/bin/python -m pip install {package}"
    return f"{text}; name the python of an environment that has {title}, or {made}"


class ArgFault(NamedTuple):
    """A fault of a server's flags; the text says what is wrong, and what to do."""

    words: frozenset[str]  # those that it consists of, each without the value behind "="; a flag by all of its names
    text: str


class InstallationChecks(Struct, frozen=True):
    """What `muxd check` asks of the interpreter that is to run an engine's servers.  The environment is a worker's."""

    package: EnginePackage  # what to look for there
    odd: Callable[[Sequence[str], bool], Iterator[ArgFault]]  # yields flags that are likely a mistake; True: a script's
    paths_read: Callable[[Sequence[str]], Iterator[tuple[str, str]]]  # yields flag and absolute path of what is read
    flags: Callable[[Model], Sequence[str]]  # returns the flags with which muxd would launch a model
    # Yields what this version of the engine cannot do for a model, each by its path within the model's table.
    unfit: Callable[[Model, Interpreter], Iterator[Finding]] = lambda model, interpreter: iter(())

    def remedy(self, python: str) -> str:
        """Return what to do about an interpreter that does not have the engine."""
        install = f"{python} -m pip install {self.package.name}"
        return f"name the python of an environment that has {self.package.title}, or install it there: {install}"


class EngineKind(Struct, frozen=True):
    """One engine.  Its functions read a model's keys and flags, and ask nobody."""

    name: str  # in the configuration: `engine = "NAME"`
    capabilities: Capabilities
    make: Callable[[], Engine]  # returns a new engine object, for one worker
    makes: Callable[[Model], str]  # returns what the model makes, a key of `capabilities.routes`; "": not known
    context_length: Callable[[Model], int | None]  # returns the longest text in tokens; None: not known
    takes_adapters: Callable[[Model], bool]  # returns whether the model takes LoRA adapters, or may, where not known
    # Yields what is wrong with a model's keys, each by its path within the model's table.  The mapping is muxd's
    # environment; None: this may be another host than the model's, and no program is looked for.
    findings: Callable[[Model, Mapping[str, str] | None], Iterator[Finding]]

    # Returns the bytes that a model certainly needs on all its GPUs together, by its files; 0 where nothing is certain.
    # The mapping is the environment of the model's worker.  It takes as long as the disk takes.
    certain_need: Callable[[Model, Mapping[str, str]], int]
    # Returns the only routes of `capabilities` that the model answers; None: it answers all of them.
    routes: Callable[[Model], frozenset[str] | None] = lambda model: None
    can_sleep: Callable[[Model], bool] = lambda model: True  # returns whether its process can do more than end
    has_hub_layout: bool = True  # model_path is an id of the Hub, or a folder as the Hub has them
    # Returns the flag by which a model's own args let its server have a share of each GPU, and what that is of a GPU
    # with so many bytes; 0: they do not say.
    demanded: Callable[[Model, int], tuple[str, int]] = lambda model, total: ("", 0)
    # The variables by which its servers are told where to keep what they compile, and the folder of each.
    caches: Mapping[str, str] = field(default_factory=dict)
    own_args: Callable[[Model], Sequence[str]] = lambda model: model.args  # returns the flags that the user's keys say
    installation: InstallationChecks | None = None  # None: it is always there
    # Returns what keeps servers that run elsewhere from serving now, "" for nothing, by model; each model with its
    # environment.  None: its servers run here.
    why_not_served: Callable[[Sequence[tuple[Model, Mapping[str, str]]], Daemon], dict[str, str]] | None = None
    pretend_gpus: PretendGpus | None = None  # None: its servers take memory of this machine's GPUs

    @property
    def is_pretend(self) -> bool:
        """Return whether its servers take pretend memory instead of this machine's."""
        return self.pretend_gpus is not None

    def levels(self, model: Model) -> frozenset[int]:
        """Return the levels at which a server that is launched for `model` can sleep; 3, its end, is among them."""
        if not self.can_sleep(model):
            return frozenset({3})
        return self.capabilities.sleep_levels.get(model.sleep_level, frozenset({3}))

    def granted(self, model: Model) -> int:
        """Return the bytes of each of its GPUs that the model is granted, and held to; 0: it takes what it finds.

        A server sizes its KV cache by what is free, unless it is told a size: muxd tells it, where `memory` has one for
        `kv`, and `args` say none.
        """
        memory, flags = model.memory, self.capabilities.memory_flags
        if memory is None or memory.kv == 0 or model.script is not None:
            return 0
        if not flags or flag_of(self.own_args(model))(flags) is not None:
            return 0
        return memory.total // max(1, model.gpus_each)
