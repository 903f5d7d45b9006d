"""Whether somebody waits for the answer to a request: its class, interactive or batch."""

from typing import Protocol

from muxd.http.request import Request
from muxd.proxy.answers import Refusal

#: The header by which a client says the class of its request.
CLASS_HEADER = b"x-muxd-class"

#: Values of OpenAI's "service_tier" that say that the request can wait.
_CAN_WAIT = (b'"flex"', b'"batch"')

_IS_BATCH = {b"batch": True, b"interactive": False}


class ClassedKey(Protocol):
    """What is to be known of a key."""

    is_batch: bool


def is_batch(request: Request, tier: bytes, api_key: ClassedKey | None) -> bool:
    """Return whether the request is batch: by its key, else its header, else `tier`; raise Refusal for another class.

    A key for batch has no interactive requests, whatever they say.
    """
    said = request.header(CLASS_HEADER)
    if said is not None and said.strip().lower() not in _IS_BATCH:
        raise Refusal(400, "invalid_class", 'x-muxd-class is neither "interactive" nor "batch"', param="x-muxd-class")
    if api_key is not None and api_key.is_batch:
        return True
    return _IS_BATCH[said.strip().lower()] if said is not None else tier in _CAN_WAIT
