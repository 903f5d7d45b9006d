"""`muxd proxy` with several processes, as a service of its own: their parent, which starts them again when they die.

It holds the listening sockets, one for each, that systemd has passed or that are bound here, so that what was dealt to
a process that has died waits for the next one.  One that answers no more is ended.  The parent serves no client, and
has neither threads nor a loop of trio: it waits for signals.  Where muxd runs the proxy, muxd does it: see proxy_pool.
"""

import logging
import os
import signal
import socket
import sys
import tempfile
import time
from pathlib import Path

from muxd.config import Config
from muxd.errors import EXHAUSTED, ConfigError
from muxd.notify import Notifier
from muxd.pool_share import PoolShare, process_names, processes_of
from muxd.ports import CLIENTS, METRICS, listen_at, listen_beside
from muxd.shim.processes import PR_SET_PDEATHSIG, is_stopped, prctl

log = logging.getLogger(__name__)

#: Seconds of life after which the death of a process counts as the first in a row.
STABLE_AFTER = 30.0

#: Seconds that the wait before a new start grows to: 0, 1, 2, 4 ... 30.
BACKOFF_CAP = 30.0

#: Seconds between two looks; looks in a row that find a process stopped (SIGSTOP), or silent, before it is ended.
LOOK_INTERVAL = 2.0
STOPPED_LOOKS, SILENT_LOOKS = 2, 10

#: What each process is asked at its own socket, as muxd asks it where muxd runs the proxy.
_QUESTION = b"GET /health HTTP/1.1\r\nHost: proxy\r\n\r\n"

#: The exit status of a configuration that cannot be used: trying again would not help.
UNUSABLE = 2

#: For a parent that no service manager has started.
UNWATCHED = Notifier(None)

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)
_FIRST_DESCRIPTOR = 3  # of those that are passed, sd_listen_fds(3)


def run_processes(
    config: Config,
    path: Path,
    passed: list[socket.socket],
    metrics: socket.socket | None,
    notifier: Notifier = UNWATCHED,
) -> int:
    """Run the proxy's processes until SIGTERM or SIGINT, and return an exit status.

    `path`: their configuration.  `passed`: clients' sockets from systemd.  `metrics`: the one for metrics, if any, for
    the first process.  Raises ConfigError where the number of sockets is wrong, and CannotListen.
    """
    count = processes_of(config.proxy.processes)
    listeners = _listeners(config, passed, count)
    with tempfile.TemporaryDirectory(prefix="muxd-proxy-") as folder:
        parent = ProxyParent(path, Path(folder), listeners, metrics, notifier)
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            return parent.run()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)


def _listeners(config: Config, passed: list[socket.socket], count: int) -> list[socket.socket]:
    if not passed:
        first = listen_at(config.proxy.host, config.proxy.port)
        return [first, *(listen_beside(first) for _ in range(count - 1))]
    if len(passed) != count:
        said = f"the proxy was passed {len(passed)} sockets and has {count} processes ([proxy] processes)"
        raise ConfigError([f"{said}: its socket unit needs ReusePort=yes and {count} lines ListenStream=, all alike"])
    return passed


class ProcessLife:
    """A process by its number, and how it has lived."""

    def __init__(self) -> None:
        self.pid = 0  # 0: none runs
        self.began = 0.0
        self.deaths = 0  # in a row
        self.start_at = 0.0  # monotonic
        self.asked: socket.socket | None = None  # a connection to it, with a question that it has not answered
        self.silent = 0  # looks in a row at which it had not answered

    def answers(self, path: Path) -> bool:
        """Return whether it has answered since the last look, or could not be asked for want of a descriptor.

        It is asked anew where it has, or was not.
        """
        answered = False
        try:
            if self.asked is not None:
                answered = bool(self.asked.recv(1 << 12))
                self.forget()
            self.asked = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            self.asked.connect(os.fspath(path))
            self.asked.send(_QUESTION)
        except BlockingIOError:  # no answer yet
            pass
        except OSError as error:
            self.forget()
            return answered or error.errno in EXHAUSTED  # else it does not listen yet
        return answered

    def forget(self) -> None:
        if self.asked is not None:
            self.asked.close()
        self.asked = None


