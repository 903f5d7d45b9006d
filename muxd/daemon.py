"""`muxd start`: builds the parts of muxd, keeps them running, and ends them in order.

On the way up muxd claims the control socket (one muxd per socket), takes over the processes
that a killed muxd left or sweeps them, starts the supervisor, the control API and the proxy, and then
tells systemd that it is ready.  On the way down requests in flight finish, the workers
stop, then the proxy, then the rest.
"""

import logging
import os
import shutil
import signal
from functools import partial
from math import inf

import trio
from msgspec.structs import replace

from .children import RUN_DIR, Children, become_subreaper, cgroups
from .config import Config, Daemon
from .config.default_paths import default_log_dir
from .config.folders import why_not_had, writable_by_others
from .control import ControlSocket, Rights, serve_control
from .core.events import Event
from .engines.engine_client import open_http
from .engines.gpu_source import open_gpus
from .engines.missing import warn_of_missing_engines
from .errors import ModelStuck, MuxdError, in_words
from .frontends.console_child import ConsoleChild
from .frontends.proxy_pool import ProxyPool, UnmanagedProxy
from .frontends.proxy_ports import ProxyPorts, rescue
from .history.database import HistoryFile
from .launchers.observed_scripts import ObservedScripts
from .left_behind import LeftBehind, find_left_behind, is_to_be_ended, warn_of_left_elsewhere
from .locks import STATE_LOCK, hold
from .log_names import own_log_file
from .notify import Notifier
from .own_files import CannotStart, claim_folder, clear_folders_place, make_folder
from .own_log import BACKUPS, MAX_BYTES, keep_log
from .pool_share import processes_of
from .saved_state import SavedState, StateFile
from .shim.log import Log
from .successor import HEARD, Successor, leave_for_later
from .supervisor import Reread, Supervisor
from .threads import in_thread
from .ticks import next_tick
from .watchdog import feed_watchdog
from .workers import WorkerContext, remove_left_outside

log = logging.getLogger(__name__)


#: Seconds that the sweep waits for processes to end.  A process that survives SIGKILL for longer keeps muxd from
#: starting, because it may hold a GPU.
SWEEP_TIMEOUT = 30.0

#: The name under which an upgrade passes the control socket on.
CONTROL = "control"

#: Seconds between two checks that the control socket's file still exists.
SOCKET_INTERVAL = 2.0


async def run_daemon(config: Config, reread: Reread, notifier: Notifier, successor: Successor | None) -> None:
    """Run muxd until a signal or a request at the control socket shuts it down.  Raises MuxdError.

    `reread` reads the configuration again, for a reload; `successor` is what an upgrade goes on as, in this process.
    """
    daemon = config.daemon
    anybody = daemon.others == "read" or config.proxy.user is not None  # all may connect; Rights decides the rest
    passed = notifier.take_unix(CONTROL, daemon.socket)
    control_socket = ControlSocket(daemon.socket, admin_group=daemon.admin_group, others=anybody, passed=passed)
    try:
        lock = _claim_folders(daemon)
        keep_log(Log(str(own_log_file(daemon.log_dir)), MAX_BYTES, BACKUPS), daemon.log_format)
        try:
            passed_on = await _run(config, reread, notifier, control_socket, successor)
            if passed_on and successor is not None:
                successor.execute(passed_on, [control_socket.lock, lock])
        finally:
            os.close(lock)
    finally:
        control_socket.close()


async def sweep_left(config: Config, service_result: str | None) -> None:
    """End what an earlier muxd has left running.  Raises AlreadyRunning where a muxd runs, ModelStuck, CannotStart.

    With a `service_result`, systemd's $SERVICE_RESULT, only what nobody will take over.
    """
    lock = _claim_folders(config.daemon)
    try:
        state = StateFile(config.daemon.state_dir / "state.json")
        leftover = state.load()
        if service_result is None or is_to_be_ended(leftover, config, service_result):
            children = Children(config.daemon.state_dir / RUN_DIR)
            await _sweep(children, state, leftover, {model.name for model in config.models}, LeftBehind())
        elif leftover.workers or leftover.proxies or leftover.outgoing:
            log.info("%s: left to the next muxd", ", ".join([*leftover.workers, *leftover.proxies, *leftover.outgoing]))
    finally:
        os.close(lock)


