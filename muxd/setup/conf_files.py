"""The files of conf/: a part of the installed package, or a folder of the checkout that muxd runs from."""

from pathlib import Path

import muxd


def conf_folder() -> Path:
    """Return the folder that has them."""
    package = Path(muxd.__file__).parent
    installed = package / "conf"
    return installed if installed.is_dir() else package.parent / "conf"
