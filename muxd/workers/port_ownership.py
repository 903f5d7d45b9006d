"""Whose listener answers at a worker's port: its own processes', or a stranger's.

While a worker loads, its port is free for whoever binds it with SO_REUSEADDR, and its number can be read in
/proc/PID/cmdline: any user of the host may listen there first, to be told keys and prompts and to answer them.  No
reservation keeps it from that user and leaves it to the worker.  So a worker is asked nothing before the socket that
listens is seen among the open files of its own processes: the descendants of its shim, and its cgroup.

Where a process of the worker cannot be looked into (another user's), or is the client of a container engine or of a
scheduler that runs the server elsewhere on this host, that cannot be seen: there a listener of root or of muxd's own
user is believed, and none at all where the kernel forwards the port to a container.
"""

import os
import re
import sys
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from socket import inet_aton

from muxd.config.command_lines import CONTAINERS, DEFAULT_PORT, Command, CommandLine, NotKnown, flag, is_server
from muxd.config.flags import flag_of
from muxd.ports import HOST, PortTaken, holder_of
from muxd.shim.cgroup import cgroup_members
from muxd.shim.listening import Listening, all_listening
from muxd.shim.processes import GONE, descendants, has_any, look_up, program_of
from muxd.threads import in_thread

#: Programs whose servers are no descendants of them, by /proc/PID/comm.
CLIENTS = {"docker", "docker-compose", "nerdctl", "ctr", "podman", "podman-remote", "kubectl", "srun"}

#: So many looks in a row must see a stranger: a socket can change hands between two files of /proc.
LOOKS = 2

#: A line of the file that --config names.  Nobody's has more bytes that matter.
_PORT = re.compile(r"^port\s*:\s*[\"']?([0-9]+)", re.MULTILINE)
LONGEST_CONFIG = 1 << 16

_V4 = f"{int.from_bytes(inet_aton(HOST), sys.byteorder):08X}"
_MAPPED = f"{'0' * 16}{int.from_bytes(bytes.fromhex('0000FFFF'), sys.byteorder):08X}{_V4}"

#: Addresses as in /proc/net/tcp at which HOST is answered; of those that listen, the first group gets the connection.
_GROUPS = ({_V4, _MAPPED}, {"0" * 8}, {"0" * 32})


