"""What one server allows its clients, each of them and all together."""

from typing import NamedTuple

from msgspec import Struct

KiB = 1 << 10

#: A connection may take up to this share longer than its timeouts: a thousand that came together would else be ended
#: together, 0.15 s in which nobody is answered.
SPREAD = 0.5


class Share(Struct, frozen=True):
    """The most that one peer may have."""

    connections: int
    pace: float  # per second: requests, where more have to wait, and new connections, where more are refused
    burst: float  # requests, and new connections, that may come in a row


class Standing(NamedTuple):
    """Who connects: all connections of one owner at one rank are one peer's."""

    owner: int = 0
    rank: int = 0  # see ServerLimits.reserved and .shares


class ServerLimits(Struct, frozen=True):
    """What one server allows its clients; sizes in bytes, times in seconds, see SPREAD."""

    max_head: int = 16 * KiB
    max_body: int = 64 * KiB
    head_timeout: float = 5.0  # from a connection, or a request's first byte, to the end of its head
    body_timeout: float = 30.0
    idle_timeout: float = 60.0  # between two requests
    write_timeout: float = 30.0  # a client that reads nothing for so long is dropped
    linger_timeout: float = 1.0  # after a refusal, so that the client reads it before it sees the close
    max_connections: int = 256
    reserved: tuple[int, ...] = ()  # connections beyond these, for each higher rank
    max_lingering: int = 64  # refused connections that may linger; further ones are closed at once
    shares: tuple[Share, ...] = ()  # of one peer, by its rank; a peer of a higher rank has no limit
    strangers: Share | None = None  # of all peers of rank 0 together
    upgrades: tuple[bytes, ...] = ()  # protocols to which a connection may be switched, see switch_protocol
