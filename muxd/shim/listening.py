"""The TCP sockets that listen on this host: asked of the kernel by sock_diag(7), else read from /proc/net.

For sock_diag the kernel searches its table of listening sockets alone: 0.03 ms.  For /proc/net/tcp6 the kernel also
walks its whole table of connections, even an empty one: 3 to 25 ms, in which muxd does nothing else.
"""

from __future__ import annotations

import os
import socket
import struct
import sys
from contextlib import suppress
from itertools import takewhile

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_SOCK_DIAG, _BY_FAMILY, _DUMP, _ERROR, _DONE = 4, 20, 0x301, 2, 3  # linux/netlink.h, linux/sock_diag.h
_LISTENS = 1 << 10  # TCP_LISTEN, as a bit
_HEADER, _QUESTION, _ANSWER = struct.Struct("=IHHII"), struct.Struct("=BBBxI48x"), struct.Struct(">B3xH2x16s")
_OWNER, _OWNER_AT = struct.Struct("=II"), 64  # user and inode, and their offset in an answer
_PATIENCE = 1.0  # seconds
_READ = 64 << 10


class Listening:
    """A TCP socket that listens; `address` in the hexadecimal form of /proc/net/tcp (man 5 proc)."""

    __slots__ = ("address", "inode", "port", "uid")

    def __init__(self, address: str, port: int, uid: int, inode: int) -> None:
        self.address = address
        self.port = port
        self.uid = uid
        self.inode = inode

    @property
    def name(self) -> str:
        """Return the target of the socket's link in /proc/PID/fd."""
        return f"socket:[{self.inode}]"


def all_listening() -> list[Listening]:
    """Return the listening TCP sockets of all addresses and ports.  Raises OSError."""
    with suppress(OSError):  # this kernel has no sock_diag
        return list(asked())
    return list(read())


def asked() -> Iterator[Listening]:
    """Yield the listening sockets that the kernel lists by sock_diag(7).  Raises OSError."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC, _SOCK_DIAG) as kernel:
        kernel.settimeout(_PATIENCE)
        for family in (socket.AF_INET, socket.AF_INET6):
            question = _QUESTION.pack(family, socket.IPPROTO_TCP, 0, _LISTENS)
            kernel.send(_HEADER.pack(_HEADER.size + len(question), _BY_FAMILY, _DUMP, 0, 0) + question)
            for body in _messages(kernel):
                answered, port, address = _ANSWER.unpack_from(body)
                uid, inode = _OWNER.unpack_from(body, _OWNER_AT)
                yield Listening(_as_in_proc(address[: 4 if answered == socket.AF_INET else 16]), port, uid, inode)


def _messages(kernel: socket.socket) -> Iterator[bytes]:
    """Yield the bodies of the messages of one answer, to its end.  Raises OSError."""
    while True:
        data, at = kernel.recv(_READ), 0
        while at < len(data):
            size, kind, *_ = _HEADER.unpack_from(data, at)
            body = data[at + _HEADER.size : at + size]
            if kind == _DONE:
                return
            if kind == _ERROR:
                number = -struct.unpack_from("=i", body)[0]
                raise OSError(number, os.strerror(number))
            yield body
            at += (size + 3) & ~3


def _as_in_proc(address: bytes) -> str:
    """Return the hexadecimal form that /proc/net/tcp has of an address: words in the machine's byte order."""
    words = (address[at : at + 4] for at in range(0, len(address), 4))
    return "".join(f"{int.from_bytes(word, sys.byteorder):08X}" for word in words)


def read() -> Iterator[Listening]:
    """Yield the listening sockets that /proc/net/tcp and tcp6 name.  Raises OSError."""
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with suppress(FileNotFoundError), open(table, "rb") as file:  # tcp6 is missing without IPv6
            for row in _rows(file):
                address, _, port = row[1].decode().partition(":")
                yield Listening(address, int(port, 16), int(row[7]), int(row[9]))


def _rows(table: Iterable[bytes]) -> Iterator[list[bytes]]:
    """Yield the fields of the rows of listening sockets, and read no further.

    The kernel lists listening sockets first, and formats no more rows than are read.  The whole table, with the
    connections that a busy proxy has had in the last minute, takes 60 to 90 ms.
    """
    rows = (line.split() for line in table)
    next(rows, None)  # the titles
    return takewhile(lambda row: row[3] == b"0A", rows)
