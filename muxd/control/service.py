"""What the control socket may ask of the supervisor."""

from pathlib import Path
from typing import Any, Protocol

import trio

from muxd.core.events import Verb, Waiting

Message = dict[str, Any]  # one JSON object


class ControlService(Protocol):
    """Nothing here waits but `reload`, for the disk, `metrics`, for the engines, and `unload`, for the core's decision.

    Every method may raise a MuxdError, which becomes the answer.
    """

    def version(self) -> Message: ...

    def status(self) -> Message: ...

    def proxy_settings(self) -> Message:
        """What a proxy must know of the configuration that runs: see muxd/config/proxy_settings.py."""
        ...

    async def metrics(self) -> bytes:
        """muxd's and its awake engines', in Prometheus' text format; takes up to 2.5 seconds."""
        ...

    def resolve(self, name: str) -> str:
        """A model's name or served name -> its name; raises ModelNotFound."""
        ...

    def model_status(self, name: str) -> Message: ...

    def switch(self, name: str) -> trio.MemoryReceiveChannel[Message]:
        """Progress, closed after `ready` or `failed`.  Dropping it does not cancel the switch."""
        ...

    def order(self, name: str, verb: Verb, *, now: bool = False) -> trio.MemoryReceiveChannel[Message]:
        """Progress, closed after `done` or `failed`.  Dropping it does not take the order back."""
        ...

    async def unload(self, name: str) -> Message:
        """A client has no more use of it: `sleeps` tells whether it is put to sleep, `reason` why not.

        Raises ShuttingDown.
        """
        ...

    async def reload(self, *, dry_run: bool = False) -> Message:
        """Read the configuration again and take it over, or only say what that would do; raises ConfigError."""
        ...

    def open_lease(self, name: str, waiting: tuple[Waiting, ...]) -> tuple[int, trio.MemoryReceiveChannel[Message]]:
        """The lease's number and its messages, closed when the lease is over."""
        ...

    def report_demand(self, lease: int, in_flight: int, waiting: tuple[Waiting, ...]) -> None:
        """Raises LeaseNotFound."""
        ...

    def close_lease(self, lease: int) -> None:
        """The holder is gone; of a lease that is over already, nothing happens."""
        ...

    def events(self, after: int | None, *, follow: bool) -> trio.MemoryReceiveChannel[Message]:
        """What happened after the event of that id, and with `follow` what happens from now on.

        Bounded: a reader that is too slow is told how much it missed.  Without `follow` the
        channel is closed after the last.
        """
        ...

    def log_of(self, name: str) -> tuple[dict[str, Path], Message | None]:
        """`stdout` and `stderr`, the newest file of each, and what the disk refused of both, if anything.

        Of a model, or of `proxy`, where no model has that name; raises ModelNotFound.
        """
        ...

    def shutdown(self) -> None: ...
