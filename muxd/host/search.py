"""The models on this machine: in the cache of the Hugging Face Hub, and in folders that the user names."""

import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

from msgspec import Struct

from muxd.config.default_paths import home

from .model_kinds import ModelKind, NoModel, Unusable, kind_of
from .weights import weights_of

#: How many levels below a named folder are searched: ORG/NAME/REVISION, and room for more.
DEEPEST = 6

OTHER_REPOSITORIES = {"datasets": "a data set", "spaces": "a space of the Hub"}


class FoundModel(Struct, frozen=True):
    """A model that can be served."""

    label: str  # the Hub id, as Qwen/Qwen3-14B, or the folder's name
    model_path: str  # a Hub id, or an absolute path
    kind: ModelKind
    size: int  # bytes of its weight files
    folder: Path  # where the weight files are, links resolved


class Skipped(Struct, frozen=True):
    """A folder in which no model was found that can be served."""

    label: str
    reason: str
    leaf: bool = True  # no model can be below it


Finding = FoundModel | Skipped


def hub_cache(environ: Mapping[str, str]) -> Path:
    """Return the folder in which huggingface_hub keeps its downloads."""
    if setting := environ.get("HF_HUB_CACHE") or environ.get("HUGGINGFACE_HUB_CACHE"):
        return _expanded(setting, environ)
    if setting := environ.get("HF_HOME"):
        return _expanded(setting, environ) / "hub"
    cache = environ.get("XDG_CACHE_HOME") or "~/.cache"
    return _expanded(cache, environ) / "huggingface/hub"


def _expanded(path: str, environ: Mapping[str, str]) -> Path:
    return (home(environ) / path[2:] if path.startswith("~/") else Path(path)).absolute()


def in_cache(cache: Path) -> list[Finding]:
    """Return a finding for each repository of a Hub cache; nothing if the cache does not exist."""
    try:
        names = sorted(os.listdir(cache), key=str.lower)
    except FileNotFoundError:
        return []
    except OSError as error:
        return [Skipped(str(cache), f"cannot be read: {error.strerror}")]
    nameable = str(cache).isprintable()  # a model is named by its id only if a configuration can hold this path
    return [_repository(cache / name, hub=nameable) for name in names if _is_repository(name)]


def snapshot_in_hub(cache: Path, hub_id: str) -> Path | None:
    """Return the folder of a Hub model's files; None if nothing of the model is in the cache.  Raises Unusable."""
    repository = cache / f"models--{hub_id.replace('/', '--')}"
    if not repository.is_dir():
        return None
    _refuse_partial(repository, hub_id)
    return _revisions(repository)[0]


def place_of(model_path: str, environ: Mapping[str, str]) -> Path | None:
    """Return where the files of a model are on this machine; None where they are not, as those of a URL.

    Raises Unusable for a partial download.
    """
    if os.path.isabs(model_path):
        return Path(model_path)
    return None if "://" in model_path else snapshot_in_hub(hub_cache(environ), model_path)


def _is_repository(name: str) -> bool:
    kind, separator, _ = name.partition("--")
    return bool(separator) and kind in ("models", *OTHER_REPOSITORIES)


def _repository(repository: Path, *, hub: bool) -> Finding:
    """Return the finding for a repository of a cache; `hub` says whether its Hub id is enough to find it again."""
    kind, *parts = repository.name.split("--")
    label = "/".join(parts)
    if kind != "models":
        return Skipped(label, OTHER_REPOSITORIES[kind])
    try:
        return _best_snapshot(repository, label, hub=hub)
    except Unusable as error:
        return Skipped(label, str(error))
    except OSError as error:
        return Skipped(label, f"cannot be read: {error.strerror}")


def _best_snapshot(repository: Path, label: str, *, hub: bool) -> Finding:
    """Return the model at the revision that its Hub id means, else at the newest complete one, named by its path.

    Raises Unusable, for the first revision, if no revision is complete.
    """
    _refuse_partial(repository, label)
    main, *others = _revisions(repository)
    try:
        return _model_in(main, label, label if hub and _is_main(main) else str(main))
    except Unusable as reason:
        for other in others:
            try:
                return _model_in(other, label, str(other))
            except Unusable:
                continue
        raise reason from None


def _refuse_partial(repository: Path, hub_id: str) -> None:
    """Raise Unusable if a download of the repository is not complete."""
    if list(repository.glob("blobs/*.incomplete")):
        raise Unusable(f"a partial download, or one under way; finish it with: hf download {hub_id}")


def _revisions(repository: Path) -> list[Path]:
    """Return the snapshots: the one that refs/main names first, then the newest.  Raises Unusable if there is none."""
    try:
        snapshots = [path for path in (repository / "snapshots").iterdir() if path.is_dir()]
    except FileNotFoundError:
        snapshots = []
    if not snapshots:
        raise Unusable("nothing was downloaded")
    return sorted(snapshots, key=lambda path: (not _is_main(path), -path.stat().st_mtime, path.name))


def _is_main(snapshot: Path) -> bool:
    try:
        return (snapshot.parents[1] / "refs/main").read_text().strip() == snapshot.name
    except (OSError, ValueError):
        return False


def in_folder(folder: Path) -> Iterator[Finding]:
    """Yield a finding for each folder at or below `folder` that may hold a model, and for each cached repository."""
    yield from _findings_below(Path(os.path.abspath(folder)), 0, set())


def _findings_below(folder: Path, depth: int, seen: set[tuple[int, int]]) -> Iterator[Finding]:
    """Yield the findings at and below `folder`; `seen` are device and inode of folders, since links may form a loop."""
    try:
        found = folder.stat()
        if (key := (found.st_dev, found.st_ino)) in seen:
            return
        seen.add(key)
        with os.scandir(folder) as entries:
            names = sorted((entry.name for entry in entries if not entry.name.startswith(".")), key=str.lower)
    except OSError as error:
        yield Skipped(str(folder), f"cannot be read: {error.strerror}")
        return
    if {"config.json", "adapter_config.json", "model_index.json"} & set(names):
        finding = _finding_in(folder)
        yield finding
        if isinstance(finding, FoundModel) or finding.leaf:
            return
    if depth < DEEPEST:
        for name in names:
            if _is_repository(name):
                yield _repository(folder / name, hub=False)
            elif _is_directory(folder / name):
                yield from _findings_below(folder / name, depth + 1, seen)


def _finding_in(folder: Path) -> Finding:
    """Return the finding for a folder with a config.json.

    It is no leaf if it holds no part of a model: a stray config.json says nothing about the folders below it, while
    the folders below a model hold its parts.
    """
    try:
        if list(folder.glob(".cache/huggingface/download/**/*.incomplete")):
            raise Unusable("a partial download, or one under way")
        return _model_in(folder, folder.name, str(folder))
    except Unusable as error:
        return Skipped(str(folder), str(error), leaf=not isinstance(error, NoModel))
    except OSError as error:
        return Skipped(str(folder), f"cannot be read: {error.strerror}")


def _is_directory(path: Path) -> bool:
    try:
        return stat.S_ISDIR(path.stat().st_mode)
    except OSError:
        return False


def _model_in(folder: Path, label: str, model_path: str) -> FoundModel:
    """Return the model in the folder.  Raises Unusable, also for a name that a configuration cannot hold."""
    try:
        if not f"{label}{model_path}".isprintable():
            raise ValueError
        model_path.encode()
    except ValueError:
        raise Unusable("its path has characters that a configuration cannot hold; rename it") from None
    return FoundModel(label, model_path, kind_of(folder), weights_of(folder), Path(os.path.realpath(folder)))
