"""The models that muxd has, with their settings and states, as of muxd's last word.

The catalogue starts with the models of the proxy's own configuration, so that a client gets "not now" instead of "no
such model" while muxd cannot be reached.
"""

import logging
from collections.abc import Callable
from time import monotonic, time
from typing import Any

import trio

from muxd.client import ControlClient
from muxd.config.load import config_from_supervisor
from muxd.config.model_capabilities import ModelCapabilities
from muxd.config.model_schema import Model
from muxd.config.schema import Config
from muxd.errors import MuxdError

from .requests.capabilities import EMBEDDINGS, TEXT, allowed
from .requests.edits import Edits
from .requests.ollama import untagged

log = logging.getLogger(__name__)

_RETRY = 0.25  # seconds between two attempts to reach muxd
_REFRESH_GAP = 0.1  # seconds between two reads of the status, at least, and from a model's move to one


class CatalogueEntry:
    """One model: its names, its settings, and its state as muxd last told it."""

    __slots__ = (
        "edits",
        "fatal_error",
        "makes",
        "max_model_len",
        "model",
        "name",
        "names",
        "renamed",
        "routes",
        "served_names",
        "state",
        "told",
        "url",
    )

    def __init__(self, model: Model, told: ModelCapabilities, state: str) -> None:
        self.model = model
        self.name = model.name
        self.served_names = model.served_names or (model.name,)
        self.names = (model.name, *(name for name in model.served_names if name != model.name))
        is_by_first = told.answers is not None and told.answers.by_first_name
        self.renamed = frozenset(self.names) - {self.served_names[0]} if is_by_first else frozenset()
        self.state = state
        self.url: str | None = None  # the worker's, while the model is ready
        self.edits = Edits(model.upstream_name, model.set_params, model.strip_params)
        self.told = told
        self.max_model_len = told.max_model_len
        self.fatal_error = told.answers.fatal_error.encode() if told.answers is not None else b""
        self.note_generation(is_generation=None)

    def note_generation(self, *, is_generation: bool | None) -> None:
        """Take over what the model's server said that it makes, text or vectors; what its flags said goes before."""
        self.makes = self.told.makes or {True: TEXT, False: EMBEDDINGS, None: ""}[is_generation]
        self.routes = allowed(self.told, self.makes)  # that it may be asked; None: any

    def adapter(self, asked: str) -> str:
        """Return the LoRA adapter in `asked`, a name NAME:ADAPTER that `find` took for this model; empty for none."""
        plain = untagged(asked)
        name, _, adapter = plain.rpartition(":")
        return adapter if asked not in self.names and plain not in self.names and name in self.names else ""

    def worker_name(self, asked: str) -> str:
        """Return the name to send to the worker for a client's `asked`; empty where the client's own name will do.

        A vLLM that runs since before a reload does not know the names that came with that; the first one it does.
        SGLang takes everything after the first colon for an adapter, so that a tag which is none must be removed.
        """
        if asked in self.renamed:
            return self.served_names[0]
        if ":" not in asked or (asked.count(":") == 1 and self.adapter(asked)):
            return ""
        adapter = self.adapter(asked)
        if self.model.any_name and not adapter and untagged(asked) not in self.names:
            return ""
        return f"{self.name}:{adapter}" if adapter else self.name


