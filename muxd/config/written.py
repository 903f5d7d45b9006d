"""Check whether the files of a configuration were written since muxd read them.

The check asks the disk, which may hang.
"""

import os

from .schema import Config
from .sources import FOLDER


def written_since(config: Config) -> bool:
    """Say whether a file of the configuration, or the list of files in `muxd.d`, has changed since it was read.

    A file that cannot be looked at any more counts as changed.
    """
    if config.path is None:
        return False
    folder = config.path.parent / FOLDER
    return any(_changed(file, config.read_at) for file in (*config.files, *([folder] if os.path.isdir(folder) else [])))


def _changed(file: os.PathLike[str], since: int) -> bool:
    try:
        return os.stat(file).st_ctime_ns > since
    except OSError:
        return True
