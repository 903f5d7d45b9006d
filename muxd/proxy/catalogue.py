"""The models muxd has, what is said of their requests, and their states, as of its last word.

From the start it knows what the proxy's own configuration says, so that a client is told "not
now" instead of "no such model" while muxd is away.
"""

import logging
from collections.abc import Callable, Iterable
from time import time
from typing import Any

import trio

from muxd.client import ControlClient
from muxd.config.load import config_from_supervisor
from muxd.config.schema import Config, Model
from muxd.errors import MuxdError

from .requests.capabilities import context_length, speaks_text
from .requests.edits import Edits
from .requests.ollama import untagged

log = logging.getLogger(__name__)

_RETRY = 0.25  # seconds between two attempts to reach muxd
_REFRESH_GAP = 0.1  # seconds between two reads of the status, at least


class CatalogueEntry:
    """One model."""

    __slots__ = ("edits", "max_model_len", "model", "name", "names", "served_names", "speaks_text", "state", "url")

    def __init__(self, model: Model, state: str) -> None:
        self.model = model
        self.name = model.name
        self.served_names = model.served_names or (model.name,)
        self.names = (model.name, *(name for name in model.served_names if name != model.name))
        self.state = state
        self.url: str | None = None  # of its worker, while it is ready
        self.edits = Edits(model.upstream_name, model.set_params, model.strip_params)
        self.speaks_text = speaks_text(model.args)
        self.max_model_len = context_length(model.args)

    def adapter(self, asked: str) -> str:
        """The LoRA adapter that is asked for by a name by which this model was found, NAME:ADAPTER; empty for none."""
        plain = untagged(asked)
        return "" if asked in self.names or plain in self.names else plain.rpartition(":")[2]

    def worker_name(self, asked: str) -> str:
        """What its worker must be asked for where a client calls it so; empty where the client's word will do.

        SGLang takes all that follows a first colon for an adapter, of whatever name: one that is no adapter has to go.
        """
        if ":" not in asked or (asked.count(":") == 1 and self.adapter(asked)):
            return ""
        adapter = self.adapter(asked)
        return f"{self.name}:{adapter}" if adapter else self.name


class Catalogue:
    """Kept by the task in `run`, which calls `told` with what muxd says anew of its configuration."""

    def __init__(self, control: ControlClient, config: Config, told: Callable[[Config], None]) -> None:
        self.connected = False
        self.tried = trio.Event()  # to reach muxd, once
        self._control = control
        self._told = told
        self._created = int(time())
        self._stale = trio.Event()
        self._reloaded = trio.Event()  # there may be models with other names: not to be known late
        self._complained = False  # once per absence
        self._states: dict[str, str] = {}
        self._take(config.models)

    def _take(self, models: Iterable[Model]) -> None:
        self._entries = {model.name: CatalogueEntry(model, self._states.get(model.name, "unknown")) for model in models}
        served = {name: entry for entry in self._entries.values() for name in entry.served_names}
        self._by_name = self._entries | served

    def find(self, asked: str) -> CatalogueEntry | None:
        """The model that a client calls so: by a served name, or by its own.

        SGLang's way to name a LoRA adapter of a model, NAME:ADAPTER, means the model; the tag ":latest", which Ollama's
        clients may add to any name, means nothing.
        """
        found = self.find_tagged(asked)
        return found or self._by_name.get(untagged(asked).rpartition(":")[0])

    def find_tagged(self, asked: str) -> CatalogueEntry | None:
        """The same for Ollama's clients, who mean another model by another tag than ":latest"."""
        return self._by_name.get(asked) or self._by_name.get(untagged(asked))

    def entries(self) -> list[CatalogueEntry]:
        return list(self._entries.values())

    def terms(self, name: str) -> Model:
        """What its configuration says of the model of that name; the defaults where it is gone meanwhile."""
        entry = self._entries.get(name)
        return entry.model if entry is not None else Model(name)

    def shown(self, name: str) -> str:
        """What clients call the model of that name: the first of its ids in the listing."""
        entry = self._entries.get(name)
        return entry.served_names[0] if entry is not None else name

    def ready(self) -> list[str]:
        """The names of the models that are ready."""
        return [entry.name for entry in self._entries.values() if entry.state == "ready"]

    def card(self, entry: CatalogueEntry, served: str) -> dict[str, Any]:
        """What GET /v1/models tells of a model under one of its names: an alias points to the model's own by `root`."""
        card = {
            "id": served,
            "object": "model",
            "created": self._created,
            "owned_by": "muxd",
            "permission": [],
            "root": entry.name,
            "parent": None,
            "state": entry.state,
        }
        return card if entry.max_model_len is None else {**card, "max_model_len": entry.max_model_len}

    # Its task

    async def run(self) -> None:
        """Stay in touch with muxd until cancelled; `tried` after the first attempt."""
        while True:
            try:
                async with self._control.events() as events, trio.open_nursery() as nursery:
                    await self._read_settings()  # after subscribing: no change falls between the two
                    await self._refresh()
                    self._found()
                    nursery.start_soon(self._keep_fresh)
                    self.tried.set()
                    async for event in events:
                        self._stale.set()
                        if event["type"] == "reload":
                            self._reloaded.set()
                    nursery.cancel_scope.cancel()
            except* MuxdError as errors:
                self._lost(errors)
            self.tried.set()
            await trio.sleep(_RETRY)

    async def _keep_fresh(self) -> None:
        while True:
            await self._stale.wait()
            self._stale = trio.Event()
            if self._reloaded.is_set():
                self._reloaded = trio.Event()
                await self._read_settings()
            await self._refresh()
            with trio.move_on_after(_REFRESH_GAP):
                await self._reloaded.wait()

    async def _read_settings(self) -> None:
        """What muxd runs with replaces what was known."""
        config = config_from_supervisor(await self._control.proxy_settings(), {})
        self._take(config.models)
        self._told(config)

    async def _refresh(self) -> None:
        self._take_states((await self._control.status())["models"])

    def _take_states(self, models: list[dict[str, Any]]) -> None:
        self._states = {model["name"]: model["state"] for model in models}
        urls = {model["name"]: model.get("url") for model in models}
        lengths = {model["name"]: model.get("max_model_len") for model in models}
        for entry in self._entries.values():
            entry.state = self._states.get(entry.name, "unknown")
            entry.url = urls.get(entry.name)
            entry.max_model_len = lengths.get(entry.name) or entry.max_model_len

    def _found(self) -> None:
        self.connected = True
        self._complained = False
        log.info("connected to muxd: %d models", len(self._entries))

    def _lost(self, errors: BaseExceptionGroup[MuxdError]) -> None:
        self.connected = False
        self._take_states([])  # what was true under a muxd that is gone
        if not self._complained:
            self._complained = True
            log.warning("muxd is not there: %s", _first(errors))


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
