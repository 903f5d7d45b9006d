"""Addresses to listen at: which ones only this machine reaches, which ones collide, and how each is reached from here.

`ADVICE` is the message for an address that other machines reach while no API key is required.
"""

from ipaddress import IPv4Address, IPv6Address, ip_address

#: The rest of a message that begins with the address; `{}` is the alternative to an API key.
ADVICE = (
    "lets other machines in, and there is no API key: make one with `muxctl keys add NAME`, or {} "
    "if anybody may use the models"
)


def is_loopback(host: str) -> bool:
    """Say whether `host` is an address of 127.0.0.0/8, ::1, or localhost.

    Any other name is no loopback address: name servers, not muxd, decide what it stands for.
    """
    address = _address_or_name(host)
    return not isinstance(address, str) and address.is_loopback


def collide(host: str, other: str) -> bool:
    """Say whether two listeners with the same port cannot have these two hosts.

    That is so if the hosts are the same, or if one is the wildcard of the other's address family.  "::" is the wildcard
    of both families (Linux's default, without net.ipv6.bindv6only).
    """
    one, two = _address_or_name(host), _address_or_name(other)
    if one == two or IPv6Address("::") in (one, two):
        return True
    return IPv4Address("0.0.0.0") in (one, two) and not any(isinstance(host, IPv6Address) for host in (one, two))


def url_host(host: str) -> str:
    """Return the host part of a URL that reaches a local listener at `host`."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"[{host}]" if ":" in host else host


def _address_or_name(host: str) -> IPv4Address | IPv6Address | str:
    """Return the address of `host`, IPv4 where it is mapped into IPv6; for a name, except localhost, the name itself.

    Names are returned in lower case.
    """
    name = host.lower()
    try:
        address = ip_address("127.0.0.1" if name == "localhost" else name)
    except ValueError:
        return name
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped if mapped is not None else address
