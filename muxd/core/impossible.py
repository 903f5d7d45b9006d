"""Why a host can never load a model as it is configured: its GPUs are not there, or too small for it."""

from typing import NamedTuple

from .group import Group
from .host_books import HostBooks
from .ledger import GIB, WHOLE, how_many_fit, in_order
from .spec import WorkerSpec


class Impossible(NamedTuple):
    """What keeps a model from ever being loaded: an error's code, what is wrong, what to do."""

    code: str
    reason: str
    remedy: str

    def __str__(self) -> str:
        """Return a phrase to follow the model's name."""
        return f"can never be loaded: {self.reason}; {self.remedy}"


def why_never(host: HostBooks, group: Group) -> Impossible | None:
    """Return why the host can never load the group as it is configured; None where it can, or nobody knows."""
    each = (_gpu_missing(host, w.spec) or _too_small(host, w.spec, group.name) for w in group.enlisted)
    return next((impossible for impossible in each if impossible is not None), None) or _crowded(host, group)


def _gpu_missing(host: HostBooks, spec: WorkerSpec) -> Impossible | None:
    if spec.any_of:
        found = host.there(spec)
        if len(found) >= spec.any_of:
            return None
        reason = f"it needs {spec.any_of} GPUs, and there {'is' if len(found) == 1 else 'are'} "
        return Impossible("gpu_missing", reason + (", ".join(in_order(found)) or "none"), "correct its `gpus`")
    missing = in_order(spec.gpus - host.there(spec))
    if not missing:
        return None
    there = f"there {'are' if len(host.gpus_there) > 1 else 'is'} {', '.join(in_order(host.gpus_there))}"
    gpus = f"GPU {', '.join(missing)} {'are' if len(missing) > 1 else 'is'} not there"
    return Impossible("gpu_missing", f"{gpus}: {there}", "correct its `gpus`")


def _too_small(host: HostBooks, spec: WorkerSpec, group: str) -> Impossible | None:
    """Return why the worker is too large for its GPUs: by what is declared, else by its weights."""
    largest = sorted(in_order(spec.gpus), key=lambda gpu: -host.sizes.get(gpu, 0)) if spec.any_of else spec.gpus
    sizes = {gpu: host.sizes[gpu] for gpu in in_order([*largest][: spec.gpu_count]) if gpu in host.sizes}
    if spec.memory:
        share = spec.memory // spec.gpu_count
        reason, remedy = f"it needs {share / GIB:.1f} GiB on each of its GPUs", "or correct its `memory`"
        small = {gpu: size for gpu, size in sizes.items() if share > size}
    else:
        weights = host.weights.get(group, 0)
        reason, remedy = f"its weights alone need {weights / GIB:.1f} GiB", "or a smaller model"
        small = sizes if len(sizes) == spec.gpu_count and weights > sum(sizes.values()) else {}
    if not small:
        return None
    has = ", ".join(f"GPU {gpu} has {size / GIB:.1f} GiB in all" for gpu, size in small.items())
    return Impossible("model_too_large", f"{reason}, and {has}", f"give it more GPUs, {remedy}")


def _crowded(host: HostBooks, group: Group) -> Impossible | None:
    """Return why members of a group, each small enough, can never be on one GPU, or on all of them, together."""
    if len(group.serving) > 1 and (spec := group.serving[0].spec).any_of:
        return _too_many(host, spec, len(group.enlisted))
    for gpu in in_order(group.gpus):
        shares = [worker.share for worker in group.enlisted if gpu in worker.gpus]
        capacity = host.sizes.get(gpu)
        if len(shares) < 2 or (capacity is not None and WHOLE not in shares and sum(shares) <= capacity):
            continue
        if capacity is None or WHOLE in shares:
            reason = f"{len(shares)} workers cannot share GPU {gpu}, all of which one may take"
        else:
            need = f"{len(shares)} workers on GPU {gpu} need {sum(shares) / GIB:.1f} GiB"
            fit = f"{capacity // max(shares)} of them fit"
            reason = f"{need}, and GPU {gpu} has {capacity / GIB:.1f} GiB in all: {fit}"
        return Impossible("model_too_large", reason, "give each a GPU of its own")
    return None


def _too_many(host: HostBooks, spec: WorkerSpec, count: int) -> Impossible | None:
    """Return why so many replicas, to each of which any GPUs will do, are never there together."""
    gpus = in_order(host.there(spec))
    slots = [1 if spec.share == WHOLE else host.sizes.get(gpu, spec.share) // spec.share for gpu in gpus]
    fit = how_many_fit(slots, spec.any_of, count)
    if fit >= count:
        return None
    each = "all" if spec.share == WHOLE else f"{spec.share / GIB:.1f} GiB"
    what = f"each needs {each} of {spec.any_of} GPU{'s' if spec.any_of > 1 else ''}"
    reason = f"{what}, and {fit} of {count} fit on GPU {', '.join(gpus)}"
    return Impossible("model_too_large", reason, "ask for fewer replicas, or give it more GPUs")
