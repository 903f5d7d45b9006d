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
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from socket import inet_aton

from muxd.config.flags import flag_of
from muxd.ports import HOST, PortTaken, holder_of
from muxd.shim.cgroup import cgroup_members
from muxd.shim.listening import Listening, all_listening
from muxd.shim.processes import GONE, descendants, has_any, program_of
from muxd.threads import in_thread

#: Programs whose servers are no descendants of them, by /proc/PID/comm.
CLIENTS = {"docker", "docker-compose", "nerdctl", "ctr", "podman", "podman-remote", "kubectl", "srun"}

#: So many looks in a row must see a stranger: a socket can change hands between two files of /proc.
LOOKS = 2

#: A server that is not told its port takes this one.
SGLANG_PORT = 30000

#: A line of the file that --config names.  Nobody's has more bytes that matter.
_PORT = re.compile(r"^port\s*:\s*[\"']?([0-9]+)", re.MULTILINE)
LONGEST_CONFIG = 1 << 16

_V4 = f"{int.from_bytes(inet_aton(HOST), sys.byteorder):08X}"
_MAPPED = f"{'0' * 16}{int.from_bytes(bytes.fromhex('0000FFFF'), sys.byteorder):08X}{_V4}"

#: Addresses as in /proc/net/tcp at which HOST is answered; of those that listen, the first group gets the connection.
_GROUPS = ({_V4, _MAPPED}, {"0" * 8}, {"0" * 32})


class Listener:
    """At the port that one life of a worker is to listen on."""

    def __init__(self, port: int, shim: int, cgroup: str | None) -> None:
        self._port = port
        self._shim = shim
        self._cgroup = cgroup
        self._own: frozenset[int] = frozenset()  # inodes of what its own processes listen by
        self._forwarded = False  # it can be reached though nobody listens
        self._strange = 0  # looks in a row that saw a stranger

    async def is_own(self) -> bool:
        """Whether the worker can be asked now.  Raises PortTaken, naming who listens, and OSError."""
        sockets = answering(self._port)
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
            raise PortTaken(f"port {self._port} was taken by another process while the engine loaded: {holder}")
        return False

    def is_there(self) -> bool:
        """Whether what it was seen to listen by is still there; also where muxd cannot look."""
        try:
            return not self._own or bool(self._own & _inodes(answering(self._port)))
        except OSError:
            return True

    async def elsewhere(self) -> int | None:
        """Another port, on which a server of its own listens that nobody told of this one.  Raises OSError."""
        return await in_thread(self._elsewhere)

    async def command_lines(self) -> list[list[str]]:
        """Of its processes, that of the one that listens first."""
        return await in_thread(self._command_lines)

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
        if any(_names(words, self._port) for words in commands.values()):
            return None
        listening = all_listening()
        for pid, words in commands.items():
            port = _port_told(pid, words)
            sockets = {socket.name for socket in listening if socket.port == port}
            if port is not None and sockets and has_any(pid, sockets):
                return port
        return None

    def _command_lines(self) -> list[list[str]]:
        names = {socket.name for socket in answering(self._port)}
        pids = sorted(self._pids(), key=lambda pid: not has_any(pid, names))
        return [_words(pid) for pid in pids]

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


def _port_told(pid: int, words: list[str]) -> int | None:
    """The port of the SGLang server that runs with these words."""
    if not any("sglang" in word for word in words) or not {"sglang.launch_server", "serve"} & set(words):
        return None
    look_up = flag_of(words)
    text = look_up(("--port",))
    if text is None and (config := look_up(("--config",))):
        text = _port_in(Path(f"/proc/{pid}/cwd", config))
    if text is None:
        return SGLANG_PORT
    return int(text) if text.isascii() and text.isdigit() and len(text) < 6 else None


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
