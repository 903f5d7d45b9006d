"""What the server of a launch script was seen to be, and the models of a configuration completed with it.

A script's text tells only what is written plainly; its process tells the rest.  What was seen at a launch is kept in
the state folder by the digest of the script, and holds for the next launches of the same script.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from muxd.config.model_schema import DeclaredServer, Model, Script
from muxd.config.schema import Config
from muxd.core.ledger import in_order, shown_gpu
from muxd.engines.observed_server import ObservedServer
from muxd.errors import in_words
from muxd.own_files import UNREADABLE, put_aside, read, write

log = logging.getLogger(__name__)

#: In the state folder.
FILE = "scripts.json"

#: So many scripts are remembered: those that were seen last.
MOST = 500


class ObservedScripts:
    """What was seen, by the digest of its script; in memory and, where there is a folder, on disk."""

    def __init__(self, state_dir: Path | None = None) -> None:
        """Load what an earlier muxd saw; a damaged file is put aside."""
        self._path = state_dir / FILE if state_dir is not None else None
        self.known: dict[str, ObservedServer] = {}
        self.on_news: Callable[[], Awaitable[None]] | None = None  # until all go by it
        try:
            self.known = _decoded(read(self._path)) if self._path is not None else {}
        except FileNotFoundError:
            pass
        except UNREADABLE as error:
            assert self._path is not None
            put_aside(self._path, error)

    async def learn(self, digest: str, seen: ObservedServer) -> None:
        """Keep what was seen, and wait until all go by it; what cannot be written is logged."""
        if self.known.get(digest) == seen:
            return
        self.known.pop(digest, None)
        self.known[digest] = seen
        self.known = dict(list(self.known.items())[-MOST:])
        try:
            if self._path is not None:
                write(self._path, _encoded(self.known))
        except OSError as error:
            log.error("cannot write %s: %s; these scripts are looked at anew by the next muxd", FILE, in_words(error))
        if self.on_news is not None:
            await self.on_news()


def seen_before(state_dir: Path) -> dict[str, ObservedServer]:
    """Return what the last muxd saw; nothing where that cannot be read."""
    try:
        return _decoded(read(state_dir / FILE))
    except UNREADABLE:
        return {}


def _decoded(data: bytes) -> dict[str, ObservedServer]:
    """Decode the file; raise one of UNREADABLE."""
    stored = msgspec.json.decode(data, type=dict[str, dict[str, Any]])
    for server in stored.values():
        if isinstance(gpus := server.get("gpus"), list):
            server["gpus"] = list(map(str, gpus))
    return msgspec.convert(stored, dict[str, ObservedServer])


def _encoded(known: Mapping[str, ObservedServer]) -> bytes:
    """Encode the file, with indices of GPUs as numbers: so every muxd reads them."""
    stored = msgspec.to_builtins(known)
    for server in stored.values():
        if "gpus" in server:
            server["gpus"] = list(map(shown_gpu, server["gpus"]))
    return msgspec.json.encode(stored)


def completed(config: Config, seen: Mapping[str, ObservedServer]) -> Config:
    """Complete models of scripts: for clients the table holds; for port, GPUs and sleep level the process does."""
    taken = {name: model.name for model in config.models for name in (model.name, *_said_names(model))}
    named = {gpu for model in config.models for gpu in _known_gpus(model, seen)}
    has_keys = bool(config.keys)
    models = tuple(_completed(model, model.script, seen, taken, named, has_keys=has_keys) for model in config.models)
    shared = tuple(in_order({gpu for m in models if m.script is not None and m.script.joint for gpu in m.gpus}))
    joint = (replace(m, gpus=shared) if m.script is not None and m.script.joint else m for m in models)
    return replace(config, models=tuple(joint))


def _known_gpus(model: Model, seen: Mapping[str, ObservedServer]) -> tuple[str, ...]:
    """Return the GPUs that a model names or was seen to use: one whose GPUs are not known keeps off all of them."""
    if model.script is None:
        return model.gpus
    found = seen.get(model.script.digest)
    return model.script.said.gpus + (found.gpus if found is not None else ())


def _said_names(model: Model) -> tuple[str, ...]:
    return model.script.said.names if model.script is not None else model.served_names


def _completed(
    model: Model,
    script: Script | None,
    seen: Mapping[str, ObservedServer],
    taken: dict[str, str],
    named: set[str],
    *,
    has_keys: bool,
) -> Model:
    if script is None:
        return model
    said = script.said
    found = seen.get(script.digest, _as_declared(said))
    named = named.intersection(said.there) if said.there else named
    script = replace(
        script,
        contradictions=tuple(_contradictions(said, found, has_keys=has_keys)),
        is_seen=script.digest in seen,
        knows_gpus=bool(said.gpus or found.gpus),
    )
    return replace(
        model,
        script=script,
        served_names=_names(model.name, said, found, taken),
        port=said.port if found.port in (0, said.port) else 0,
        gpus=_gpus(said, found, tuple(in_order({*said.every, *named}))),
        sleep_level=_level(said, found),
        args=("--is-embedding",) if found.is_embedding else (),
    )


def _as_declared(said: DeclaredServer) -> ObservedServer:
    """Return the server of a script that was never seen: it counts as what is declared of it."""
    is_embedding = "--is-embedding" in said.args
    return ObservedServer(port=said.port, gpus=said.gpus, sleep_level=said.sleep_level, is_embedding=is_embedding)


def _level(said: DeclaredServer, found: ObservedServer) -> int:
    """Return the table's level where the server's flags allow that, else what they allow."""
    if not said.level_by_table:
        return found.sleep_level
    return 0 if said.sleep_level == 0 and found.sleep_level < 3 else max(said.sleep_level, found.sleep_level)


def _names(name: str, said: DeclaredServer, found: ObservedServer, taken: dict[str, str]) -> tuple[str, ...]:
    """Return the table's names; else those that the script says, and what the server calls itself."""
    if said.names_by == "table":
        return said.names
    learnt = [found.model, found.served] if said.names_by == "" or _other_model(said, found) else []
    learnt += [found.served] if found.served != found.model else []
    known = () if _other_model(said, found) else said.names
    for each in filter(None, learnt):
        taken.setdefault(each, name)  # one that is another model's already stays that one's
    return tuple(dict.fromkeys([*known, *(each for each in learnt if each and taken[each] == name)])) or (name,)


