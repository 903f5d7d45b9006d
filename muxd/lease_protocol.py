"""What a lease's holder tells muxd, as JSON on the control socket: the part that both ends share.

The proxy writes it (`muxd/client.py`), the control routes read it (`muxd/control/bodies.py`).
"""

from typing import Annotated

from msgspec import Meta, Struct

Count = Annotated[int, Meta(ge=0, le=1_000_000)]


class WaitingBody(Struct, frozen=True):
    """Requests of one key and priority that wait for a model."""

    key: Annotated[str, Meta(max_length=256)] = ""
    priority: Annotated[int, Meta(ge=-1_000_000, le=1_000_000)] = 0
    count: Count = 1
    oldest_s: Annotated[float, Meta(ge=0, le=1e9)] = 0.0  # that the oldest of them has waited