def _claim_folders(daemon: Daemon) -> int:
    """Make state_dir and log_dir, and return the lock on the state; raises CannotStart, AlreadyRunning.

    The lock keeps this muxd from sweeping the workers of a muxd that has another socket but the same state_dir.
    """
    try:
        claim_folder(daemon.state_dir, "state_dir", others_may=0)
        if daemon.log_dir == default_log_dir({}, daemon.state_dir):
            clear_folders_place(daemon.log_dir)
        claim_folder(daemon.log_dir, "log_dir", others_may=0o020)  # a log collector may be in the folder's group
        for name in ("children", "workers"):
            make_folder(daemon.state_dir / name)
        return hold(daemon.state_dir / STATE_LOCK, f"with the state in {daemon.state_dir}")
    except OSError as error:
        for key, folder in (("state_dir", daemon.state_dir), ("log_dir", daemon.log_dir)):
            if why := why_not_had(folder):
                raise CannotStart(f"muxd cannot start: [muxd] {key}: {why}") from None
        raise CannotStart(f"muxd cannot start: {in_words(error)}; see [muxd] state_dir and log_dir") from None


async def _run(
    config: Config, reread: Reread, notifier: Notifier, control_socket: ControlSocket, successor: Successor | None
) -> list[tuple[str, int]]:
    """Run muxd to its end; return the open sockets, by name, with which it is to go on as its successor, if it is."""
    for remark in (*config.remarks, *config.import_remarks, *await in_thread(partial(writable_by_others, config))):
        log.warning("%s", remark)
    for model in config.models:
        for remark in model.script.remarks if model.script is not None else ():
            log.warning("%s: %s", model.name, remark)
    become_subreaper()
    children = Children(config.daemon.state_dir / RUN_DIR, cgroups.enter())
    state = StateFile(config.daemon.state_dir / "state.json")
    leftover = state.load()
    if config.proxy.managed:
        rescue(leftover.proxies, config.proxy, notifier)
    left = find_left_behind(children, leftover, config)
    await _sweep(children, state, leftover, {model.name for model in config.models}, left)
    send, mailbox = trio.open_memory_channel[Event](inf)
    ports = ProxyPorts(config.proxy, notifier, processes_of(config.proxy.processes))
    console = ConsoleChild(config, children) if config.ui.listen is not None else None
    managed = ProxyPool(config, children, state, ports, left.proxies, left.outgoing) if config.proxy.managed else None
    history_file = HistoryFile(config.daemon.state_dir / "history.sqlite")
    history = await in_thread(history_file.load)
    async with open_http() as http, state.kept(), trio.open_nursery() as nursery:
        scripts = ObservedScripts(config.daemon.state_dir)
        context = WorkerContext(config, children, open_gpus(config), state, http, send.send_nowait, scripts)
        proxy = managed or UnmanagedProxy(config)
        supervisor = Supervisor(context, mailbox, proxy, reread, left.workers, history, successor=successor)
        nursery.start_soon(children.reap_orphans, name="orphans")
        nursery.start_soon(history_file.keep, history, name="history")
        nursery.start_soon(supervisor.decisions.keep, name="decisions")
        await nursery.start(_hear_signals, supervisor)
        await nursery.start(supervisor.run)
        rights = Rights.of_config(config)
        await nursery.start(partial(serve_control, supervisor.service, control_socket.listener, rights))
        nursery.start_soon(_keep_socket, control_socket, supervisor, rights, nursery)
        if managed is not None:
            nursery.start_soon(managed.run, supervisor.journal.record, http, name="proxy")
        if console is not None:
            nursery.start_soon(console.run, name="console")
        nursery.start_soon(feed_watchdog, notifier)
        nursery.start_soon(warn_of_missing_engines, config)
        nursery.start_soon(warn_of_left_elsewhere, config)
        said = f"proxy on {ports.listen}" if ports.trouble is None else f"no proxy: {ports.trouble}"
        notifier.ready(f"{len(config.models)} models, {said}")
        where = f"proxy on {ports.listen}, " if managed is not None and ports.trouble is None else ""
        log.info("ready: %scontrol socket %s", where, config.daemon.socket)
        await supervisor.finished.wait()
        if console is not None:
            console.stop()
        if managed is not None and not supervisor.handover.has_left:
            await managed.stop(supervisor.hurried)
        if console is not None and not supervisor.handover.has_left:
            await console.ended()
        passed_on = []
        if supervisor.handover.is_upgrade:  # the control socket's server closes its own descriptor
            passed_on = [*ports.all_descriptors().items(), (CONTROL, os.dup(control_socket.listener.socket.fileno()))]
        supervisor.close()
        nursery.cancel_scope.cancel()
    if supervisor.handover.has_left:
        return passed_on
    if stuck := supervisor.stuck:
        raise ModelStuck(
            f"muxd ends, but not all of {', '.join(stuck)} did: what survives SIGKILL may hold its GPU until a reboot"
        )
    log.info("stopped")
    return []


