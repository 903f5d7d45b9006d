"""Free ports that stay free for the one who asked."""

import atexit
from contextlib import ExitStack

from muxd.ports import Reservation

#: Kept to the end of the test run: a port whose socket is closed may be the next one that the kernel gives to anybody.
_held = ExitStack()
atexit.register(_held.close)


def free_port() -> int:
    """A port of 127.0.0.1 at which a server that sets SO_REUSEADDR can listen, as all of these tests' servers do.

    Nobody else gets it: it is bound here, and nobody listens.
    """
    reservation = Reservation(0)
    _held.callback(reservation.close)
    return reservation.port
