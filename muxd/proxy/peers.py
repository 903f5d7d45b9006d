"""The peer that a client's address counts for."""

import socket


def peer_of(address: str) -> str:
    """Return the peer behind an address: for IPv6 its /64 network, which one host can have whole (RFC 6177)."""
    if ":" not in address:
        return address
    try:
        packed = socket.inet_pton(socket.AF_INET6, address.partition("%")[0])
    except OSError:
        return address
    return address if packed[:12] == b"\0" * 10 + b"\xff\xff" else packed[:8].hex()
