"""The size of a model's weight files, and whether all of them are there."""

import json
import os
import re
from collections.abc import Iterable
from pathlib import Path

from .model_kinds import ONLY_GGUF, NoModel, Unreadable, Unusable

#: In the order in which SGLang looks for them.
INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
PATTERNS = ("*.safetensors", "*.bin", "*.pt")

# Other files with the same endings: a second copy in Mistral's own format, the state of a training run.
_NOT_WEIGHTS = re.compile(
    r"consolidated.*|adapter_model.*|(training_args|optimizer|scheduler|rng_state|trainer_state).*"
)
_NUMBERED = re.compile(r"(.+)-(\d{5})-of-(\d{5})(\.\w+)")

_POINTER = b"version https://git-lfs.github.com"

#: An index of a large model has some MB.
LARGEST_INDEX = 64 << 20


def weights_of(folder: Path) -> int:
    """Return the bytes of the weight files.  Raises Unusable if any of them is missing."""
    names = _names(folder)
    sizes = [_size(folder / name) for name in names]
    missing = [name for name, size in zip(names, sizes, strict=True) if size is None]
    if missing:
        how_many = f"{len(missing)} of {len(names)} weight files {'is' if len(missing) == 1 else 'are'} missing"
        raise Unusable(f"a partial download: {how_many}, {missing[0]}{' first' if len(missing) > 1 else ''}")
    return sum(size for size in sizes if size is not None)


def weight_files(place: Path) -> list[Path]:
    """Return the weight files of a model that are there, in the order of their names; a file is its own only one.

    Raises Unusable where there are none, and OSError.
    """
    if place.is_file():
        return [place]
    return [place / name for name in _names(place) if _size(place / name) is not None]


def refuse_cut_off(folder: Path) -> None:
    """Raise Unusable for a file of safetensors that has fewer bytes than its header says, as after a full disk."""
    for name in _names(folder):
        if name.endswith(".safetensors") and (size := _size(folder / name)) is not None:
            try:
                needed = _length(folder / name, size)
            except OSError as error:
                raise Unreadable(f"{name} cannot be read: {error.strerror}") from None
            if needed > size:
                raise Unusable(f"{name} is cut off: it has {size} bytes, and its header says {needed} at least")


def _length(file: Path, size: int) -> int:
    """Return the bytes that a file of safetensors has by its header; 0 where that is no header.

    A number of 8 bytes, the header's length, comes before the JSON: huggingface/safetensors, README, "Format".
    """
    with file.open("rb") as opened:
        start = 8 + int.from_bytes(opened.read(8), "little")
        if start > size or size < 8:
            return max(start, 8)
        try:
            header = json.loads(opened.read(min(start - 8, LARGEST_INDEX)))
            ends = [tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__"]
            return start + int(max(ends, default=0))
        except (ValueError, RecursionError, KeyError, TypeError, AttributeError, IndexError):
            return 0


def _names(folder: Path) -> list[str]:
    """Return the names of the weight files, also of missing ones.  Raises Unusable if there are none."""
    for index in INDEXES:
        if (folder / index).is_file():
            return _names_in_index(folder / index)
    files = os.listdir(folder)
    for pattern in PATTERNS:
        ending = pattern.removeprefix("*")
        found = sorted(name for name in files if name.endswith(ending) and not name.startswith("."))
        if weights := [name for name in found if not _NOT_WEIGHTS.fullmatch(name)] or _only_mistrals(found):
            return _with_all_numbers(weights)
    if any(name.endswith(".gguf") for name in files):
        raise Unusable(ONLY_GGUF)
    raise NoModel("no weights")


def _only_mistrals(names: list[str]) -> list[str]:
    return [name for name in names if name.startswith("consolidated") and name.endswith(".safetensors")]


def _with_all_numbers(names: list[str]) -> list[str]:
    """Return the names and those that they imply: model-00001-of-00003.safetensors implies two more."""
    numbered = {(match[1], int(match[3]), match[4]) for name in names if (match := _NUMBERED.fullmatch(name))}
    expected = {
        f"{stem}-{number:05}-of-{count:05}{ending}"
        for stem, count, ending in numbered
        for number in range(1, count + 1)
    }
    return sorted(expected | set(names))


def _names_in_index(index: Path) -> list[str]:
    """Return the names of the files that an index lists.  Raises Unusable."""
    try:
        if index.stat().st_size > LARGEST_INDEX:
            raise Unusable(f"{index.name} is larger than {LARGEST_INDEX >> 20} MiB")
        files: Iterable[object] = json.loads(index.read_bytes())["weight_map"].values()
        names = {str(name) for name in files}
    except OSError as error:
        raise Unreadable(f"{index.name} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
        raise Unusable(f"{index.name} is not an index of weights") from None
    if not names or any("/" in name or "\0" in name for name in names):
        raise Unusable(f"{index.name} is not an index of weights")
    return sorted(names)


def _size(file: Path) -> int | None:
    """Return the file's size in bytes; None if it is missing or empty, or a cache's link to a file not downloaded.

    Raises Unusable for a pointer of git-lfs in the place of the file.
    """
    try:
        size = file.stat().st_size if file.is_file() else 0
        if 0 < size < 1024 and file.read_bytes().startswith(_POINTER):
            raise Unusable(f"{file.name} is a pointer of git-lfs, not the file; run: git lfs pull")
    except OSError:
        return None
    return size or None
