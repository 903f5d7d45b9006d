"""What the proxy is told of the models' servers: their engines state it, see muxd/engines/capabilities.py."""

from typing import Any

import msgspec


class EngineRoutes(msgspec.Struct, frozen=True, omit_defaults=True):
    """What servers of one engine answer, by what a model makes ("text", "embeddings")."""

    routes: dict[str, frozenset[str]]
    hints: dict[str, str] = {}  # how a model is started to make that, or to take "adapters", for messages
    fatal_error: str = ""  # what an answer says whose server has lost its engine's process, and ends
    by_first_name: bool = False  # a server is asked by the first of served_names, as the others may be newer than it

    @property
    def every(self) -> frozenset[str]:
        return frozenset().union(*self.routes.values())


class ModelCapabilities(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the server of one model can do."""

    engine: str = ""
    makes: str = ""  # a key of its engine's routes; "": not known
    max_model_len: int | None = None  # the longest text in tokens, as its flags say
    takes_adapters: bool = True  # whether it may be asked for LoRA adapters, as far as its flags say
    routes: frozenset[str] | None = None  # the only ones of its engine's that it answers; None: all
    answers: EngineRoutes | None = None  # None: nobody has told, and it may be asked anything


class ToldCapabilities(msgspec.Struct, frozen=True):
    """The table `capabilities` of the settings that muxd tells its proxy."""

    engines: dict[str, EngineRoutes] = {}
    models: dict[str, ModelCapabilities] = {}

    def of(self, model: str) -> ModelCapabilities:
        """Return what was told of a model."""
        told = self.models.get(model, ModelCapabilities())
        return msgspec.structs.replace(told, answers=self.engines.get(told.engine))


NOTHING_TOLD = ToldCapabilities()


def told_capabilities(table: Any) -> ToldCapabilities:
    """Return the table as it was told; one that is not understood tells nothing."""
    try:
        return msgspec.convert(table, ToldCapabilities)
    except msgspec.ValidationError:
        return NOTHING_TOLD