class PortOwnership:
    """At the port that one life of a worker is to listen on; 0: at whichever it will be found to."""

    def __init__(self, port: int, shim: int, cgroup: str | None) -> None:
        self.port = port
        self._shim = shim
        self._cgroup = cgroup
        self._own: frozenset[int] = frozenset()  # inodes of what its own processes listen by
        self._forwarded = False  # it can be reached though nobody listens
        self._looked_at: frozenset[int] = frozenset()  # inodes of all that listened when its port was last looked for
        self._strange = 0  # looks in a row that saw a stranger

    async def is_own(self) -> bool:
        """Whether the worker can be asked now.  Raises PortTaken, naming who listens, and OSError."""
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
        """Whether what it was seen to listen by is still there; also where muxd cannot look."""
        try:
            return not self._own or bool(self._own & _inodes(answering(self.port)))
        except OSError:
            return True

    async def elsewhere(self) -> int | None:
        """Another port, on which a server of its own listens that nobody told of this one.  Raises OSError."""
        return await in_thread(self._elsewhere)

    async def find(self) -> int | None:
        """Where a server of its own listens, for one that nobody told its port.  Raises OSError."""
        ports = frozenset(socket.inode for socket in all_listening())
        if ports == self._looked_at:
            return None
        self._looked_at = ports
        return await in_thread(self._find)

    async def commands(self) -> list[Command]:
        """Its processes, those that listen at its port first.  Raises OSError."""
        return await in_thread(self._commands)

    def _holds(self, sockets: Iterable[Listening]) -> bool:
        pids = self._pids()
        if all(any(has_any(pid, {socket.name}) for pid in pids) for socket in sockets):
            return True
        return self._is_elsewhere(pids) and all(socket.uid in (0, os.geteuid()) for socket in sockets)

    def _is_elsewhere(self, pids: Iterable[int]) -> bool:
        return any(program_of(pid) in CLIENTS or not _can_look_into(pid) for pid in pids)

    def _elsewhere(self) -> int | None:
        pids = self._pids()
        self._forwarded = any(program_of(pid) in CLIENTS for pid in pids)
        commands = {pid: _words(pid) for pid in pids}
        if any(_names(words, self.port) for words in commands.values()):
            return None
        listening = all_listening()
        for pid, words in commands.items():
            port = port_told(pid, words) if is_server(words) else None
            sockets = {socket.name for socket in listening if socket.port == port}
            if port is not None and sockets and has_any(pid, sockets):
                return port
        return None

    def _find(self) -> int | None:
        """That of a server that says so itself; else the only one there is."""
        commands = self._commands()
        owned = {c.pid: {s.port for s in all_listening() if s.name in _sockets(c.pid)} for c in commands}
        every = set().union(*owned.values())
        servers = [command for command in commands if is_server(command.words)]
        for command in servers or commands:
            told = port_told(command.pid, command.words)
            is_outside = program_of(command.pid) in CONTAINERS and bool(answering(told or 0))
            says = bool(servers) or flag(command.words, ("--port",)) is not None
            if says and (told in every or is_outside):
                return told
        ports = set().union(*(owned[command.pid] for command in servers)) or every
        return ports.pop() if len(ports) == 1 else None

    def _commands(self) -> list[Command]:
        names = {socket.name for socket in answering(self.port)} if self.port else set()
        found = []
        for pid in sorted(self._pids()):
            if (process := look_up(pid)) is not None:
                found.append(Command(pid, process.ppid, _words(pid), _environ(pid), has_any(pid, names)))
        return sorted(found, key=lambda command: not command.listens)

    def _pids(self) -> set[int]:
        below = {process.pid for process in descendants(self._shim)}
        return below | (cgroup_members(self._cgroup) if self._cgroup else set())


def answering(port: int) -> list[Listening]:
    """The sockets of which one gets a connection to HOST at this port.  Raises OSError."""
    sockets = [socket for socket in all_listening() if socket.port == port]
    groups = ([socket for socket in sockets if socket.address in group] for group in _GROUPS)
    return next(filter(None, groups), [])


def _inodes(sockets: Iterable[Listening]) -> frozenset[int]:
    return frozenset(socket.inode for socket in sockets)


def _names(words: list[str], port: int) -> bool:
    """Whether a command line speaks of that port."""
    number = str(port)
    return any(word == number or word.endswith((f"={number}", f":{number}")) for word in words)


def port_told(pid: int, words: Sequence[str]) -> int | None:
    """The port of the server that runs with these words."""
    look_up = flag_of(words)
    if look_up(("--port",)) is None and (config := look_up(("--config",))):
        text = _port_in(Path(f"/proc/{pid}/cwd", config))
        return DEFAULT_PORT if text is None else int(text) if text and len(text) < 6 else None
    try:
        return CommandLine(words).port()
    except NotKnown:
        return None


def _port_in(config: Path) -> str | None:
    """None where its YAML does not say; "" where it cannot be read."""
    try:
        if not config.is_file():  # a pipe would keep us
            return ""
        with config.open("rb") as file:
            text = file.read(LONGEST_CONFIG).decode(errors="replace")
    except OSError:
        return ""
    found = _PORT.search(text)
    return found[1] if found else None


def servers_among(commands: Iterable[Command]) -> list[Command]:
    """Each once: what a server starts of its own kind is a part of it, and so are its nodes on this host.

    Parts that outlive a server that crashed have its command line, too.
    """
    found = {command.pid: command for command in commands if is_server(command.words)}
    heads = [c for c in found.values() if c.parent not in found and flag(c.words, ("--node-rank",)) in (None, "0")]
    return list({tuple(head.words): head for head in reversed(heads)}.values())[::-1]


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


def _words(pid: int) -> list[str]:
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
