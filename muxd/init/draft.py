"""Draft of the configuration: a name and GPUs for every model that was found."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path

from muxd.config.names import as_model_name
from muxd.config.rules import OWN_NAMES
from muxd.core.ledger import in_order
from muxd.gpus import GpuMemory
from muxd.host.model_kinds import ModelKind
from muxd.host.search import FoundModel

GiB = 1 << 30

#: Part of a GPU's memory that weights may take; the rest is for the KV cache, without which nothing can be served.
SHARE = 0.8


@dataclass(frozen=True, slots=True)
class Draft:
    """Draft of one model's table."""

    name: str
    found: FoundModel
    served_names: tuple[str, ...]  # none: `name` alone
    gpus: tuple[str, ...]
    fits: bool  # whether `gpus` hold the weights; True where no GPU is known

    @property
    def weights(self) -> int:
        """Return the size of the weights in GiB, rounded up."""
        return -(-self.found.size // GiB)

    @property
    def args(self) -> tuple[str, ...]:
        """Return the flags of SGLang that the model needs."""
        return ("--is-embedding",) if self.found.kind is ModelKind.EMBEDDING else ()


def drafts(found: Iterable[FoundModel], gpus: Sequence[GpuMemory]) -> list[Draft]:
    """Return one draft for each model; every name and served name is unique over all models."""
    models = _each_once(found)
    names = _Names(models)
    load = {gpu.id: 0 for gpu in gpus}
    made = []
    for model in models:
        chosen, fits = _choose_gpus(model.size, gpus, load)
        load |= {index: load[index] + model.size // len(chosen) for index in chosen if index in load}
        name = names.choose(model)
        made.append(Draft(name, model, names.served(model, name), chosen, fits))
    return made


def _each_once(found: Iterable[FoundModel]) -> list[FoundModel]:
    """Return the models without repetitions: a folder may be named twice, or be in the Hub's cache as well."""
    kept: dict[Path, FoundModel] = {}
    for model in found:
        kept.setdefault(model.folder, model)
    return list(kept.values())


class _Names:
    """The names that are given to models; each means one model only."""

    def __init__(self, models: Sequence[FoundModel]) -> None:
        self._means: dict[str, FoundModel] = {}  # the model that a client means by a label
        for model in models:
            self._means.setdefault(model.label, model)
        self._taken = set(OWN_NAMES)

    def choose(self, model: FoundModel) -> str:
        """Return an unused name for a model, and take it.

        The name is the last part of the model's label, else the last two parts, else the last part with a number.
        """
        wider = as_model_name("-".join(Path(model.label if "/" in model.label else model.model_path).parts[-2:]))
        plain = as_model_name(model.label.rsplit("/", 1)[-1])
        numbered = (f"{plain}-{number}" for number in count(2))
        name = next(name for name in chain((plain, wider), numbered) if self._free(name, model))
        self._taken.add(name)
        return name

    def served(self, model: FoundModel, name: str) -> tuple[str, ...]:
        """Return the served names: the model's label, unless it is the name already or means another model."""
        return (model.label,) if self._means[model.label] is model and model.label != name else ()

    def _free(self, name: str, model: FoundModel) -> bool:
        return name not in self._taken and self._means.get(name, model) is model


def _choose_gpus(size: int, gpus: Sequence[GpuMemory], load: Mapping[str, int]) -> tuple[tuple[str, ...], bool]:
    """Return GPUs for a model of `size` bytes, and whether they hold its weights.

    The GPUs are as few as hold the weights, and among those the ones with the least `load` (bytes of weights by GPU).
    Their number is a power of two: tensor parallelism divides the model's attention heads by it.  Where no number
    suffices, the first GPUs are returned, as many as the largest power of two, and False.
    """
    if not gpus:
        return ("0",), True
    together = 1
    while together <= len(gpus):
        roomy = [gpu.id for gpu in gpus if size <= SHARE * together * gpu.total]
        if len(roomy) >= together:
            return tuple(in_order(sorted(roomy, key=lambda gpu: load[gpu])[:together])), True
        together *= 2
    return tuple(gpu.id for gpu in gpus[: together // 2]), False
