"""One process of the managed proxy: muxd runs it as a child and starts it again when it dies; see proxy_pool.

muxd itself keeps the proxy's ports bound (see proxy_ports), so that clients queue, and are not refused, while a new
process starts.
"""

import logging
import sys
from collections.abc import Callable
from pathlib import Path

import trio

from muxd.children import Child, Children, ChildSpec, Dropped, own_environment
from muxd.config import Config
from muxd.config.loopback import url_host
from muxd.config.proxy_settings import write_for_proxy
from muxd.engines.engine_client import EngineCallFailed, EngineClient, open_http
from muxd.errors import MuxdError, in_words
from muxd.http.keepalive_client import HttpClient
from muxd.left_behind import proxy_digest
from muxd.log_names import log_files
from muxd.own_files import make_way
from muxd.pool_share import PoolShare
from muxd.saved_state import StateFile
from muxd.shim.processes import is_stopped
from muxd.threads import in_thread
from muxd.ticks import next_tick

from .proxy_ports import ProxyPorts

log = logging.getLogger(__name__)

#: Seconds that the wait before a new start grows to while the proxy dies again and again: 0, 1, 2, 4 ... 30.
BACKOFF_CAP = 30.0

#: The same while another process has the port: an attempt costs little, and the port may be free at any time.
PORT_BACKOFF_CAP = 5.0

#: Seconds of life after which the proxy's death counts as the first in a row.
STABLE_AFTER = 30.0

#: Seconds between two health probes, seconds that one may take, and failed probes in a row that end the proxy.
PROBE_INTERVAL = 5.0
PROBE_TIMEOUT = 5.0
PROBE_FAILURES = 3

#: Seconds between two looks at the proxy's state in /proc, and looks in a row that find it stopped before it is ended.
STATE_INTERVAL = 2.0
STATE_STOPPED = 2


