"""Free ports that stay free for the one who asked."""

from muxd.ports import Reservation

#: Kept to the end of the test run: a port whose socket is closed may be the next one that the kernel gives to anybody.
_held: list[Reservation] = []


def free_port() -> int:
    """A port of 127.0.0.1 at which a server that sets SO_REUSEADDR can listen, as all of these tests' servers do.

    Nobody else gets it: it is bound here, and nobody listens.
    """
    _held.append(Reservation(0))
    return _held[-1].port
