"""Which process is at the other end of a control connection, and what it may do.

The socket file's mode and group decide who may connect; the peer's credentials, as the
kernel gives them, decide what each peer may do.
"""

import grp
import os
import pwd
import socket
import struct
from enum import Flag, auto

import trio
from msgspec import Struct

from muxd.config.schema import Config
from muxd.control.socket import group_id
from muxd.errors import ConfigError

_SO_PEERGROUPS = 59  # asm-generic/socket.h; the socket module has no name for it
_MOST_GROUPS = 256  # what one getsockopt of Python returns


class Right(Flag):
    READ = auto()
    OPERATE = auto()  # switch, shutdown
    LEASE = auto()
    ALL = READ | OPERATE | LEASE


class Peer(Struct, frozen=True):
    """A connected process, as it was when it connected."""

    pid: int
    uid: int
    groups: frozenset[int]  # its primary group too


def peer_of(connection: socket.socket | trio.socket.SocketType) -> Peer:
    """Return the peer of a connection, as the kernel knows it.

    Of a peer in more than 256 groups only the primary group counts.
    """
    pid, uid, gid = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    try:
        groups = connection.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, 4 * _MOST_GROUPS)
    except OSError:
        groups = b""
    return Peer(pid, uid, frozenset((gid, *struct.unpack(f"{len(groups) // 4}I", groups))))


class Rights(Struct, frozen=True):
    """The access rule of one muxd.

    Root and muxd's own user may do everything; members of `admin_gid` may operate, and the user `proxy_uid` may hold
    leases.
    """

    own_uid: int
    admin_gid: int | None = None
    proxy_uid: int | None = None
    others_read: bool = True

    @classmethod
    def of_config(cls, config: Config) -> "Rights":
        """Return the rule that the configuration asks for.

        Raises ConfigError for a user or a group that does not exist.
        """
        daemon, proxy = config.daemon, config.proxy
        return cls(
            own_uid=os.geteuid(),
            admin_gid=group_id(daemon.admin_group) if daemon.admin_group else None,
            proxy_uid=_user_id(proxy.user) if proxy.user else None,
            others_read=daemon.others == "read",
        )

    def owns(self, peer: Peer) -> bool:
        return peer.uid in (0, self.own_uid)

    def of(self, peer: Peer) -> Right:
        if self.owns(peer):
            return Right.ALL
        rights = Right.READ if self.others_read else Right(0)
        if self.admin_gid in peer.groups:
            rights |= Right.READ | Right.OPERATE
        if peer.uid == self.proxy_uid:
            rights |= Right.READ | Right.LEASE
        return rights

    def way_to(self, right: Right) -> str:
        """Return the advice for a user who lacks this right."""
        if right is Right.LEASE:
            return "that is for muxd's proxy ([proxy] user)"
        if self.admin_gid is None:
            sudo = "use sudo, or be the user that muxd runs as"
            return f"{sudo}; to allow it to others set [muxd] admin_group to a group of theirs, and restart muxd"
        group = _group_name(self.admin_gid)
        return f"add your user to the group {group} (usermod -aG {group} USER, then log in again), or use sudo"


def user_name(uid: int) -> str:
    """Return a user's name, or the number where the system knows none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _group_name(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def _user_id(name: str) -> int:
    try:
        return pwd.getpwnam(name).pw_uid
    except KeyError:
        raise ConfigError([f"proxy.user: there is no user {name}"]) from None
