"""What a killed muxd has left running and the next one may take over: found by its state file, and not yet asked.

A worker is taken over where its record says that it was at rest, ready or asleep, its configuration is what it was, no
engine call is in doubt, and its shim is certainly the one of the record.  Whether it lives is asked later, by the
supervisor.  All others are ended.

What a muxd with another state_dir has left is not this one's to take over or to end: it is only told of.
"""

import logging
import os
from collections.abc import Collection, Iterator
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

from msgspec import Struct, field

from . import __version__
from .children import RUN_DIR, Child, Children, is_in_container
from .config import Config, Model
from .config.plan import identity_of
from .locks import STATE_LOCK, is_held
from .members import members_of
from .pool_share import processes_of
from .protocol import VERSION
from .saved_state import SavedState, WorkerRecord
from .shim.processes import GONE
from .threads import in_thread
from .workers import has_own_traces

log = logging.getLogger(__name__)

_NOT_CERTAIN = "its shim has ended, or its lock file is not as that wrote it"

_SHIM = b"/muxd/shim/__main__.py\0"


class LeftBehind(Struct, frozen=True):
    """The children that are to be taken over."""

    workers: dict[str, Child] = field(default_factory=dict)
    proxies: dict[str, Child] = field(default_factory=dict)  # the proxy's processes, by name
    outgoing: tuple[
        Child, ...
    ] = ()  # those of a proxy with other settings or of another version: they finish what runs


def find_left_behind(children: Children, saved: SavedState, config: Config) -> LeftBehind:
    """Return what can be taken over; nothing is touched, and whatever is not returned is to be ended."""
    if config.daemon.on_crash == "stop" and saved.ending != "handover":  # which is no crash
        return LeftBehind()
    workers = {}
    for model in _workers_of(config, saved.stopped):
        record = saved.workers.get(model.name)
        if record is None:
            continue
        why = _why_not(model, record, config.daemon.state_dir)
        child = None if why else children.adopt(record.child)
        if child is not None:
            workers[model.name] = child
        else:
            log.info("%s is not taken over from an earlier muxd: %s", model.name, why or _NOT_CERTAIN)
    if not config.proxy.managed:
        return LeftBehind(workers)
    found = {name: children.adopt(record) for name, record in saved.proxies.items()}
    proxies = {name: child for name, child in found.items() if child is not None}
    outgoing = tuple(child for record in saved.outgoing.values() if (child := children.adopt(record)) is not None)
    if saved.proxy_digest != proxy_digest(config):
        return LeftBehind(workers, outgoing=(*outgoing, *proxies.values()))
    return LeftBehind(workers, proxies, outgoing)


async def warn_of_left_elsewhere(config: Config) -> None:
    """Tell of what still runs of muxds that have ended, and whose state is in other folders than this one's."""
    for folder, shims in (await in_thread(_left_elsewhere, abandon_on_cancel=True)).items():
        if folder != config.daemon.state_dir.resolve():
            names = ", ".join(f"{name} (pid {pid})" for pid, name in shims.items())
            log.warning(
                "%s of a muxd that has ended still run, with what they have of GPUs and ports; their state is in "
                "another state_dir, %s: a muxd with that one takes them over; kill %s ends them",
                *(names, folder, " ".join(map(str, shims))),
            )


def _left_elsewhere() -> dict[Path, dict[int, str]]:
    """Return for each state_dir that no muxd has the shims, by pid with their children's names.

    Those of other users are not seen by a muxd that is not root.
    """
    found: dict[Path, dict[int, str]] = {}
    for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
        with suppress(*GONE):
            if (lock := _lock_of_shim(Path(f"/proc/{pid}"))) is not None:
                found.setdefault(lock.parents[1], {})[pid] = lock.stem
    return {folder: shims for folder, shims in found.items() if not _has_muxd(folder)}


def _lock_of_shim(process: Path) -> Path | None:
    """Return the lock file of a shim's child; None where this process, by its folder in /proc, is no shim.

    Nor is that of a container one here: its paths mean other files, and its muxd is not seen by them.
    """
    if _SHIM not in (process / "cmdline").read_bytes() or is_in_container(int(process.name)):
        return None
    files = (descriptor.readlink() for descriptor in (process / "fd").iterdir())
    return next((file for file in files if file.suffix == ".lock" and file.parent.name == RUN_DIR), None)


def _has_muxd(state_dir: Path) -> bool:
    try:
        return is_held(state_dir / STATE_LOCK)
    except OSError:  # the folder was removed
        return False


def is_to_be_ended(saved: SavedState, config: Config, service_result: str) -> bool:
    """Say whether what a service's muxd has left must end with the service, as nobody will take it over.

    `service_result`: systemd's $SERVICE_RESULT.  After a crash the manager starts the next muxd, which takes it over; a
    stop that muxd did not come to the end of, or did not hear, leaves it to nobody.
    """
    if saved.ending == "handover":
        return False
    return saved.ending == "stop" or service_result in ("success", "timeout") or config.daemon.on_crash == "stop"


def proxy_digest(config: Config) -> str:
    """Return a digest of all that a running proxy does not take over by itself from a new configuration."""
    processes = processes_of(config.proxy.processes)
    depends_on = (config.proxy, processes, config.daemon.socket, config.daemon.state_dir, __version__, VERSION)
    return sha256(repr(depends_on).encode()).hexdigest()


def _workers_of(config: Config, stopped: Collection[str]) -> Iterator[Model]:
    """Yield the model of each worker, routers included, but those of models that an operator has `stopped`."""
    for model in config.models:
        if model.name not in stopped:
            yield from (member.model for member in members_of(model))


def _why_not(model: Model, record: WorkerRecord, state_dir: Path) -> str:
    """Return why a worker is not taken over, by its record alone; "" where nothing speaks against it."""
    if record.call is not None:
        return f"the end of its call {record.call!r} was not seen"
    if not record.is_at_rest:
        return "it was on its way"
    if record.digest != identity_of(model):
        return "its configuration has changed"
    if not has_own_traces(record, state_dir):
        return "its record names files that are not a worker's"
    return ""
