"""Responses to the requests of Ollama's clients that ask for no text: the proxy answers them, so that no model wakes.

The proxy does not know what Ollama tells of its model files: sizes are 0, digests are zeros,
times are Go's zero, which Ollama's clients show as "Never".  The shapes are those of
github.com/ollama/ollama/blob/main/docs/api.md.
"""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, Protocol

from muxd import __version__

from .embeddings import EMBED, EMBEDDINGS, nothing

#: The body of the response to GET and HEAD /, by which a client finds out that a server is there.
ROOT = b"muxd is running"

_TAG = ":latest"  # Ollama's clients may add this tag to a name without one
_AWAKE = ("ready", "draining")
_NEVER = "0001-01-01T00:00:00Z"
_FOREVER = "9999-12-31T23:59:59Z"
_DIGEST = "0" * 64  # `ollama list` slices the first twelve characters, and crashes on a shorter digest


class ListedModel(Protocol):
    """A model of the catalogue, as far as the lists show it."""

    @property
    def name(self) -> str: ...
    @property
    def names(self) -> tuple[str, ...]: ...
    @property
    def served_names(self) -> tuple[str, ...]: ...
    @property
    def state(self) -> str: ...


def untagged(asked: str) -> str:
    """Return the name without the tag `:latest`, which has no meaning here."""
    return asked.removesuffix(_TAG)


def tags(entries: Iterable[ListedModel]) -> dict[str, Any]:
    """Return the response to GET /api/tags: every name that a client may use."""
    return {"models": [{**_card(name), "modified_at": _NEVER} for entry in entries for name in entry.names]}


def ps(entries: Iterable[ListedModel]) -> dict[str, Any]:
    """Return the response to GET /api/ps: the models that are awake, each by its first name."""
    awake = [entry.served_names[0] for entry in entries if entry.state in _AWAKE]
    return {"models": [{**_card(name), "expires_at": _FOREVER, "size_vram": 0} for name in awake]}


def show(served: str, *, speaks_text: bool) -> dict[str, Any]:
    """Return the response to POST /api/show; `served` is the name that clients use for the model."""
    return {
        "license": "",
        "modelfile": f"FROM {served}\n",
        "parameters": "",
        "template": "",
        "modified_at": _NEVER,
        "details": _details(served),
        "model_info": {"general.architecture": "unknown", "general.name": served},
        "capabilities": ["completion"] if speaks_text else ["embedding"],
    }


def done(asked: str, route: str, reason: str) -> dict[str, Any]:
    """Return the response to a request that asks only for a model to be loaded or unloaded; `reason` says which."""
    if route in (EMBED, EMBEDDINGS):
        return nothing(asked, route)
    empty = {"message": {"role": "assistant", "content": ""}} if route == "/api/chat" else {"response": ""}
    now = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    return {"model": asked, "created_at": now, **empty, "done": True, "done_reason": reason}


def version() -> dict[str, str]:
    """Return the response to GET /api/version: muxd's own version."""
    return {"version": __version__}


def _card(served: str) -> dict[str, Any]:
    return {"name": served, "model": served, "size": 0, "digest": _DIGEST, "details": _details(served)}


def _details(served: str) -> dict[str, Any]:
    family = served.rsplit("/", 1)[-1]
    return {
        "parent_model": "",
        "format": "sglang",
        "family": family,
        "families": [family],
        "parameter_size": "",
        "quantization_level": "",
    }
