"""Which files make muxd a service of systemd: where each goes, and with which paths in it."""

import os
import sys
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from .conf_files import conf_folder

#: The folder of the programs that the files of conf/ are written for.
_BIN = "/opt/muxd/bin/"

#: Begins a file that `muxd setup` wrote: only such files are replaced and removed.
MARK = (
    "# Written by `muxd setup`: it replaces this file, and removes it with --remove.  Changes belong into a drop-in.\n"
)

_OF_ALL = {
    "systemd/muxd.service": "etc/systemd/system/muxd.service",
    "systemd/muxd-proxy.service": "etc/systemd/system/muxd-proxy.service",
    "systemd/muxd-proxy.socket": "etc/systemd/system/muxd-proxy.socket",
    "sysusers.d/muxd.conf": "etc/sysusers.d/muxd.conf",
    "tmpfiles.d/muxd.conf": "etc/tmpfiles.d/muxd.conf",
    "man/muxd.1": "usr/local/share/man/man1/muxd.1",
    "man/muxctl.1": "usr/local/share/man/man1/muxctl.1",
    "man/muxd.toml.5": "usr/local/share/man/man5/muxd.toml.5",
}
_HARDENING = {"systemd/muxd.service.d/hardening.conf": "etc/systemd/system/muxd.service.d/hardening.conf"}
_OF_USER = {"systemd/user/muxd.service": "systemd/user/muxd.service"}


@dataclass(frozen=True, slots=True)
class ServiceFile:
    """One file to write."""

    path: Path
    text: str

    @property
    def mark(self) -> str:
        """Return the comment that begins the file."""
        return f'.\\" {MARK}' if self.path.suffix in (".1", ".5") else MARK


def service_files(root: Path, programs: Path, *, hardened: bool) -> list[ServiceFile]:
    """Return the files of a service of the whole system, below `root`; `programs` is the folder that has muxd."""
    return _files(root, programs, _OF_ALL | (_HARDENING if hardened else {}))


def user_service_files(root: Path, programs: Path, environ: Mapping[str, str]) -> list[ServiceFile]:
    """Return the files of a service of this user's own manager, below `root`: ~/.config/systemd/user."""
    home = Path(environ.get("XDG_CONFIG_HOME") or Path(environ.get("HOME") or "~").expanduser() / ".config")
    return _files(root / home.relative_to(home.anchor), programs, _OF_USER)


def _files(root: Path, programs: Path, places: Mapping[str, str]) -> list[ServiceFile]:
    conf = conf_folder()
    bare = [
        ServiceFile(root / place, (conf / name).read_text().replace(_BIN, f"{programs}/"))
        for name, place in places.items()
    ]
    return [ServiceFile(file.path, file.mark + file.text) for file in bare]


def programs_folder() -> Path | None:
    """Return the folder that has this installation's muxd and muxctl, or None where it has none."""
    started = Path(os.path.realpath(sys.argv[0])).parent
    for folder in (started, Path(sys.prefix) / "bin", Path(sysconfig.get_path("scripts"))):
        if all(os.access(folder / name, os.X_OK) for name in ("muxd", "muxctl")):
            return folder
    return None


def closed_to_others(program: Path) -> Path | None:
    """Return the first folder on the way to `program` that other users may not enter, or None where there is none."""
    return next((folder for folder in reversed(program.parents) if not folder.stat().st_mode & 0o001), None)
