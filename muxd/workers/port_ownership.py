"""Checks whether a worker's own processes listen on its port, or a stranger does.

While a worker loads, its port is free for whoever binds it with SO_REUSEADDR, and its number can be read in
/proc/PID/cmdline: any user of the host may listen there first, to be told keys and prompts and to answer them.  No
reservation can keep the port from that user and leave it to the worker.  So muxd sends nothing to a worker before it
has seen the listening socket among the open files of the worker's own processes: the descendants of its shim, and its
cgroup.

Where a process of the worker belongs to another user, or is the client of a container engine or of a scheduler that
runs the server elsewhere on this host, or where the engine says that it may run elsewhere, the socket's owner cannot be
seen.  There a listener of root or of muxd's own user is trusted, and no listener at all is needed where the kernel
forwards the port to a container.
"""

import os
import sys
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from socket import inet_aton

from muxd.config.command_lines import CONTAINERS, Command
from muxd.config.flags import flag
from muxd.engines.engine import Engine
from muxd.ports import HOST, PortTaken, holder_of
from muxd.shim.cgroup import cgroup_members
from muxd.shim.listening import Listening, all_listening
from muxd.shim.processes import GONE, descendants, has_any, look_up, program_of
from muxd.threads import in_thread

#: Programs that start a server which is not their descendant, by /proc/PID/comm.
CLIENTS = {"docker", "docker-compose", "nerdctl", "ctr", "podman", "podman-remote", "kubectl", "srun"}

#: Checks in a row that must see a stranger: a socket can change hands between the reads of two files of /proc.
LOOKS = 2

_V4 = f"{int.from_bytes(inet_aton(HOST), sys.byteorder):08X}"
_MAPPED = f"{'0' * 16}{int.from_bytes(bytes.fromhex('0000FFFF'), sys.byteorder):08X}{_V4}"

#: Addresses, as in /proc/net/tcp, whose listeners can answer at HOST; the first group with a listener gets connections.
_GROUPS = ({_V4, _MAPPED}, {"0" * 8}, {"0" * 32})


