"""What servers of several engines answer alike, for they copy OpenAI's API."""

from contextlib import suppress
from typing import Any

import trio

from .engine_client import EngineCallFailed, EngineClient

#: Seconds within which a ready server has to answer what it can do.
LENGTH_TIMEOUT = 1.0


async def length_of(link: EngineClient) -> int | None:
    """Return the context length that a server says in time, in tokens; None where it does not."""
    with trio.move_on_after(LENGTH_TIMEOUT), suppress(EngineCallFailed):
        return length_in(await link.ask("/v1/models"))
    return None


def length_in(answer: Any) -> int | None:
    """Return the context length of the first model in /v1/models, in tokens; the adapters' cards come after it.

    llama.cpp's server says as "n_ctx" how much one of its slots takes.
    """
    cards = answer.get("data") if isinstance(answer, dict) else None
    card = cards[0] if isinstance(cards, list) and cards and isinstance(cards[0], dict) else {}
    meta = card.get("meta")
    length = card.get("max_model_len", meta.get("n_ctx") if isinstance(meta, dict) else None)
    return length if type(length) is int and 0 < length < 1 << 40 else None
