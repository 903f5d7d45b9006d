"""Names of GPUs and their ids: a card's index or UUID, a MIG slice's UUID, and CUDA_VISIBLE_DEVICES.

An id is the index of a card as NVML counts, or the whole UUID of a slice: whatever names a GPU, it has one id.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from muxd.gpus import CannotAsk, GpuIdentity

    from .flags import Parallel

VARIABLE = "CUDA_VISIBLE_DEVICES"

#: With PCI_BUS_ID as this variable's value CUDA counts GPUs as NVML does, else from the fastest to the slowest.
ORDER = "CUDA_DEVICE_ORDER"

_NUMBER = re.compile("[0-9]{1,3}")
_NAME = re.compile(r"(GPU|MIG)-[0-9A-Za-z/-]+")


def is_name(text: str) -> bool:
    """Say whether `text` has the form of NVML's UUID of a GPU or of a MIG slice."""
    return _NAME.fullmatch(text) is not None


def visible(text: str) -> tuple[str, ...]:
    """Return the GPUs that a value of CUDA_VISIBLE_DEVICES names, each once.

    CUDA ignores everything from the first invalid index on ("", "-1", "none").  Raise ValueError for any other word
    that names no GPU.
    """
    names: list[str] = []
    for part in text.split(","):
        name = part.strip()
        if name in ("", "NoDevFiles", "none", "void") or re.fullmatch("-[0-9]+", name):
            break
        if not (_NUMBER.fullmatch(name) or is_name(name)):
            raise ValueError(f'"{name}" names no GPU')
        names.append(str(int(name)) if _NUMBER.fullmatch(name) else name)
    return tuple(dict.fromkeys(names))