class PortOwnership:
    """Who listens on the port of one life of a worker; port 0: the port is not known yet and has to be found."""

    def __init__(self, port: int, shim: int, cgroup: str | None, engine: Engine) -> None:
        self.port = port
        self._engine = engine
        self._shim = shim
        self._cgroup = cgroup
        self._own: frozenset[int] = frozenset()  # inodes of the sockets by which the worker's own processes listen
        self._forwarded = False  # a container's port, which can be reached though nobody listens
        self._looked_at: frozenset[int] = frozenset()  # inodes of the host's listeners when `find` last searched
        self.is_guess = False  # the port that was found: another may be, once more of the worker listens
        self.ambiguous: set[int] = set()  # the ports among which it was last looked for
        self._strange = 0  # checks in a row that saw a stranger

    async def is_own(self) -> bool:
        """Say whether the worker itself listens on its port; raise PortTaken, naming who listens, and OSError."""
        sockets = answering(self.port)
        if not sockets:
            return self._forwarded
        if self._own == _inodes(sockets):
            return True
        if await in_thread(partial(self._holds, sockets)):
            self._own, self._strange = _inodes(sockets), 0
            return True
        self._strange += 1
        if self._strange >= LOOKS:
            holder = await in_thread(partial(holder_of, sockets))
            raise PortTaken(f"port {self.port} was taken by another process while the engine loaded: {holder}")
        return False

    def is_there(self) -> bool:
        """Say whether a socket by which the worker was seen to listen still listens; True where muxd cannot see."""
        try:
            return not self._own or bool(self._own & _inodes(answering(self.port)))
        except OSError:
            return True

    def is_taken(self) -> bool:
        """Say whether somebody else listens on the worker's port, and the worker itself does no more."""
        try:
            sockets = _inodes(answering(self.port))
        except OSError:
            return False
        return bool(self._own and sockets) and not self._own & sockets

    async def elsewhere(self) -> int | None:
        """Return another port on which the worker's server listens as its own command line says; None: none is seen.

        Raise OSError.
        """
        return await in_thread(self._elsewhere)

    async def find(self) -> int | None:
        """Return the port on which the worker's server listens, where nobody has said it; None: not seen yet.

        Raise OSError.  The search runs only when the host's listeners have changed since the last one.
        """
        ports = frozenset(socket.inode for socket in all_listening())
        if ports == self._looked_at:
            return None
        self._looked_at = ports
        return await in_thread(self._find)

    async def commands(self) -> list[Command]:
        """Return the worker's processes, those that listen at its port first; raise OSError."""
        return await in_thread(self._commands)

    def _holds(self, sockets: Iterable[Listening]) -> bool:
        pids = self._pids()
        if all(any(has_any(pid, {socket.name}) for pid in pids) for socket in sockets):
            return True
        return self._is_elsewhere(pids) and all(socket.uid in (0, os.geteuid()) for socket in sockets)

    def _is_elsewhere(self, pids: Iterable[int]) -> bool:
        is_outside = any(program_of(pid) in CLIENTS or not _can_look_into(pid) for pid in pids)
        return is_outside or self._engine.runs_elsewhere

    def _elsewhere(self) -> int | None:
        pids = self._pids()
        self._forwarded = any(program_of(pid) in CLIENTS for pid in pids)
        commands = self._commands()
        if any(command.listens or _mentions_port(command.words, self.port) for command in commands):
            return None
        listening = all_listening()
        for command in filter(self._engine.is_server, commands):
            port = self._engine.port_told(command)
            sockets = {socket.name for socket in listening if socket.port == port}
            if port is not None and sockets and has_any(command.pid, sockets):
                return port
        return None

    def _find(self) -> int | None:
        """Return the port that a server's own command line names; else the only port of the programs that listen.

        A part of a server may listen before the server does, for its own kind: that port is none to be asked.
        """
        commands, listening = self._commands(), all_listening()
        owned = {c.pid: {s.port for s in listening if s.name in _sockets(c.pid)} for c in commands}
        servers = list(filter(self._engine.is_server, commands))
        told = {c.pid: self._engine.port_told(c) for c in servers or commands if servers or _says_port(c.words)}
        for pid, port in told.items():
            is_outside = program_of(pid) in CONTAINERS and bool(answering(port or 0))
            if port in set().union(*owned.values()) or is_outside:
                return port
        if servers and any(told.values()):
            return None  # it does not listen yet
        heads = servers or [c for c in commands if owned[c.pid] and not owned.get(c.parent)]
        ports = set().union(*(owned[c.pid] for c in heads if not self._engine.are_parts(c.words[:1])))
        self.is_guess, self.ambiguous = True, ports
        return next(iter(ports)) if len(ports) == 1 else None

    def _commands(self) -> list[Command]:
        names = {socket.name for socket in answering(self.port)} if self.port else set()
        commands = []
        for pid in sorted(self._pids()):
            if (process := look_up(pid)) is not None:
                commands.append(Command(pid, process.ppid, _command_line(pid), _environ(pid), has_any(pid, names)))
        return sorted(commands, key=lambda command: not command.listens)

    def _pids(self) -> set[int]:
        below = {process.pid for process in descendants(self._shim)}
        return below | (cgroup_members(self._cgroup) if self._cgroup else set())


def answering(port: int) -> list[Listening]:
    """Return the listening sockets of which one would accept a connection to HOST at this port; raise OSError."""
    sockets = [socket for socket in all_listening() if socket.port == port]
    groups = ([socket for socket in sockets if socket.address in group] for group in _GROUPS)
    return next(filter(None, groups), [])


def _inodes(sockets: Iterable[Listening]) -> frozenset[int]:
    return frozenset(socket.inode for socket in sockets)


def _mentions_port(words: Sequence[str], port: int) -> bool:
    """Say whether a command line has the port as a word, or after a `=` or a `:`."""
    number = str(port)
    return any(word == number or word.endswith((f"={number}", f":{number}")) for word in words)


def _says_port(words: Sequence[str]) -> bool:
    return flag(words, ("--port",)) is not None


def _sockets(pid: int) -> set[str]:
    try:
        return {os.readlink(entry.path) for entry in os.scandir(f"/proc/{pid}/fd")}
    except GONE:
        return set()


def _environ(pid: int) -> dict[str, str] | None:
    try:
        text = Path(f"/proc/{pid}/environ").read_bytes().decode(errors="surrogateescape")
    except (*GONE, OSError):
        return None
    pairs = (entry.partition("=") for entry in text.split("\0") if entry)
    return {name: value for name, _, value in pairs}


def _command_line(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").rstrip("\0").split("\0")
    except GONE:
        return []


def _can_look_into(pid: int) -> bool:
    try:
        os.listdir(f"/proc/{pid}/fd")
    except PermissionError:
        return False
    except GONE:
        return True
    return True
