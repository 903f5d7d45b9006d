"""The gate of an engine: where a server that was started ahead waits, before it takes memory, until it may go on."""

from collections.abc import Sequence
from typing import Protocol

from .engine_client import EngineClient


class LaunchGate(Protocol):
    """What an engine that has a gate is asked there; the client's address is the gate's, not the server's."""

    def flags(self, port: int) -> Sequence[str]:
        """Return the flags with which a server waits at a gate at this port."""
        ...

    async def is_reached(self, link: EngineClient) -> bool:
        """Say whether the server waits at its gate."""
        ...

    async def open(self, link: EngineClient) -> None:
        """Let the server go on; raise EngineCallFailed."""
        ...
