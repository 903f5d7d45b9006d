"""The models muxd has and their states, as of its last word; and whether it can be reached.

From the start it knows the names in the configuration, so that a client is told "not now"
instead of "no such model" while muxd is away.
"""

import logging
from dataclasses import dataclass
from math import inf
from time import time
from typing import Any

import trio

from muxd.client import Client
from muxd.config.schema import Config, Model
from muxd.errors import MuxdError

log = logging.getLogger(__name__)

#: Of a model that nothing is known of.
DEFAULT_SWITCH_TIMEOUT = 600.0

_RETRY = 0.25  # seconds between two attempts to reach muxd
_REFRESH_GAP = 0.1  # seconds between two reads of the status, at least


@dataclass(frozen=True, slots=True)
class Entry:
    name: str
    served_names: tuple[str, ...]
    state: str
    switch_timeout: float


class Catalogue:
    """Kept by the task in `run`."""

    def __init__(self, control: Client, config: Config) -> None:
        self.connected = False
        self._control = control
        self._created = int(time())
        self._stale = trio.Event()
        self._urgent = trio.Event()  # there may be models with other names: not to be known late
        self._complained = False  # once per absence
        self._take([_configured(model) for model in config.models])

    def _take(self, entries: list[Entry]) -> None:
        self._entries = entries
        self._by_served_name = {served: entry for entry in entries for served in entry.served_names}
        self._names = {entry.name: entry.name for entry in entries}
        self._names |= {served: entry.name for served, entry in self._by_served_name.items()}

    def resolve(self, asked: str) -> str | None:
        """The name of the model that a client calls so: by a served name, or by its own."""
        return self._names.get(asked)

    def switch_timeout(self, name: str) -> float:
        """How long a request may wait for the model of that name, in seconds."""
        return next((entry.switch_timeout for entry in self._entries if entry.name == name), DEFAULT_SWITCH_TIMEOUT)

    def served_names(self) -> list[str]:
        return list(self._by_served_name)

    def shown(self, name: str) -> str:
        """What clients call the model of that name: the first of its ids in the listing."""
        return next((entry.served_names[0] for entry in self._entries if entry.name == name), name)

    def ready(self) -> list[str]:
        """The names of the models that are ready."""
        return [entry.name for entry in self._entries if entry.state == "ready"]

    def listing(self) -> dict[str, Any]:
        """GET /v1/models."""
        return {"object": "list", "data": [self._card(served) for served in self._by_served_name]}

    def card(self, asked: str) -> dict[str, Any] | None:
        """GET /v1/models/ID, by a served name or the model's own."""
        if asked in self._by_served_name:
            return self._card(asked)
        return next((self._card(entry.served_names[0]) for entry in self._entries if entry.name == asked), None)

    def _card(self, served: str) -> dict[str, Any]:
        return {
            "id": served,
            "object": "model",
            "created": self._created,
            "owned_by": "muxd",
            "permission": [],
            "root": served,
            "parent": None,
            "state": self._by_served_name[served].state,
        }

    # Its task

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Stay in touch with muxd until cancelled; `started` after the first attempt."""
        tried = False
        while True:
            try:
                async with self._control.events() as events, trio.open_nursery() as nursery:
                    await self._refresh()  # after subscribing: no change falls between the two
                    self._found()
                    nursery.start_soon(self._keep_fresh)
                    if not tried:
                        tried = True
                        task_status.started()
                    async for event in events:
                        self._stale.set()
                        if event["type"] == "reload":
                            self._urgent.set()
                    nursery.cancel_scope.cancel()
            except* MuxdError as errors:
                self._lost(errors)
            if not tried:
                tried = True
                task_status.started()
            await trio.sleep(_RETRY)

    async def _keep_fresh(self) -> None:
        while True:
            await self._stale.wait()
            self._stale = trio.Event()
            self._urgent = trio.Event()
            await self._refresh()
            with trio.move_on_after(_REFRESH_GAP):
                await self._urgent.wait()

    async def _refresh(self) -> None:
        """What muxd says of its models replaces what was known."""
        status = await self._control.status()
        self._take([_entry(model) for model in status["models"] if not model["removed"]])

    def _found(self) -> None:
        self.connected = True
        self._complained = False
        log.info("connected to muxd: %d models", len(self._entries))

    def _lost(self, errors: BaseExceptionGroup[MuxdError]) -> None:
        self.connected = False
        if not self._complained:
            self._complained = True
            log.warning("muxd is not there: %s", _first(errors))


def _configured(model: Model) -> Entry:
    return Entry(model.name, model.served_names or (model.name,), "unknown", model.switch_timeout)


def _entry(model: dict[str, Any]) -> Entry:
    timeout = model["switch_timeout_s"]
    names = tuple(model["served_names"]) or (model["name"],)
    return Entry(model["name"], names, model["state"], inf if timeout is None else timeout)


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
