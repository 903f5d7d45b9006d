"""Names of GPUs and their numbers: a GPU's number or UUID, a MIG slice's UUID, and CUDA_VISIBLE_DEVICES."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from muxd.gpus import GpuIdentity

    from .flags import Parallel

VARIABLE = "CUDA_VISIBLE_DEVICES"

#: With PCI_BUS_ID as this variable's value CUDA counts GPUs as NVML does, else from the fastest to the slowest.
ORDER = "CUDA_DEVICE_ORDER"

_NUMBER = re.compile("[0-9]{1,3}")
_NAME = re.compile(r"(GPU|MIG)-[0-9A-Za-z/-]+")
_OLD_SLICE = re.compile(r"MIG-(GPU-[0-9A-Za-z-]+)/[0-9]+/[0-9]+")


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
    """Numbers of GPUs by name, and the GPUs that CUDA_VISIBLE_DEVICES gives muxd itself.

    NVML takes its time, and is asked once, when a GPU is given by name or all GPUs are wanted; with `ask=False` never.
    """

    def __init__(self, environ: Mapping[str, str], *, ask: bool = True) -> None:
        self.said = environ.get(VARIABLE)  # the value that muxd was started with
        self._ask = ask
        self._cards: list[GpuIdentity] | None = None

    def number(self, name: int | str, *, simulated: bool = False) -> int:
        """Return the number of a GPU, for a slice that of its GPU.  Raise ValueError where that is not one GPU."""
        if isinstance(name, int) or _NUMBER.fullmatch(name):
            return int(name)
        old = _OLD_SLICE.fullmatch(name)
        wanted = old[1] if old else name
        found = {card.index for card in self._known(wanted, simulated=simulated) if card.is_meant(wanted)}
        if len(found) == 1:
            return found.pop()
        raise ValueError(f"{name} {'means several of' if found else 'is none of'} the GPUs of this machine")

    def numbers(self, names: Iterable[int | str], *, simulated: bool = False) -> tuple[int, ...]:
        """Return the numbers of several GPUs, each once: slices of one GPU share a number.  Raise ValueError."""
        return tuple(dict.fromkeys(self.number(name, simulated=simulated) for name in names))

    def _known(self, name: str, *, simulated: bool) -> list[GpuIdentity]:
        from muxd.gpus import CannotAsk, installed_cards, simulated_cards  # imported for GPUs given by name only

        if simulated and any(card.is_meant(name) for card in simulated_cards()):
            return simulated_cards()
        if not self._ask:
            raise ValueError(f"{name} is not looked up here")
        try:
            self._cards = self._cards if self._cards is not None else installed_cards()
        except CannotAsk as error:
            raise ValueError(f"{name} cannot be looked up: {error}") from None
        return self._cards

    def every(self) -> tuple[int, ...]:
        """Return the numbers of all GPUs that muxd was given; (0,) where nobody tells of any."""
        from muxd.gpus import CannotAsk, installed_cards

        with suppress(ValueError):
            if self.said is not None and (given := self.numbers(self._muxd_gpus())):
                return given
        try:
            if self._cards is None and self._ask:
                self._cards = installed_cards()
        except CannotAsk:
            return (0,)
        return tuple(card.index for card in self._cards or ()) or (0,)

    def default(self, needs: Parallel) -> tuple[str, ...]:
        """Return the GPUs of a model without `gpus`: as many as it needs of those that muxd was given, from the first.

        Raise ValueError where muxd was given fewer.
        """
        if self.said is None:
            return tuple(str(index) for index in range(needs.seen))
        given = self._muxd_gpus()
        if len(given) < needs.seen:
            what = f"names {len(given)}" if given else "names none"
            raise ValueError(f"it needs {needs}, and {VARIABLE}={self.said}, which muxd was started with, {what}")
        return given[: needs.seen]

    def _muxd_gpus(self) -> tuple[str, ...]:
        try:
            return visible(self.said or "")
        except ValueError as error:
            raise ValueError(f"{VARIABLE}={self.said}, which muxd was started with: {error}") from None

    def outside(self, gpus: Sequence[int], *, simulated: bool = False) -> tuple[int, ...]:
        """Return those of `gpus` that muxd was not given; none where it is not known what muxd was given."""
        if self.said is None:
            return ()
        try:
            given = self.numbers(self._muxd_gpus(), simulated=simulated)
        except ValueError:
            return ()
        return tuple(gpu for gpu in gpus if gpu not in given)


def cuda_names(names: Iterable[int | str]) -> tuple[str, ...]:
    """Return the names to put into CUDA_VISIBLE_DEVICES where numbers do not do: slices have no number.

    Return an empty tuple where no slice is among `names`.
    """
    given = tuple(str(name) for name in names)
    return given if any(name.startswith("MIG-") for name in given) else ()
