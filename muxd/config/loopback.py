"""Where the proxy listens: which addresses only this machine reaches, and which are in each other's way.

And what is said where others reach one, and nobody is asked for a key.
"""

from ipaddress import IPv4Address, IPv6Address, ip_address

#: What ends the sentence that begins with the address.
ADVICE = (
    "lets other machines in, and there is no API key: make one with `muxctl keys add NAME`, or {} "
    "if anybody may use the models"
)


def is_loopback(host: str) -> bool:
    """An address of 127.0.0.0/8, ::1, or localhost.  What another name stands for is up to others: it is none."""
    address = _parsed(host)
    return not isinstance(address, str) and address.is_loopback


def collide(host: str, other: str) -> bool:
    """Nobody can listen at both with one port: they are the same, or one is every address of the other's kind.

    "::" is all of them, unless net.ipv6.bindv6only says otherwise.
    """
    one, two = _parsed(host), _parsed(other)
    if one == two or IPv6Address("::") in (one, two):
        return True
    return IPv4Address("0.0.0.0") in (one, two) and not any(isinstance(host, IPv6Address) for host in (one, two))


def _parsed(host: str) -> IPv4Address | IPv6Address | str:
    """A name but localhost stays one, in lower case."""
    name = host.lower()
    try:
        address = ip_address("127.0.0.1" if name == "localhost" else name)
    except ValueError:
        return name
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped if mapped is not None else address
