"""Which GPU is meant: by its number, its UUID, a MIG slice's UUID, or by what CUDA_VISIBLE_DEVICES leaves visible."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from muxd.gpus import GpuIdentity

    from .flags import Parallel

VARIABLE = "CUDA_VISIBLE_DEVICES"

#: With the value PCI_BUS_ID, CUDA counts GPUs as NVML does, and else the fastest first.
ORDER = "CUDA_DEVICE_ORDER"

_NUMBER = re.compile("[0-9]{1,3}")
_NAME = re.compile(r"(GPU|MIG)-[0-9A-Za-z/-]+")
_OLD_SLICE = re.compile(r"MIG-(GPU-[0-9A-Za-z-]+)/[0-9]+/[0-9]+")


def is_name(text: str) -> bool:
    """What NVML calls a GPU or a slice of one."""
    return _NAME.fullmatch(text) is not None


def visible(text: str) -> tuple[str, ...]:
    """The GPUs that CUDA_VISIBLE_DEVICES names; ValueError for what is none.  CUDA stops at the first that is not."""
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
    """The GPUs as this process may use them.  NVML is asked once, and only where somebody gives a name."""

    def __init__(self, environ: Mapping[str, str], *, ask: bool = True) -> None:
        self.said = environ.get(VARIABLE)  # what muxd was started with
        self._ask = ask
        self._cards: list[GpuIdentity] | None = None

    def number(self, name: int | str, *, simulated: bool = False) -> int:
        """The number of a GPU, for a slice that of its GPU.  Raises ValueError."""
        if isinstance(name, int) or _NUMBER.fullmatch(name):
            return int(name)
        old = _OLD_SLICE.fullmatch(name)
        wanted = old[1] if old else name
        found = {card.index for card in self._known(wanted, simulated=simulated) if card.is_meant(wanted)}
        if len(found) == 1:
            return found.pop()
        raise ValueError(f"{name} {'means several of' if found else 'is none of'} the GPUs of this machine")

    def numbers(self, names: Iterable[int | str], *, simulated: bool = False) -> tuple[int, ...]:
        """Each once: slices of a GPU have one number.  Raises ValueError."""
        return tuple(dict.fromkeys(self.number(name, simulated=simulated) for name in names))

    def _known(self, name: str, *, simulated: bool) -> list[GpuIdentity]:
        from muxd.gpus import CannotAsk, installed_cards, simulated_cards  # only where a GPU is given by name

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
        """All GPUs of this machine, as far as anybody can tell."""
        from muxd.gpus import CannotAsk, installed_cards

        try:
            if self._cards is None and self._ask:
                self._cards = installed_cards()
        except CannotAsk:
            return (0,)
        return tuple(card.index for card in self._cards or ()) or (0,)

    def default(self, needs: Parallel) -> tuple[str, ...]:
        """The GPUs of a model that names none: the first of those that muxd was given.  Raises ValueError."""
        if self.said is None:
            return tuple(str(index) for index in range(needs.seen))
        given = self._given()
        if len(given) < needs.seen:
            what = f"names {len(given)}" if given else "names none"
            raise ValueError(f"it needs {needs}, and {VARIABLE}={self.said}, which muxd was started with, {what}")
        return given[: needs.seen]

    def _given(self) -> tuple[str, ...]:
        try:
            return visible(self.said or "")
        except ValueError as error:
            raise ValueError(f"{VARIABLE}={self.said}, which muxd was started with: {error}") from None

    def outside(self, gpus: Sequence[int], *, simulated: bool = False) -> tuple[int, ...]:
        """Those that muxd was not given; none where that cannot be told."""
        if self.said is None:
            return ()
        try:
            given = self.numbers(self._given(), simulated=simulated)
        except ValueError:
            return ()
        return tuple(gpu for gpu in gpus if gpu not in given)


def cuda_names(names: Iterable[int | str]) -> tuple[str, ...]:
    """What CUDA is told in place of numbers: slices, which have none."""
    given = tuple(str(name) for name in names)
    return given if any(name.startswith("MIG-") for name in given) else ()
