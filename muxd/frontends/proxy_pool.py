"""The managed proxy: one process, or several at one address, each on a core of its own.

Every process has a listening socket of its own (see proxy_ports), a control session of its own, and its share of what
the limits allow; `pool_share` says what they share.
"""

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import trio

from muxd.children import Child, Children, Dropped
from muxd.config import Config
from muxd.http.keepalive_client import HttpClient
from muxd.left_behind import proxy_digest
from muxd.pool_share import PoolShare, make_pool_folder, process_names, processes_of
from muxd.saved_state import StateFile

from .proxy_child import ProxyChild
from .proxy_ports import ProxyPorts

log = logging.getLogger(__name__)


#: Seconds until a process that is replaced accepts no more: the new one serves by then, and the old one has re-claimed
#: the leases under which its requests run.
OVERLAP = 3.0


async def _see_off(child: Child, state: StateFile) -> None:
    """Let a process that is replaced finish what it has in flight, within the stop timeout that it was started with."""
    log.info("the proxy of an earlier muxd (%s) has other settings or another version: replaced", child.name)
    with trio.move_on_after(OVERLAP):
        await child.wait()
    child.stop()
    await child.wait()
    state.state.outgoing.pop(child.name, None)
    state.save()


def _free_name(name: str, taken: Collection[str]) -> str:
    """Return the name of a child for the process `name`, beside those that are still on their way out."""
    return next(
        free for free in (name, *(f"{name}.{number}" for number in range(2, len(taken) + 3))) if free not in taken
    )


class UnmanagedProxy:
    """The proxy with `[proxy] managed = false`: a service of its own, which muxd does not run."""

    def __init__(self, config: Config) -> None:
        self._config = config

    def status(self) -> dict[str, Any]:
        proxy = self._config.proxy
        return {"listen": f"{proxy.host}:{proxy.port}", "managed": False, "state": "unmanaged", "pid": None}

    def reconfigure(self, config: Config) -> None:
        self._config = config

    @property
    def log_teller(self) -> None:
        return None


class ProxyPool:
    """The proxy's processes, as children of muxd."""

    def __init__(
        self,
        config: Config,
        children: Children,
        state: StateFile,
        ports: ProxyPorts,
        left: Mapping[str, Child] | None = None,
        outgoing: Sequence[Child] = (),
    ) -> None:
        """Take the parts of all processes; `left` are those that an earlier muxd has started, and that go on.

        `outgoing` are others that it has started: they finish what they have in flight while new ones serve.

        Raises OSError where their folder cannot be made.
        """
        self.ports = ports
        self._state = state
        self._outgoing = outgoing
        taken = frozenset(child.name for child in outgoing)
        left = left or {}
        names = process_names(processes_of(config.proxy.processes))
        folder = config.daemon.state_dir / "proxy"
        if len(names) > 1 and not left:
            make_pool_folder(folder)
        self.processes = [
            ProxyChild(
                name,
                config,
                children,
                state,
                ports,
                PoolShare(number, len(names), folder) if len(names) > 1 else None,
                left.get(name),
                _free_name(name, taken),
            )
            for number, name in enumerate(names, 1)
        ]

    def status(self) -> dict[str, Any]:
        return {
            "listen": self.ports.listen,
            "managed": True,
            "state": self._state_of_all(),
            "reason": self.ports.trouble,
            "pid": next((each.pid for each in self.processes if each.pid is not None), None),
            "processes": [{"name": each.name, "state": each.state, "pid": each.pid} for each in self.processes],
            "dropped_log_bytes": self.dropped.bytes,
            "dropped_log_reason": self.dropped.why or None,
            "dropped_log_now": self.dropped.going_on,
        }

    def _state_of_all(self) -> str:
        """Return the state that all processes have; "degraded" where some run and others do not."""
        states = {each.state for each in self.processes}
        return states.pop() if len(states) == 1 else "degraded" if "running" in states else "backoff"

    def reconfigure(self, config: Config) -> None:
        """Set the configuration for the next starts; a running process asks muxd for changes of the models."""
        for each in self.processes:
            each.reconfigure(config)
        if any(each.state == "running" for each in self.processes):
            self._state.state.proxy_digest = proxy_digest(config)
            self._state.save()

    async def run(self, record: Callable[..., None], http: HttpClient) -> None:
        """Keep all processes running and answering until `stop`, and close their ports then."""
        async with trio.open_nursery() as nursery:
            for each in self.processes:
                nursery.start_soon(each.run, record, http, name=each.name)
            for child in self._outgoing:
                nursery.start_soon(_see_off, child, self._state, name=f"end of {child.name}")
        self.ports.close()

    async def stop(self, hurried: trio.Event) -> None:
        """Let each process finish its requests within its stop timeout, or until `hurried` is set, then kill it."""
        for child in self._outgoing:
            child.stop()
        async with trio.open_nursery() as nursery:
            for each in self.processes:
                nursery.start_soon(each.stop, hurried)

    @property
    def log_teller(self) -> "ProxyPool":
        return self

    @property
    def dropped(self) -> Dropped:
        """Return how much of the processes' output was lost since muxd started."""
        lost = Dropped()
        for each in self.processes:
            more = each.dropped
            lost = Dropped(lost.bytes + more.bytes, lost.why or more.why, lost.going_on or more.going_on)
        return lost

    @property
    def log_files(self) -> dict[str, Path]:
        """Return the log files by stream; those of several processes by process and stream."""
        if len(self.processes) == 1:
            return self.processes[0].log_files
        return {f"{each.name} {stream}": path for each in self.processes for stream, path in each.log_files.items()}