class ProxyParent:
    """The processes, by their numbers from 1 on."""

    def __init__(
        self,
        path: Path,
        folder: Path,
        listeners: list[socket.socket],
        metrics: socket.socket | None,
        notifier: Notifier,
    ) -> None:
        """Take the configuration's path, the folder that the processes share, and their sockets."""
        self._notifier = notifier
        self._path = path
        self._folder = folder
        self._listeners = listeners
        self._metrics = metrics
        self._names = process_names(len(listeners))
        self._places = {number: ProcessLife() for number in range(1, len(listeners) + 1)}
        self._is_stopping = False
        self._status = 0
        self._look_at = time.monotonic() + LOOK_INTERVAL

    def run(self) -> int:
        while not self._is_stopping or any(place.pid for place in self._places.values()):
            self._notifier.watchdog()  # while requests in flight finish, too: they may take long
            wait = LOOK_INTERVAL if self._is_stopping else min(self._start_due() or LOOK_INTERVAL, self._look())
            found = signal.sigtimedwait(_SIGNALS, min(wait, self._notifier.watchdog_interval or wait))
            if found is not None and found.si_signo != signal.SIGCHLD:
                self._stop()
            self._reap()
        log.info("all processes of the proxy have stopped")
        return self._status

    def _start_due(self) -> float:
        """Start the processes that are due; return the seconds until the next one is, 0 for none."""
        now = time.monotonic()
        waiting = []
        for number, place in self._places.items():
            if not place.pid and place.start_at <= now:
                place.pid, place.began = self._start(number), now
            elif not place.pid:
                waiting.append(place.start_at - now)
        return min(waiting, default=0.0)

    def _look(self) -> float:
        """Look at the processes, where that is due, and end the silent ones; return the seconds until the next look."""
        now = time.monotonic()
        if now < self._look_at:
            return self._look_at - now
        for number, place in self._places.items():
            if place.pid:
                answers = place.answers(PoolShare(number, len(self._places), self._folder).socket())
                place.silent = 0 if answers else place.silent + 1
                is_over = place.silent >= SILENT_LOOKS or (place.silent >= STOPPED_LOOKS and is_stopped(place.pid))
                if is_over:
                    silence = place.silent * LOOK_INTERVAL
                    log.error("%s has not answered for %g s: ending it", self._names[number - 1], silence)
                    os.kill(place.pid, signal.SIGKILL)
        self._look_at = now + LOOK_INTERVAL
        return LOOK_INTERVAL

    def _start(self, number: int) -> int:
        share = ("--process", f"{number}/{len(self._places)}", "--pool", str(self._folder))
        argv = [sys.executable, "-m", "muxd", "proxy", "--config", str(self._path), *share]
        sockets = [(CLIENTS, self._listeners[number - 1])]
        if number == 1 and self._metrics is not None:
            sockets.append((METRICS, self._metrics))
        if pid := os.fork():
            return pid
        try:
            _become(argv, sockets)
        finally:
            os._exit(127)

    def _stop(self) -> None:
        """Pass a signal on: the first lets requests in flight finish, the second does not."""
        self._is_stopping = True
        for place in self._places.values():
            if place.pid:
                os.kill(place.pid, signal.SIGTERM)

    def _reap(self) -> None:
        for number, place in self._places.items():
            if not place.pid:
                continue
            pid, status = os.waitpid(place.pid, os.WNOHANG)
            if pid:
                place.pid = place.silent = 0
                place.forget()
                self._note_death(self._names[number - 1], place, os.waitstatus_to_exitcode(status))

    def _note_death(self, name: str, place: ProcessLife, code: int) -> None:
        if self._is_stopping:
            return
        if code == UNUSABLE:
            self._status = UNUSABLE
            self._stop()
            return
        now = time.monotonic()
        place.deaths = 1 if now - place.began >= STABLE_AFTER else place.deaths + 1
        place.start_at = now + (0.0 if place.deaths <= 1 else min(BACKOFF_CAP, 2.0 ** min(place.deaths - 2, 5)))
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"exited with status {code}"
        log.error("%s %s: starting it again", name, how)


def _become(argv: list[str], sockets: list[tuple[str, socket.socket]]) -> None:
    """Be the process, in the child that was forked: its own group, its signals, its sockets, its environment."""
    os.setpgid(0, 0)  # ^C on a terminal is for the parent, which passes it on
    prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    copies = [os.dup(listener.fileno()) for _, listener in sockets]
    high = [os.dup2(copy, 100 + place) for place, copy in enumerate(copies)]  # out of the way of those that are passed
    for place, copy in enumerate(high):
        os.dup2(copy, _FIRST_DESCRIPTOR + place, inheritable=True)
    os.closerange(_FIRST_DESCRIPTOR + len(sockets), 4096)
    names = ":".join(name for name, _ in sockets)
    passed = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(len(sockets)), "LISTEN_FDNAMES": names}
    os.execve(argv[0], argv, {**os.environ, **passed})
