"""What servers of several engines answer alike, for they copy OpenAI's API."""

from typing import Any


def length_in(answer: Any) -> int | None:
    """Return the context length of the first model in /v1/models, in tokens; the adapters' cards come after it."""
    cards = answer.get("data") if isinstance(answer, dict) else None
    length = cards[0].get("max_model_len") if isinstance(cards, list) and cards and isinstance(cards[0], dict) else None
    return length if type(length) is int and 0 < length < 1 << 40 else None
