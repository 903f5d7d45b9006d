"""What goes into the configuration: a name for every model that was found, and its GPUs."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path

from muxd.config.rules import OWN_NAMES
from muxd.gpus import GpuMemory
from muxd.host.model_kinds import ModelKind
from muxd.host.search import FoundModel

GiB = 1 << 30

#: The part of a GPU that weights may take: the rest is for the KV cache, without which nothing can be served.
SHARE = 0.8

LONGEST_NAME = 100


@dataclass(frozen=True, slots=True)
class Draft:
    """One model's table."""

    name: str
    found: FoundModel
    served_names: tuple[str, ...]  # none: the name is enough
    gpus: tuple[int, ...]
    fits: bool  # its weights, on these GPUs; True where nothing is known of them

    @property
    def weights(self) -> int:
        """GiB, rounded up."""
        return -(-self.found.size // GiB)

    @property
    def args(self) -> tuple[str, ...]:
        return ("--is-embedding",) if self.found.kind is ModelKind.EMBEDDING else ()


def drafts(found: Iterable[FoundModel], gpus: Sequence[GpuMemory]) -> list[Draft]:
    """One for each; names are unique, and so is everything that clients may say."""
    models = _each_once(found)
    names = _Names(models)
    load = {gpu.index: 0 for gpu in gpus}
    made = []
    for model in models:
        chosen, fits = _place(model.size, gpus, load)
        load |= {index: load[index] + model.size // len(chosen) for index in chosen if index in load}
        name = names.choose(model)
        made.append(Draft(name, model, names.served(model, name), chosen, fits))
    return made


def _each_once(found: Iterable[FoundModel]) -> list[FoundModel]:
    """A folder may have been named twice, or be in the cache as well; the first is kept."""
    kept: dict[Path, FoundModel] = {}
    for model in found:
        kept.setdefault(model.folder, model)
    return list(kept.values())


class _Names:
    def __init__(self, models: Sequence[FoundModel]) -> None:
        self._means: dict[str, FoundModel] = {}  # what clients may say -> the model
        for model in models:
            self._means.setdefault(model.label, model)
        self._taken = set(OWN_NAMES)

    def choose(self, model: FoundModel) -> str:
        """From its own name; where that is taken, from more of where it is; else with a number."""
        wider = _legal("-".join(Path(model.label if "/" in model.label else model.model_path).parts[-2:]))
        plain = _legal(model.label.rsplit("/", 1)[-1])
        numbered = (f"{plain}-{number}" for number in count(2))
        name = next(name for name in chain((plain, wider), numbered) if self._free(name, model))
        self._taken.add(name)
        return name

    def served(self, model: FoundModel, name: str) -> tuple[str, ...]:
        return (model.label,) if self._means[model.label] is model and model.label != name else ()

    def _free(self, name: str, model: FoundModel) -> bool:
        return name not in self._taken and self._means.get(name, model) is model


def _legal(text: str) -> str:
    """What `MODEL_NAME` allows; short enough for the names of log files."""
    name = re.sub(r"[^a-z0-9._-]+", "-", text.lower())[:LONGEST_NAME]
    return re.sub(r"^[._-]+|[._-]+$", "", name) or "model"


def _place(size: int, gpus: Sequence[GpuMemory], load: Mapping[int, int]) -> tuple[tuple[int, ...], bool]:
    """As few GPUs as hold the weights, of these the ones that have least to do; and whether they do hold them.

    Their number is a power of two: tensor parallelism divides the model's attention heads by it.
    """
    if not gpus:
        return (0,), True
    together = 1
    while together <= len(gpus):
        roomy = [gpu.index for gpu in gpus if size <= SHARE * together * gpu.total]
        if len(roomy) >= together:
            return tuple(sorted(sorted(roomy, key=lambda index: load[index])[:together])), True
        together *= 2
    return tuple(gpu.index for gpu in gpus[: together // 2]), False