async def _sweep(
    children: Children, state: StateFile, leftover: SavedState, models: set[str], left: LeftBehind
) -> None:
    """End every process that an earlier muxd left running and `left` has not, so that nothing ever runs twice.

    Of the children in the earlier muxd's state only those are kept that are taken over.
    """
    kept = {name: record for name, record in leftover.workers.items() if name in left.workers}
    records = [worker.child for name, worker in leftover.workers.items() if name not in kept]
    records += [record for name, record in leftover.proxies.items() if name not in left.proxies]
    for name in await children.sweep(records, SWEEP_TIMEOUT):
        log.warning("%s was left running by an earlier muxd: ended", name)
    for name, worker in leftover.workers.items():
        if name in kept:
            continue
        if worker.call is not None:
            log.warning("%s: an earlier muxd did not see the end of its call %r", name, worker.call)
        remove_left_outside(worker)
    workdirs, spared = state.path.parent / "workers", {record.workdir for record in kept.values()}
    for folder in workdirs.iterdir() if spared else [workdirs]:  # also folders that no record names
        if str(folder) not in spared:
            shutil.rmtree(folder, ignore_errors=True)
    make_folder(workdirs)
    stopped = [name for name in leftover.stopped if name in models]
    held = {name: until for name, until in leftover.held.items() if name in models}
    proxies = {name: record for name, record in leftover.proxies.items() if name in left.proxies}
    state.state = replace(
        leftover,
        ending="",
        stopped=stopped,
        held=held,
        workers=kept,
        proxies=proxies,
        outgoing={child.name: child.record for child in left.outgoing},
        proxy_digest=leftover.proxy_digest if proxies else "",
    )
    state.save()


async def _hear_signals(
    supervisor: Supervisor, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Reload on SIGHUP, and shut down on SIGTERM and SIGINT: the first lets requests finish, the second does not.

    What comes once this muxd has left is for the next one of this process.
    """
    for heard in HEARD:
        signal.signal(heard, leave_for_later)  # once the block is left
    with trio.open_signal_receiver(*HEARD) as signals:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, HEARD)  # that came during an upgrade, see successor
        async with trio.open_nursery() as reloads:  # a reload from a slow disk must not delay other signals
            task_status.started()
            async for number in signals:
                if supervisor.handover.has_left:
                    leave_for_later(number, None)
                    continue
                if number == signal.SIGHUP:
                    reloads.start_soon(_reload, supervisor)
                    continue
                hurry = supervisor.stopping.is_set()
                means = "ending at once" if hurry else "finishing the requests in flight; once more ends muxd at once"
                log.info("%s: %s", signal.Signals(number).name, means)
                supervisor.shutdown(hurry=hurry)


async def _reload(supervisor: Supervisor) -> None:
    try:
        await supervisor.service.reload()
    except MuxdError as error:
        log.error("the configuration was not taken over, nothing was changed: %s", error.message)


async def _keep_socket(
    control_socket: ControlSocket, supervisor: Supervisor, rights: Rights, nursery: trio.Nursery
) -> None:
    """Make the control socket again whenever its file was removed.

    Without the file no proxy and no operator could connect, and so no model could be switched or loaded any more.
    """
    last_logged = ""
    while True:
        await next_tick(SOCKET_INTERVAL)
        try:
            if control_socket.make_again():
                log.warning("the control socket %s was removed: it is made again", control_socket.path)
                nursery.start_soon(serve_control, supervisor.service, control_socket.listener, rights)
            last_logged = ""
        except (OSError, MuxdError) as error:
            if (why := in_words(error)) != last_logged:
                log.error("the control socket %s was removed and cannot be made again: %s", control_socket.path, why)
            last_logged = why