class ProxyChild:
    """One process of the proxy as a child of muxd; without a `share` it is the only one."""

    def __init__(
        self,
        name: str,
        config: Config,
        children: Children,
        state: StateFile,
        ports: ProxyPorts,
        share: PoolShare | None = None,
        left: Child | None = None,
        child_name: str = "",
    ) -> None:
        """Take the parts of a process; `left` is one that an earlier muxd has started, and that goes on.

        `child_name`: of those that are started, where one that has `name` is still on its way out.
        """
        self.name = name
        self._child_name = child_name or name
        self._config = config
        self._children = children
        self._state = state
        self._share = share
        self.ports = ports
        self._settings = config.daemon.state_dir / f"{name.removeprefix('muxd-')}.toml"
        self._child = left
        self._dropped = Dropped()  # lost output of the former proxies
        self._misses = 0  # health probes in a row that were not answered
        self._stopping = trio.Event()
        self._stopped = trio.Event()

    @property
    def state(self) -> str:
        """Return one of running, unresponsive, stopped and backoff; the second until it is ended for that."""
        if self._child is None:
            return "stopped" if self._stopping.is_set() else "backoff"
        pid = self._child.pid
        return "unresponsive" if self._misses or (pid is not None and is_stopped(pid)) else "running"

    @property
    def pid(self) -> int | None:
        return self._child.pid if self._child is not None else None

    def reconfigure(self, config: Config) -> None:
        """Set the configuration for the next start; a running process asks muxd for changes of the models."""
        self._config = config

    async def run(self, record: Callable[..., None], http: HttpClient) -> None:
        """Keep a process running and answering until `stop`; `record` is called for every end not asked for."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch, http, name=f"health of {self.name}")
            nursery.start_soon(self._watch_state, name=f"state of {self.name}")
            await self._keep_running(record)
            nursery.cancel_scope.cancel()

    async def _watch(self, http: HttpClient) -> None:
        """Kill a process that does not answer PROBE_FAILURES times in a row, such as one stuck in its loop.

        The kernel chooses who of several answers at the clients' port: each is asked at a socket of its own.
        """
        if self._share is None:
            await self._probe(http, lambda: f"http://{url_host(self._config.proxy.host)}:{self.ports.port}")
        else:
            async with open_http(self._share.socket()) as own:
                await self._probe(own, lambda: "http://proxy")

    async def _probe(self, http: HttpClient, url: Callable[[], str]) -> None:
        while True:
            await trio.sleep(PROBE_INTERVAL)
            self._misses = 0 if self._child is None or await _answers(http, url()) else self._misses + 1
            if self._misses >= PROBE_FAILURES and self._child is not None:
                log.error("%s has not answered %d times in a row: ending it", self._called, self._misses)
                self._child.kill()
                self._misses = 0

    async def _watch_state(self) -> None:
        """Kill a proxy that was stopped (SIGSTOP, a forgotten debugger), far sooner than the health probes would."""
        seen = 0
        while True:
            await next_tick(STATE_INTERVAL)
            child = self._child
            seen = seen + 1 if child is not None and child.pid is not None and is_stopped(child.pid) else 0
            if child is not None and seen == STATE_STOPPED:
                log.error("%s has been stopped (SIGSTOP) for %g s: ending it", self._called, seen * STATE_INTERVAL)
                child.kill()

    async def _keep_running(self, record: Callable[..., None]) -> None:
        in_a_row = 0
        if self._child is not None:
            log.info("%s was taken over from an earlier muxd", self._called)
        while self._child is not None or not self._stopping.is_set():
            began = trio.current_time()
            await self._run_once(record)
            in_a_row = 0 if trio.current_time() - began >= STABLE_AFTER else in_a_row + 1
            cap = BACKOFF_CAP if self.ports.trouble is None else PORT_BACKOFF_CAP
            with trio.move_on_after(0.0 if in_a_row <= 1 else min(cap, 2.0 ** min(in_a_row - 2, 5))):
                await self._stopping.wait()
        self._stopped.set()

    async def _run_once(self, record: Callable[..., None]) -> None:
        if self._child is None and not await self._start():
            return
        assert self._child is not None
        exit = await self._child.wait()
        self._dropped = self.dropped
        self._child = None
        self._state.state.proxies.pop(self.name, None)
        self._state.save()
        if not self._stopping.is_set():
            log.error("%s %s: starting it again; its log: %s", self._called, exit, self.log_files["stderr"])
            which = {} if self._share is None else {"process": self._share.number}
            record("proxy_exited", reason=str(exit), **which)

    async def _start(self) -> bool:
        """Start a proxy, unless it is to stop by then; return whether that was possible."""
        try:
            # may search all processes for a port's holder
            if not await in_thread(self.ports.bind) or self._stopping.is_set():
                return False
            make_way(self._settings)
            write_for_proxy(self._config, self._settings)
            self._child = self._children.spawn(self._spec())
        except (OSError, MuxdError) as error:
            log.error("cannot start %s: %s", self._called, in_words(error))
            return False
        self._state.state.proxies[self.name] = self._child.record
        self._state.state.proxy_digest = proxy_digest(self._config)
        self._state.save()
        return True

    async def stop(self, hurried: trio.Event) -> None:
        """Let the proxy finish its requests within its stop timeout, or until `hurried` is set, then kill it."""
        self._stopping.set()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._end_child, hurried)
            await self._stopped.wait()
            nursery.cancel_scope.cancel()

    async def _end_child(self, hurried: trio.Event) -> None:
        if self._child is not None:
            self._child.stop()
        await hurried.wait()
        if self._child is not None:
            self._child.kill()

    @property
    def _called(self) -> str:
        """Return what the log calls this process."""
        return "the proxy" if self._share is None else f"process {self._share.number} of the proxy"

    @property
    def dropped(self) -> Dropped:
        """Return how much of this process's output, and its predecessors', was lost since muxd started."""
        return self._dropped if self._child is None else self._child.dropped.after(self._dropped)

    @property
    def log_files(self) -> dict[str, Path]:
        return log_files(self._config.daemon.log_dir, self.name)

    def _spec(self) -> ChildSpec:
        argv = [sys.executable, "-m", "muxd", "proxy", "--config", str(self._settings)]
        if (share := self._share) is not None:
            argv += ["--process", f"{share.number}/{share.processes}", "--pool", str(share.folder)]
        files = self.log_files
        return ChildSpec(
            name=self._child_name,
            argv=tuple(argv),
            env=own_environment(),
            cwd=Path("/"),
            stdout=files["stdout"],
            stderr=files["stderr"],
            log_max_bytes=16 << 20,
            log_backups=2,
            stop_timeout=self._config.daemon.shutdown_timeout + 5.0,
            listen_fds=self.ports.descriptors(1 if self._share is None else self._share.number),
        )


async def _answers(http: HttpClient, url: str) -> bool:
    """Say whether the proxy answers its health route; True also where muxd has no file descriptor left to ask."""
    client = EngineClient(http, url, "", lambda _: None, call_timeout=PROBE_TIMEOUT, probe_timeout=PROBE_TIMEOUT)
    try:
        await client.ask("/health")
    except EngineCallFailed as error:
        return error.lacking
    return True