def _other_model(said: DeclaredServer, found: ObservedServer) -> bool:
    """Say whether the process has another model than the command line in the text."""
    return said.names_by == "flag" and bool(found.model) and found.model not in said.names


def _gpus(said: DeclaredServer, found: ObservedServer, every: tuple[str, ...]) -> tuple[str, ...]:
    if not said.gpus or not set(found.gpus) <= set(said.gpus):
        return found.gpus or every
    return said.gpus


def _contradictions(said: DeclaredServer, found: ObservedServer, *, has_keys: bool) -> Iterator[str]:
    if found.port and said.port not in (0, found.port):
        yield f"its server listens on port {found.port}, and {said.port_from} says {said.port}"
    if _other_model(said, found):
        yield f"its server has model {found.model}, and {said.names_from} says {said.names[0]}"
    if said.gpus and not set(found.gpus) <= set(said.gpus):
        used, named = (", ".join(gpus) for gpus in (found.gpus, said.gpus))
        yield f"its server uses GPU {used}, and its table says {named}"
    if said.level_by_table and _level(said, found) > said.sleep_level:
        flags = "--enable-memory-saver" + (" --enable-weights-cpu-backup" if said.sleep_level == 1 else "")
        yield f"its server was started without {flags}, which sleep_level = {said.sleep_level} needs"
    if has_keys and found.asks_key:
        yield "clients' keys end at the proxy, and its server asks for an --api-key of its own: remove it there"
