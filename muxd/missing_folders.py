"""Folders of muxd's that may be removed under it."""

from pathlib import Path


def make_missing(folder: Path, mode: int = 0o700) -> None:
    """Make a folder that may have been removed under muxd, and what is missing above it with mode 0750.

    Whatever the umask is, a state_dir or log_dir that is made again is as `claim_folder` makes it.  Raises OSError.
    """
    for missing in reversed([each for each in folder.parents if not each.exists()]):
        missing.mkdir(mode=0o750, exist_ok=True)
    folder.mkdir(mode=mode, exist_ok=True)