class Devices:
    """Ids of GPUs by name, and the GPUs that CUDA_VISIBLE_DEVICES gives muxd itself.

    NVML takes its time, and is asked once, when a GPU is given by UUID or all GPUs are wanted; with `ask=False` never.
    """

    def __init__(self, environ: Mapping[str, str], *, ask: bool = True) -> None:
        self.said = environ.get(VARIABLE)  # the value that muxd was started with
        self.declared: tuple[
            str, ...
        ] = ()  # those that `[gpus]` gives by number: where nobody tells of any, these hold
        self._ask = ask
        self._installed: list[GpuIdentity] | CannotAsk | None = None  # None: not asked yet

    def id(self, name: str, *, simulated: bool = False) -> str:
        """Return the id of the GPU that `name` means.  Raise ValueError where that is not one GPU."""
        if _NUMBER.fullmatch(name):
            return str(int(name))
        found = [gpu for gpu in self._known(name, simulated=simulated) if gpu.is_meant(name)]
        if len(found) != 1:
            raise ValueError(f"{name} {'means several of' if found else 'is none of'} the GPUs of this machine")
        if found[0].slices:
            raise ValueError(f"{name} is divided into MIG slices; name one of {', '.join(found[0].slices)}")
        return found[0].id

    def ids(self, names: Iterable[str], *, simulated: bool = False) -> tuple[str, ...]:
        """Return the ids of several GPUs, each once.  Raise ValueError."""
        return tuple(dict.fromkeys(self.id(name, simulated=simulated) for name in names))

    def distinct_ids(self, names: Sequence[str], *, simulated: bool = False) -> tuple[str, ...]:
        """Return the ids of several GPUs.  Raise ValueError, also where two names mean the same GPU."""
        name_of: dict[str, str] = {}
        for name in names:
            id = self.id(name, simulated=simulated)
            if name_of.get(id) == name:
                raise ValueError(f"{name} is there twice; name each once")
            if id in name_of:
                raise ValueError(f"{name_of[id]} and {name} are the same GPU; name it once")
            name_of[id] = name
        return tuple(name_of)

    def _known(self, name: str, *, simulated: bool) -> list[GpuIdentity]:
        from muxd.gpus import CannotAsk, simulated_gpus  # imported for GPUs given by UUID only

        if simulated and any(gpu.is_meant(name) for gpu in simulated_gpus()):
            return simulated_gpus()
        if not self._ask:
            raise ValueError(f"{name} is not looked up here")
        try:
            return self._identities()
        except CannotAsk as error:
            raise ValueError(f"{name} cannot be looked up: {error}") from None

    def _identities(self) -> list[GpuIdentity]:
        """Return the GPUs that NVML tells of.  Raise CannotAsk."""
        from muxd.gpus import CannotAsk
        from muxd.nvml import installed_gpus

        if self._installed is None:
            try:
                self._installed = installed_gpus()
            except CannotAsk as error:
                self._installed = error
        if isinstance(self._installed, CannotAsk):
            raise self._installed
        return self._installed

    def every(self) -> tuple[str, ...]:
        """Return the ids of all GPUs that muxd was given; ("0",) where nobody tells of any."""
        return self.given() or self.there() or self.declared or ("0",)

    def given(self) -> tuple[str, ...]:
        """Return the ids of the GPUs that CUDA_VISIBLE_DEVICES gives muxd; none where it says nothing that is known."""
        with suppress(ValueError):
            return self.ids(self._muxd_gpus()) if self.said is not None else ()
        return ()

    def there(self) -> tuple[str, ...]:
        """Return the ids of all GPUs of this machine; none where nobody tells of any."""
        from muxd.gpus import CannotAsk

        with suppress(CannotAsk):
            return tuple(gpu.id for gpu in self._identities() if not gpu.slices) if self._ask else ()
        return ()

    def missing(self, gpus: Iterable[str]) -> str:
        """Return which of these GPUs are not there, as "GPU 4 is not there: there are 0, 1"; "" where none is known."""
        there = self.there()
        absent = [gpu for gpu in gpus if there and gpu not in there]
        text = f"GPU {', '.join(absent)}, which {'are' if len(absent) > 1 else 'is'} not there"
        return f"{text}: there {'are' if len(there) > 1 else 'is'} {', '.join(there)}" if absent else ""

    def any_of(self, count: int, pretend: int) -> tuple[str, ...]:
        """Return the ids of the GPUs of which any will do: all that muxd was given, of `pretend` ones if any.

        Where nobody tells which there are, these are the declared ones, or the first `count`.
        """
        with suppress(ValueError):
            if self.said is not None and (given := self.ids(self._muxd_gpus(), simulated=pretend > 0)):
                return given
        return tuple(map(str, range(pretend))) or self.there() or self.declared or tuple(map(str, range(count)))

    def default(self, needs: Parallel, replicas: int = 1) -> tuple[str, ...]:
        """Return the GPUs of a model without `gpus`: as many as it needs of those that muxd was given, from the first.

        `needs`: of each of its replicas.  Raise ValueError where muxd was given fewer.
        """
        count = needs.seen * replicas
        if self.said is None:
            return tuple(str(index) for index in range(count))
        given = self._muxd_gpus()
        if len(given) < count:
            what = f"names {len(given)}" if given else "names none"
            wanted = f"{needs}" + f" for each of {replicas} replicas" * (replicas > 1)
            raise ValueError(f"it needs {wanted}, and {VARIABLE}={self.said}, which muxd was started with, {what}")
        return given[:count]

    def _muxd_gpus(self) -> tuple[str, ...]:
        try:
            return visible(self.said or "")
        except ValueError as error:
            raise ValueError(f"{VARIABLE}={self.said}, which muxd was started with: {error}") from None

    def outside(self, gpus: Sequence[str], *, simulated: bool = False) -> tuple[str, ...]:
        """Return those of `gpus` that muxd was not given; none where it is not known what muxd was given."""
        if self.said is None:
            return ()
        try:
            given = self.ids(self._muxd_gpus(), simulated=simulated)
        except ValueError:
            return ()
        return tuple(gpu for gpu in gpus if gpu not in given)
