"""Which addresses only this machine reaches; what is said where others do, and nobody is asked for a key."""

from ipaddress import IPv6Address, ip_address

#: What ends the sentence that begins with the address.
ADVICE = (
    "lets other machines in, and there is no API key: make one with `muxctl keys add NAME`, or {} "
    "if anybody may use the models"
)


def is_loopback(host: str) -> bool:
    """An address of 127.0.0.0/8, ::1, or localhost.  What another name stands for is up to others: it is none."""
    if host.lower() == "localhost":
        return True
    try:
        address = ip_address(host)
    except ValueError:
        return False
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return address.is_loopback
