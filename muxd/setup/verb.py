"""`muxd setup`: write, show or remove what makes muxd a service of systemd, and say what is left to do."""

import os
import shutil
import subprocess
import sys
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from muxd.config.new_file import place
from muxd.errors import ConfigError, MuxdError

from .conf_files import conf_folder
from .service_files import ServiceFile, closed_to_others, programs_folder, service_files, user_service_files

_SYSTEM = Path("/")
_UNITS = ("muxd.service", "muxd-proxy.socket", "muxd-proxy.service")
_DROP_IN = "muxd.service.d/hardening.conf"


class SetupFailed(MuxdError):
    """A program of systemd failed after the files were written or before they were removed."""

    code = "setup_failed"


def setup(options: Namespace, environ: Mapping[str, str]) -> int:
    """Run `muxd setup`; return 0 once everything is in place, shown or removed.

    Raise ConfigError where nothing was changed, SetupFailed where a program of systemd failed.
    """
    if not options.systemd:
        others = f"examples, alert rules, a dashboard, Docker and Kubernetes files are in {conf_folder()}"
        raise ConfigError([f"muxd setup: say what for: --systemd; {others}"])
    if options.user and options.hardened:
        raise ConfigError(
            ["muxd setup: --hardened makes muxd a user of its own; with --user it runs as you: leave one of them out"]
        )
    if options.print and options.remove:
        raise ConfigError(["muxd setup: --print shows what would be written, --remove writes nothing: leave one out"])
    system = options.root.absolute() == _SYSTEM
    files = _files(options, environ)
    if options.print:
        sys.stdout.write("\n".join(f"# {file.path}\n{file.text}" for file in files))
        return 0
    if system and not options.user and os.geteuid() != 0:
        raise ConfigError(
            ["muxd setup: /etc is root's: sudo muxd setup --systemd, or --user for a service of your own"]
        )
    if options.remove:
        _remove(options, files, system=system)
    else:
        _install(options, files, system=system)
    return 0


def _files(options: Namespace, environ: Mapping[str, str]) -> list[ServiceFile]:
    programs = programs_folder()
    if programs is None:
        raise ConfigError(
            [f"muxd setup: there is no muxd and muxctl beside {sys.executable}, which a unit could start; "
             "install muxd into an environment: python3 -m venv /opt/muxd && /opt/muxd/bin/pip install muxd"]
        )  # fmt: skip
    if options.user:
        return user_service_files(options.root, programs, environ)
    if options.hardened and not options.remove and (closed := closed_to_others(programs / "muxd")):
        raise ConfigError(
            [f"muxd setup: the user muxd, whom --hardened makes, may not enter {closed}, where muxd is installed; "
             "install it where everybody may read: python3 -m venv /opt/muxd && /opt/muxd/bin/pip install muxd"]
        )  # fmt: skip
    return service_files(options.root, programs, hardened=options.hardened or options.remove)


def _install(options: Namespace, files: Sequence[ServiceFile], *, system: bool) -> None:
    if not options.force and (foreign := [str(file.path) for file in files if _is_foreign(file)]):
        raise ConfigError(
            [f"muxd setup: {path} is not of muxd setup; --force replaces it, --print shows what would be written"
             for path in foreign]
        )  # fmt: skip
    for file in files:
        before = _text(file.path)
        if before == file.text:
            print(f"unchanged {file.path}")
            continue
        place(file.path, file.text, force=True, option="--root DIR")
        print(f"{'wrote' if before is None else 'replaced'} {file.path}")
    if not options.user and not options.hardened and _text(drop_in := _drop_in(options.root)) is not None:
        print(f"left {drop_in}: muxd stays without root; remove that file to give it root again")
    if not system:
        return
    _call_systemd(_after(user=options.user))
    print("next:")
    for line in _next(options):
        print(f"  {line}")


def _is_foreign(file: ServiceFile) -> bool:
    """Say whether a file is there that `muxd setup` has not written and would not write."""
    before = _text(file.path)
    return before is not None and not before.startswith(file.mark) and before != file.text.removeprefix(file.mark)


def _drop_in(root: Path) -> Path:
    return root / "etc/systemd/system" / _DROP_IN


def _after(*, user: bool) -> Iterator[list[str]]:
    if not user:
        yield ["systemd-sysusers", "muxd.conf"]
        yield ["systemd-tmpfiles", "--create", "muxd.conf"]
    yield ["systemctl", *(["--user"] if user else []), "daemon-reload"]


def _next(options: Namespace) -> Iterator[str]:
    if options.user:
        yield "muxd init --output ~/.config/muxd/muxd.toml"
        yield "systemctl --user enable --now muxd"
        yield "loginctl enable-linger     (muxd runs on when you log out)"
        return
    config = "/etc/muxd/muxd.toml"
    yield f"muxd init --output {config}" if not os.path.exists(config) else f"muxd check --config {config}"
    yield "systemctl enable --now muxd"
    yield "muxctl status"


def _remove(options: Namespace, files: Sequence[ServiceFile], *, system: bool) -> None:
    there = [file.path for file in files if _text(file.path) is not None]
    ours = [file.path for file in files if (_text(file.path) or "").startswith(file.mark)]
    if system and ours:
        units = [path.name for path in ours if path.name in _UNITS]
        manager = ["systemctl", *(["--user"] if options.user else [])]
        _call_systemd([[*manager, "disable", "--now", *units]] if units else [])
    for path in ours:
        path.unlink()
        print(f"removed {path}")
    for path in there:
        if path not in ours:
            print(f"left {path}: it is not of muxd setup")
    if not there:
        print("there is nothing to remove")
    if system and ours:
        _call_systemd([["systemctl", *(["--user"] if options.user else []), "daemon-reload"]])
    if system and not options.user and ours:
        print("left: /etc/muxd, /var/lib/muxd, /var/log/muxd, /var/cache/muxd and the users muxd and muxd-proxy")


def _call_systemd(calls: "Sequence[list[str]] | Iterator[list[str]]") -> None:
    """Run programs of systemd one after the other; raise SetupFailed with what the first that fails has said."""
    for call in calls:
        if shutil.which(call[0]) is None:
            print(f"not run, as there is no {call[0]} here: {' '.join(call)}")
            continue
        ended = subprocess.run(call, capture_output=True, text=True, check=False)
        if ended.returncode != 0:
            said = (ended.stderr or ended.stdout).strip() or f"exit status {ended.returncode}"
            raise SetupFailed(f"{' '.join(call)}: {said}; repair that, then run muxd setup again")
        print(f"ran {' '.join(call)}")


def _text(path: Path) -> str | None:
    """Return what a file has, or None where there is none.  Raise ConfigError where it cannot be read."""
    try:
        return path.read_text(errors="surrogateescape")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError([f"muxd setup: {path} cannot be read: {error.strerror}"]) from None