class Catalogue:
    """All models.  The task `run` keeps them up to date, and calls `told` with each configuration that muxd reports."""

    def __init__(self, control: ControlClient, config: Config, told: Callable[[Config], None]) -> None:
        self.connected = False
        self.lost_at = monotonic()  # when muxd was last there, or this proxy was started: then muxd is soon, too
        self.tried = trio.Event()  # set after the first attempt to reach muxd
        self._control = control
        self._on_config = told
        self._created = int(time())
        self._stale = trio.Event()
        self._reloaded = trio.Event()  # set on a reload, whose new model names must be known at once
        self._arrived = trio.Event()  # set where a model has become ready, or more than a model's state has changed
        self._complained = False  # the log has a warning of muxd's present absence
        self._states: dict[str, str] = {}
        self._replace_models(config)

    def _replace_models(self, config: Config) -> None:
        self._entries = {
            model.name: CatalogueEntry(
                model, config.capabilities.of(model.name), self._states.get(model.name, "unknown")
            )
            for model in config.models
        }
        served = {name: entry for entry in self._entries.values() for name in entry.served_names}
        self.by_name = self._entries | served  # by each name as it is written
        self._of_any_name = next((entry for entry in self._entries.values() if entry.model.any_name), None)

    def find(self, asked: str) -> CatalogueEntry | None:
        """Return the model that a client calls `asked`, by a served name or by muxd's name; None for no model.

        NAME:ADAPTER, SGLang's way to name a LoRA adapter, finds the model NAME.  The tag ":latest", which Ollama's
        clients may add to any name, is ignored.
        """
        if (entry := self.by_name.get(asked)) is not None:
            return entry
        return self._named(asked) or self.by_name.get(untagged(asked).rpartition(":")[0]) or self._of_any_name

    def find_tagged(self, asked: str) -> CatalogueEntry | None:
        """Return the model that an Ollama client calls `asked`: a tag other than ":latest" names another model."""
        return self._named(asked) or self._of_any_name

    def _named(self, asked: str) -> CatalogueEntry | None:
        return self.by_name.get(asked) or self.by_name.get(untagged(asked))

    def entries(self) -> list[CatalogueEntry]:
        """Return all models, in the order of the configuration."""
        return list(self._entries.values())

    def terms(self, name: str) -> Model:
        """Return the configuration of the model with muxd's name `name`; the defaults where a reload has removed it."""
        entry = self._entries.get(name)
        return entry.model if entry is not None else Model(name)

    def shown(self, name: str) -> str:
        """Return what clients call the model with muxd's name `name`: its first served name."""
        entry = self._entries.get(name)
        return entry.served_names[0] if entry is not None else name

    def ready(self) -> list[str]:
        """Return muxd's names of the models that are ready."""
        return [entry.name for entry in self._entries.values() if entry.state == "ready"]

    def card(self, entry: CatalogueEntry, served: str) -> dict[str, Any]:
        """Return the model object that GET /v1/models lists for the name `served`; its `root` is muxd's name."""
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

    # The task that keeps the catalogue up to date

    async def run(self) -> None:
        """Follow muxd's events until cancelled; set `tried` after the first attempt to reach muxd."""
        while True:
            try:
                async with self._control.events() as events, trio.open_nursery() as nursery:
                    await self._read_settings()  # after subscribing, so that no change is missed
                    await self._refresh()
                    self._note_connected()
                    nursery.start_soon(self._keep_fresh)
                    self.tried.set()
                    async for event in events:
                        self._take_event(event)
                    nursery.cancel_scope.cancel()
            except* MuxdError as errors:
                self._note_unreachable(errors)
            self.tried.set()
            await trio.sleep(_RETRY)

    def _take_event(self, event: dict[str, Any]) -> None:
        """Take over what an event says of a model's state; the status is read for all else."""
        is_move = event["type"] == "state" and "worker" not in event
        if is_move and (entry := self._entries.get(event["model"])) is not None:
            entry.state = self._states[entry.name] = event["to"]
            entry.url = entry.url if entry.state == "ready" else None
        if not is_move or event["to"] == "ready":
            self._arrived.set()
        if event["type"] == "reload":
            self._reloaded.set()
        self._stale.set()

    async def _keep_fresh(self) -> None:
        """Read the status after what changed; amid a switch muxd, and who waits for it, have better to do."""
        while True:
            await self._stale.wait()
            with trio.move_on_after(_REFRESH_GAP):
                await self._arrived.wait()
            self._stale, self._arrived = trio.Event(), trio.Event()
            if self._reloaded.is_set():
                self._reloaded = trio.Event()
                await self._read_settings()
            await self._refresh()
            with trio.move_on_after(_REFRESH_GAP):
                await self._reloaded.wait()

    async def _read_settings(self) -> None:
        """Replace the known models with those of muxd's running configuration, and call `told` with it."""
        config = config_from_supervisor(await self._control.proxy_settings(), {})
        self._replace_models(config)
        self._on_config(config)

    async def _refresh(self) -> None:
        self._take_states((await self._control.status())["models"])

    def _take_states(self, models: list[dict[str, Any]]) -> None:
        self._states = {model["name"]: model["state"] for model in models}
        urls = {model["name"]: model.get("url") for model in models}
        lengths = {model["name"]: model.get("max_model_len") for model in models}
        generating = {model["name"]: model.get("is_generation") for model in models}
        for entry in self._entries.values():
            entry.note_generation(is_generation=generating.get(entry.name))
            entry.state = self._states.get(entry.name, "unknown")
            entry.url = urls.get(entry.name)
            entry.max_model_len = lengths.get(entry.name) or entry.max_model_len

    def _note_connected(self) -> None:
        self.connected = True
        self._complained = False
        log.info("connected to muxd: %d models", len(self._entries))

    def _note_unreachable(self, errors: BaseExceptionGroup[MuxdError]) -> None:
        if self.connected:
            self.lost_at = monotonic()
        self.connected = False
        self._take_states([])  # the states were true under a muxd that is gone
        if not self._complained:
            self._complained = True
            log.warning("muxd is not there: %s", _first_error(errors))


def _first_error(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
