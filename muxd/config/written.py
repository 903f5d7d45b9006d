"""Whether the files of a configuration were written since it was read: asked of the disk, which may hang."""

import os

from .schema import Config
from .sources import FOLDER


def written_since(config: Config) -> bool:
    """Its files, or which files there are beside it; also where one of them cannot be seen any more."""
    if config.path is None:
        return False
    folder = config.path.parent / FOLDER
    return any(_changed(file, config.read_at) for file in (*config.files, *([folder] if folder.is_dir() else [])))


def _changed(file: os.PathLike[str], since: int) -> bool:
    try:
        return os.stat(file).st_ctime_ns > since
    except OSError:
        return True
