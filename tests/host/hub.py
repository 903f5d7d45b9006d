"""Models on a real disk, as the Hugging Face Hub's client lays them out: files in blobs, links to them in snapshots."""

import json
from pathlib import Path
from typing import Any

LLAMA = {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}
WHOLE = {"model.safetensors": 3 << 20}


def model(folder: Path, files: dict[str, int] | None = None, config: Any = LLAMA, **more: Any) -> Path:
    """A folder with a config.json and files of these sizes; `more`: other JSON files, by stem."""
    folder.mkdir(parents=True)
    for stem, content in {"config": config, **more}.items():
        if content is not None:
            (folder / f"{stem.replace('__', '.')}.json").write_text(json.dumps(content))
    for name, size in (WHOLE if files is None else files).items():
        sized(folder / name, size)
    return folder


def sized(file: Path, size: int) -> None:
    """Of this size, and next to nothing on the disk."""
    with file.open("wb") as opened:
        opened.truncate(size)


def index(*files: str) -> dict[str, Any]:
    return {"metadata": {}, "weight_map": {f"layer.{number}": name for number, name in enumerate(files)}}


class Hub:
    """A cache at a path."""

    def __init__(self, cache: Path) -> None:
        self.cache = cache

    def add(self, repo: str, files: dict[str, int] | None = None, config: Any = LLAMA, **options: Any) -> Path:
        """The snapshot of a repository, such as "Qwen/Qwen3-14B"; `main`: the branch main was that revision."""
        revision, main = options.pop("revision", "a" * 40), options.pop("main", True)
        repository = self.cache / f"models--{repo.replace('/', '--')}"
        snapshot = model(repository / "snapshots" / revision, files, config, **options)
        for number, file in enumerate(sorted(snapshot.iterdir())):
            blob = repository / "blobs" / f"{revision}{number}"
            blob.parent.mkdir(exist_ok=True)
            file.rename(blob)
            file.symlink_to(Path("../../blobs") / blob.name)
        if main:
            (repository / "refs").mkdir()
            (repository / "refs/main").write_text(revision)
        return snapshot
