"""Whom a client's address counts for."""

import socket


def peer_of(address: str) -> str:
    """Return the peer behind an address: of IPv6 a network of 64 bits (RFC 6177), which one host can have whole."""
    try:
        packed = socket.inet_pton(socket.AF_INET6, address.partition("%")[0])
    except OSError:
        return address
    return address if packed[:12] == b"\0" * 10 + b"\xff\xff" else packed[:8].hex()
